"""What stands before SAP's services: HTTP Basic, HTML error pages, connections that die."""

import errno
import hmac
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import wraps

from flask import Response, jsonify, request

from sap_mock.faults import Faults
from sap_mock.traffic import (
    BrokenError,
    BusyError,
    DrippingError,
    DroppedConnectionError,
    ThrottledError,
    Traffic,
)

REALM = 'Basic realm="SAP NetWeaver Application Server [MOCKS4/100]"'
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, zero seconds
HANG_UP_POLL_SECONDS = 0.1
LONGEST_DRIP_SECONDS = 600.0
PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"
_PAGE = "<html><head><title>{title}</title></head><body><h1>{title}</h1><p>{text}</p></body></html>"


class Front:
    """Lets calls through to the SOAP and OData services, or ends them in one of SAP's ways."""

    def __init__(self, traffic: Traffic, user: str, password: str) -> None:
        self._traffic = traffic
        self._user = user
        self._password = password

    def guarded(self, view: Callable[..., Response]) -> Callable[..., Response]:
        """Wrap a view that takes the faults in force first; it may raise what Traffic raises."""

        @wraps(view)
        def call(**arguments: str) -> Response:
            try:
                with self._traffic.call() as faults:
                    if self._traffic.happens(faults.informational_rate):
                        send_raw(PROCESSING)
                    return self._authenticated(view, faults, arguments)
            except DroppedConnectionError:
                return dead_connection()
            except BusyError as busy:
                return _busy(busy.retry_after_seconds)
            except ThrottledError as throttled:
                return _throttled(throttled.retry_after_seconds)
            except DrippingError:
                drip_headers_until_hung_up()
                return dead_connection()
            except BrokenError:
                text = "The server encountered an unexpected condition."
                return html_page(500, "500 Internal Server Error", text)

        return call

    def _authenticated(
        self, view: Callable[..., Response], faults: Faults, arguments: dict[str, str]
    ) -> Response:
        given = request.authorization
        if given is None or given.type != "basic":
            return _unauthorized()
        user_fits = _same(given.get("username") or "", self._user)
        password_fits = _same(given.get("password") or "", self._password)
        if not (user_fits and password_fits):
            return _unauthorized()
        return view(faults, **arguments)


def dead_connection() -> Response:
    """Return an answer whose sending ends the TCP connection without a byte of HTTP."""
    return Response(_HangUp(request.environ.get("gunicorn.socket")), direct_passthrough=True)


class _HangUp(Iterator[bytes]):
    """gunicorn asks for the first piece before it sends any header; it gets a closed connection instead."""

    def __init__(self, connection: socket.socket | None) -> None:
        self._connection = connection

    def __next__(self) -> bytes:
        if self._connection is not None:
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            with suppress(OSError):  # the client may have been faster
                self._connection.shutdown(socket.SHUT_RDWR)
        raise ConnectionResetError(errno.ECONNRESET, "connection dropped on purpose")


def send_raw(content: bytes) -> None:
    """Write to the connection before the answer, or instead of it."""
    connection = request.environ.get("gunicorn.socket")
    if connection is not None:
        with suppress(OSError):  # the client has hung up
            connection.sendall(content)


def send_later(content: bytes, seconds: float) -> None:
    """Write to the connection after the answer: what nobody has asked for any more."""
    connection = request.environ.get("gunicorn.socket")
    if connection is None:
        return
    # a handle of its own: gunicorn may have closed the connection by then
    late = connection.dup()

    def send() -> None:
        with late, suppress(OSError):
            late.sendall(content)

    timer = threading.Timer(seconds, send)
    timer.daemon = True
    timer.start()


def drip_headers_until_hung_up() -> None:
    """Begin an answer whose headers do not end, a byte at a time."""
    connection = request.environ.get("gunicorn.socket")
    send_raw(b"HTTP/1.1 200 OK\r\nX-Long: ")
    deadline = time.monotonic() + LONGEST_DRIP_SECONDS
    while time.monotonic() < deadline and not _is_hung_up(connection):
        send_raw(b"x")
        time.sleep(HANG_UP_POLL_SECONDS)


def hold_until_hung_up(at_most_seconds: float) -> None:
    """Say nothing until the client has closed the connection, as a call does whose answer never comes."""
    connection = request.environ.get("gunicorn.socket")
    deadline = time.monotonic() + at_most_seconds
    while time.monotonic() < deadline and not _is_hung_up(connection):
        time.sleep(HANG_UP_POLL_SECONDS)


def _is_hung_up(connection: socket.socket | None) -> bool:
    if connection is None:
        return False
    readable, _, _ = select.select([connection], [], [], 0)
    if not readable:
        return False
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return True


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


def _unauthorized() -> Response:
    answer = html_page(401, "401 Unauthorized", "Logon failed.")
    answer.headers["WWW-Authenticate"] = REALM
    return answer


def _busy(retry_after_seconds: int | None) -> Response:
    answer = html_page(503, "503 Service Unavailable", "All work processes are busy.")
    if retry_after_seconds is not None:
        answer.headers["Retry-After"] = str(retry_after_seconds)
    return answer


def _throttled(retry_after_seconds: int) -> Response:
    """Answer as SAP API Management does when its spike arrest sets in: JSON, whatever was asked for."""
    answer = jsonify(
        fault={
            "faultstring": "Spike arrest violation. Allowed rate : MessageRate{capacity=1, period=Seconds}",
            "detail": {"errorcode": "policies.ratelimit.SpikeArrestViolation"},
        }
    )
    answer.status_code = 429
    answer.headers["Retry-After"] = str(retry_after_seconds)
    return answer


def html_page(status: int, title: str, text: str) -> Response:
    return Response(_PAGE.format(title=title, text=text), status, content_type="text/html; charset=utf-8")
