"""requests' transport for calls whose answer decides something: bounded as a whole, and no answer mistaken.

`requests` bounds the wait for each piece of an answer, not their sum, and takes the first informational
response (RFC 9110 section 15.2) but 100 for the final one; the final one is then the next request's answer on
that connection. Here a call ends at its deadline (connection, TLS, headers and body), every informational
response is read past, and a connection with unread bytes is not used again.
"""

import contextlib
import errno
import http.client
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Protocol

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager

from bridge.web.addresses import Resolver, resolve
from bridge.web.deadlines import Deadline, Deadlines
from bridge.web.name_lookup import NameLookup

DEFAULT_CONNECT_SECONDS = 5.0
MAX_INFORMATIONAL_RESPONSES = 100
# what this process has run out of; it says nothing about the other side
OWN_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN})


class OpenSocket(Protocol):
    """Connects to one of a host's addresses; OSError if that fails. `is_plain`: without TLS."""

    def __call__(
        self,
        addresses: Sequence[str],
        port: int,
        *,
        is_plain: bool,
        connect_seconds: float,
        deadline: Deadline,
    ) -> socket.socket: ...


class Call:
    """One request under a deadline. `may_have_arrived`: its first byte may have been sent.

    `on_kept_connection`: over a connection that an earlier request has opened.
    """

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.may_have_arrived = False
        self.on_kept_connection = False


class BoundedAdapter(HTTPAdapter):
    """Sends one request per `call`. Thread-safe; made after the fork. No retries: the caller decides.

    With `reuses_connections` false each request has a connection of its own: what an earlier exchange has
    left over can't be its answer, whatever the server does.
    """

    def __init__(
        self,
        deadlines: Deadlines,
        *,
        max_hosts: int,
        max_connections: int,
        open_socket: OpenSocket | None = None,
        resolver: Resolver = resolve,
        reuses_connections: bool = True,
    ) -> None:
        self._deadlines = deadlines
        self._open_socket = open_socket or connect
        self._reuses_connections = reuses_connections
        self._running = threading.local()
        self._lookup = NameLookup(resolver, threads=min(max_hosts, max_connections))
        super().__init__(pool_connections=max_hosts, pool_maxsize=max_connections, max_retries=0)

    @contextmanager
    def call(self) -> Iterator[Call]:
        """Bound what this thread sends and reads inside. UnwatchedCallError if that can't be done."""
        with self._deadlines.begin() as deadline:
            self._running.call = call = Call(deadline)
            try:
                yield call
            finally:
                del self._running.call

    def close(self) -> None:
        """See HTTPAdapter; the threads that look names up end."""
        super().close()
        self._lookup.close()

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        """See HTTPAdapter."""
        super().init_poolmanager(connections, maxsize, block, **options)
        manager: PoolManager = self.poolmanager
        manager.pool_classes_by_scheme = _pool_classes(self)

    def connected(self, host: str, port: int, timeout: object, *, is_plain: bool) -> socket.socket:
        """Return a new connection that is under the call's deadline."""
        deadline: Deadline = self._running.call.deadline
        seconds = float(timeout) if isinstance(timeout, int | float) else DEFAULT_CONNECT_SECONDS
        addresses = self._lookup.addresses(host, port, deadline.remaining_seconds())
        opened = self._open_socket(
            addresses, port, is_plain=is_plain, connect_seconds=seconds, deadline=deadline
        )
        try:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            deadline.watch(opened)
        except OSError:
            opened.close()
            raise
        return opened

    def prepare(self, connection: HTTPConnection) -> None:
        """Open the connection or watch it, so that nothing but the request itself is left to be done."""
        call: Call = self._running.call
        if connection.sock is None:
            connection.connect()
        else:
            call.on_kept_connection = True
            call.deadline.watch(connection.sock)
        call.may_have_arrived = True

    def may_reuse(self, connection: socket.socket) -> bool:
        """Whether a connection that looks idle may be used again: select() does not see what TLS holds."""
        pending: Callable[[], int] = getattr(connection, "pending", lambda: 0)
        return self._reuses_connections and pending() == 0


def connect(
    addresses: Sequence[str], port: int, *, is_plain: bool, connect_seconds: float, deadline: Deadline
) -> socket.socket:
    """Connect to the first of the addresses that answers, none tried after the deadline."""
    del is_plain
    failure: OSError = OSError("the host's name has no address")
    for address in addresses:
        seconds = min(connect_seconds, deadline.remaining_seconds())
        try:
            return socket.create_connection((address, port), timeout=seconds)
        except OSError as error:
            failure = error
    raise failure


def own_shortage(error: BaseException) -> str | None:
    """Return what this process has run out of, if that is why the call failed; None if it is not."""
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in OWN_SHORTAGES:
            return os.strerror(cause.errno)
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
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


class _FinalResponse(http.client.HTTPResponse):
    """Reads past informational responses. 101 was not asked for: what follows it is no HTTP any more."""

    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self._socket = sock

    def begin(self) -> None:
        super().begin()
        for _ in range(MAX_INFORMATIONAL_RESPONSES):
            if self.status >= HTTPStatus.OK:
                return
            if self.status == HTTPStatus.SWITCHING_PROTOCOLS:
                raise http.client.HTTPException("the server switched protocols unasked")
            self.headers = self.msg = None  # type: ignore[assignment]  # not begun yet, to http.client
            super().begin()
        raise http.client.HTTPException("more informational responses than are read past")

    def close(self) -> None:
        self._end_use_if_unread()
        super().close()

    def _close_conn(self) -> None:
        self._end_use_if_unread()
        super()._close_conn()  # type: ignore[misc]  # not in typeshed

    def _end_use_if_unread(self) -> None:
        """Shut the connection down if bytes stand behind the answer: they go with this answer's buffer."""
        if self.fp is None:
            return
        with contextlib.suppress(OSError, ValueError):
            timeout = self._socket.gettimeout()
            self._socket.settimeout(0)
            try:
                is_unread = bool(self.fp.peek(1))
            finally:
                self._socket.settimeout(timeout)
            if is_unread:
                self._socket.shutdown(socket.SHUT_RDWR)


def _pool_classes(adapter: BoundedAdapter) -> dict[str, Any]:
    """Return urllib3's pools with connections that are opened and watched by `adapter`."""

    class Plain(HTTPConnection):
        response_class = _FinalResponse

        def _new_conn(self) -> socket.socket:
            return adapter.connected(self.host, self.port, self.timeout, is_plain=True)

        @property
        def is_connected(self) -> bool:
            return self.sock is not None and adapter.may_reuse(self.sock) and super().is_connected

        def request(self, *arguments: Any, **options: Any) -> None:
            adapter.prepare(self)
            super().request(*arguments, **options)

    class Secure(HTTPSConnection):
        response_class = _FinalResponse

        def _new_conn(self) -> socket.socket:
            return adapter.connected(self.host, self.port, self.timeout, is_plain=False)

        @property
        def is_connected(self) -> bool:
            return self.sock is not None and adapter.may_reuse(self.sock) and super().is_connected

        def request(self, *arguments: Any, **options: Any) -> None:
            adapter.prepare(self)
            super().request(*arguments, **options)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}
