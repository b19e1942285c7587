"""One HTTP request to a partner's endpoint: bounded in time and bytes, no redirects, checked addresses.

`requests` bounds the wait for each piece of an answer, not their sum: webhooks.deadlines does that. Only its
transport is used: the cookies, redirects, proxies and defaults of its session are all unwanted here, and cost
more than the rest of a request.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager

from bridge.clock import Clock
from bridge.web.addresses import (
    ForbiddenAddressError,
    ForbiddenUrlError,
    Resolver,
    UnresolvableHostError,
    check_addresses,
    check_url,
    resolve,
)
from webhooks.deadlines import Deadline, DeadlinePassedError, Deadlines
from webhooks.retries import read_retry_after

CONNECT_TIMEOUT_SECONDS = 5.0
MAX_ANSWER_BYTES = 64 * 1024
READ_BYTES = 4096
MAX_HOSTS_POOLED = 100


@dataclass(frozen=True, slots=True)
class Answer:
    """What an attempt came to: `status` where the receiver answered, else the `error_class`.

    An answer that is not 2xx has both. `retry_after_seconds` is the receiver's wish, if it has one. `body` is
    how its body begins, up to MAX_ANSWER_BYTES.
    """

    status: int | None
    error_class: str | None
    retry_after_seconds: float | None = None
    body: bytes = b""

    @property
    def is_success(self) -> bool:
        return self.error_class is None


class Sender:
    """POSTs webhooks over pooled connections. Thread-safe; made after the fork."""

    def __init__(
        self,
        clock: Clock,
        *,
        timeout_seconds: float,
        allow_http_loopback: bool,
        max_connections: int,
        resolver: Resolver = resolve,
    ) -> None:
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._allow_http_loopback = allow_http_loopback
        self._resolver = resolver
        self._running = threading.local()
        self._deadlines = Deadlines(timeout_seconds)
        self._adapter = _Adapter(self, max_connections)
        # the public authorities; no environment has a say in it
        self._verify: bool | str = True

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send once; never raises for what the receiver, its name or the network does."""
        try:
            check_url(url, allow_http_loopback=self._allow_http_loopback)
        except ForbiddenUrlError:
            return Answer(None, "forbidden-url")
        with self._deadlines.begin() as deadline:
            self._running.deadline = deadline
            try:
                return self._exchange(url, body, headers, deadline)
            except (requests.RequestException, OSError, ValueError) as error:
                return Answer(None, "timeout" if deadline.has_passed else _class_of(error))
            finally:
                del self._running.deadline

    def close(self) -> None:
        self._adapter.close()

    def _exchange(self, url: str, body: bytes, headers: Mapping[str, str], deadline: Deadline) -> Answer:
        request = requests.PreparedRequest()
        request.method = "POST"
        request.prepare_url(url, None)
        request.headers = CaseInsensitiveDict({**headers, "Content-Length": str(len(body))})
        request.body = body
        timeout = (min(CONNECT_TIMEOUT_SECONDS, self._timeout_seconds), self._timeout_seconds)
        with self._adapter.send(
            request, stream=True, timeout=timeout, verify=self._verify, proxies={}
        ) as response:
            deadline.check()  # to http.client, headers that were cut off are complete
            answer = _answer_of(response, self._clock.now())
            return replace(answer, body=_read(response))

    def open_socket(self, host: str, port: int, *, plain: bool, connect_seconds: float) -> socket.socket:
        """Connect to one of the host's addresses, all of which have been checked."""
        addresses = self._resolver(host, port)
        check_addresses(addresses, allow_loopback=self._allow_http_loopback, only_loopback=plain)
        failure: OSError = UnresolvableHostError("the host's name has no address")
        for address in addresses:
            self._running.deadline.check()
            try:
                connected = socket.create_connection((address, port), timeout=connect_seconds)
            except OSError as error:
                failure = error
                continue
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.watch(connected)
            return connected
        raise failure

    def watch(self, connected: socket.socket) -> None:
        """Put the connection under the deadline of the request that this thread is at."""
        deadline: Deadline = self._running.deadline
        try:
            deadline.watch(connected)
        except DeadlinePassedError:
            connected.close()
            raise


class _Adapter(HTTPAdapter):
    """requests' transport over connections that the sender opens. No retries: the schedule has them."""

    def __init__(self, sender: Sender, max_connections: int) -> None:
        self._sender = sender
        super().__init__(pool_connections=MAX_HOSTS_POOLED, pool_maxsize=max_connections, max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **options)
        manager: PoolManager = self.poolmanager
        manager.pool_classes_by_scheme = _pool_classes(self._sender)


def _pool_classes(sender: Sender) -> dict[str, Any]:
    """urllib3's pools, with connections that are checked and watched by `sender`."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(sender, self, plain=True)

        def request(self, *arguments: Any, **options: Any) -> None:
            _watch_reused(sender, self)
            super().request(*arguments, **options)

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(sender, self, plain=False)

        def request(self, *arguments: Any, **options: Any) -> None:
            _watch_reused(sender, self)
            super().request(*arguments, **options)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _connect(sender: Sender, connection: HTTPConnection, *, plain: bool) -> socket.socket:
    timeout = connection.timeout
    seconds = float(timeout) if isinstance(timeout, int | float) else CONNECT_TIMEOUT_SECONDS
    return sender.open_socket(connection.host, connection.port, plain=plain, connect_seconds=seconds)


def _watch_reused(sender: Sender, connection: HTTPConnection) -> None:
    if connection.sock is not None:
        sender.watch(connection.sock)


def _answer_of(response: requests.Response, now: datetime) -> Answer:
    error_class = None if 200 <= response.status_code < 300 else "http-status"
    wish = read_retry_after(response.headers.get("Retry-After"), now) if error_class else None
    return Answer(response.status_code, error_class, wish)


def _read(response: requests.Response) -> bytes:
    """Read the body, so that the connection can be used again; the status has decided already.

    What has come until the time is over, or until it is too much, is what there is.
    """
    body = bytearray()
    with contextlib.suppress(Exception):
        while piece := response.raw.read1(READ_BYTES, decode_content=False):
            body += piece
            if len(body) > MAX_ANSWER_BYTES:
                response.raw.close()
                break
    return bytes(body)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what it wraps: requests and urllib3 hand the cause on in several ways."""
    seen: set[int] = set()
    pending = [error]
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        inner = (current.__cause__, current.__context__, getattr(current, "reason", None), *current.args)
        pending.extend(cause for cause in inner if isinstance(cause, BaseException))


def _class_of(error: BaseException) -> str:
    """Say in one word what went wrong; no text of the error, which may quote the receiver."""
    causes = list(_causes(error))
    for kind, name in (
        (ForbiddenAddressError, "forbidden-address"),
        (UnresolvableHostError, "unresolvable-host"),
        (DeadlinePassedError, "timeout"),
        (requests.exceptions.SSLError, "tls-failed"),
        (TimeoutError, "timeout"),
        (requests.Timeout, "timeout"),
        (ConnectionError, "connection-failed"),
        (requests.exceptions.InvalidURL, "forbidden-url"),
    ):
        if any(isinstance(cause, kind) for cause in causes):
            return name
    return "connection-failed" if isinstance(error, requests.ConnectionError) else "unreadable-answer"
