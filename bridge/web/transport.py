"""requests' transport for calls whose answer decides something: bounded as a whole, and no answer mistaken.

`requests` bounds the wait for each piece of an answer, not their sum, and takes the first informational
response (RFC 9110 section 15.2) but 100 for the final one; the final one is then the next request's answer on
that connection. Here a call ends at its deadline (connection, TLS, headers and body), every informational
response is read past, and a connection with unread bytes is not used again.
"""

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Protocol

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager

from bridge.web.deadlines import Deadline, Deadlines

DEFAULT_CONNECT_SECONDS = 5.0


class OpenSocket(Protocol):
    """Connects to a host; OSError if that fails. `is_plain`: without TLS."""

    def __call__(
        self, host: str, port: int, *, is_plain: bool, connect_seconds: float, deadline: Deadline
    ) -> socket.socket: ...


class Call:
    """One request under a deadline. `may_have_arrived`: its first byte may have been sent."""

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.may_have_arrived = False


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
        reuses_connections: bool = True,
    ) -> None:
        self._deadlines = deadlines
        self._open_socket = open_socket or connect
        self._reuses_connections = reuses_connections
        self._running = threading.local()
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

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        """See HTTPAdapter."""
        super().init_poolmanager(connections, maxsize, block, **options)
        manager: PoolManager = self.poolmanager
        manager.pool_classes_by_scheme = _pool_classes(self)

    def connected(self, host: str, port: int, timeout: object, *, is_plain: bool) -> socket.socket:
        """Return a new connection that is under the call's deadline."""
        deadline: Deadline = self._running.call.deadline
        deadline.check()
        seconds = float(timeout) if isinstance(timeout, int | float) else DEFAULT_CONNECT_SECONDS
        opened = self._open_socket(host, port, is_plain=is_plain, connect_seconds=seconds, deadline=deadline)
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
            call.deadline.watch(connection.sock)
        call.may_have_arrived = True

    def may_reuse(self, connection: socket.socket) -> bool:
        """Whether a connection that looks idle may be used again: select() does not see what TLS holds."""
        pending: Callable[[], int] = getattr(connection, "pending", lambda: 0)
        return self._reuses_connections and pending() == 0


def connect(
    host: str, port: int, *, is_plain: bool, connect_seconds: float, deadline: Deadline
) -> socket.socket:
    """Connect to the first of the host's addresses that answers, none tried after the deadline."""
    del is_plain
    failure: OSError = OSError("the host's name has no address")
    for family, kind, protocol, _name, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        deadline.check()
        try:
            opened = socket.socket(family, kind, protocol)
        except OSError as error:
            failure = error
            continue
        try:
            opened.settimeout(connect_seconds)
            opened.connect(address)
        except OSError as error:
            opened.close()
            failure = error
            continue
        return opened
    raise failure


class _FinalResponse(http.client.HTTPResponse):
    """Reads past informational responses. 101 was not asked for: what follows it is no HTTP any more."""

    def begin(self) -> None:
        super().begin()
        while 100 <= self.status < 200:
            if self.status == HTTPStatus.SWITCHING_PROTOCOLS:
                raise http.client.HTTPException("the server switched protocols unasked")
            self.headers = self.msg = None  # type: ignore[assignment]  # not begun yet, to http.client
            super().begin()


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
