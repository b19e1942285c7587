"""Wakes the dispatcher when there is something to relay: NOTIFY after the commit, in a statement of its own.

Inside the accept transaction NOTIFY would take a lock that all committers of the cluster share. It is only a
doorbell: whoever listens polls as well, so a lost notification costs at most one poll interval.
https://www.postgresql.org/docs/current/sql-notify.html
"""

import contextlib
import selectors
import threading
from typing import Any, cast

import structlog
from sqlalchemy import Engine
from sqlalchemy.pool import PoolProxiedConnection

CHANNEL = "bridge_wake"
# for the webhooks service: deliveries are wanted that no event rings for
WEBHOOKS_CHANNEL = "bridge_webhooks_wake"
# Under load one NOTIFY stands for all commits of this time; a lone commit is not delayed by it.
MIN_GAP_SECONDS = 0.01
# A connection that died without a word is noticed by this.
CHECK_SECONDS = 60.0
MAX_RECONNECT_SECONDS = 5.0
_FIRST_RECONNECT_SECONDS = 0.1
_JOIN_SECONDS = 2.0

NOTIFY = "/* wake whoever waits */ NOTIFY {channel}"
LISTEN = "/* be woken when there is something to do */ LISTEN {channel}"
READ = "/* read what the server has sent by itself */ SELECT 1"

_log = structlog.get_logger(__name__)


class _OwnConnection:
    """A connection in autocommit beside the pool's: it never waits for the pool, nor uses a place in it."""

    def __init__(self, engine: Engine) -> None:
        self._proxied: PoolProxiedConnection = engine.pool.recreate().connect()
        self._driver = cast("Any", self._proxied.dbapi_connection)
        try:
            self._proxied.detach()
            self._driver.autocommit = True
        except BaseException:
            self.close()
            raise

    def execute(self, statement: str) -> None:
        cursor = self._driver.cursor()
        try:
            cursor.execute(statement)
        finally:
            cursor.close()

    def read(self) -> None:
        """Let the driver read what has come; it does so only while it reads an answer."""
        self.execute(READ)
        self._driver.notifications.clear()

    def wait_readable(self, timeout_seconds: float) -> bool:
        """Wait on the driver's socket, for which pg8000 has no public name."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._driver._usock, selectors.EVENT_READ)  # noqa: SLF001 - see above
            return bool(selector.select(timeout_seconds))

    def close(self) -> None:
        # A connection that is already dead fails at saying goodbye.
        with contextlib.suppress(Exception):
            self._proxied.close()


class Waker:
    """One per process. `wake()` returns at once; a daemon thread, started at first use, does the talking.

    It holds one connection of its own beside the pool's.
    """

    def __init__(self, engine: Engine, channel: str = CHANNEL) -> None:
        self._engine = engine
        self._statement = NOTIFY.format(channel=channel)
        self._wanted = threading.Event()
        self._closed = threading.Event()
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None
        self._connection: _OwnConnection | None = None

    def wake(self) -> None:
        """Ask for one NOTIFY; call it after the commit. It never blocks and never fails."""
        self._wanted.set()
        if self._thread is None or not self._thread.is_alive():
            self._start_thread()

    def close(self) -> None:
        """Send what is still wanted and end the thread."""
        self._closed.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(_JOIN_SECONDS)

    def _start_thread(self) -> None:
        with self._start:
            if self._closed.is_set() or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._run, name="waker", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        pending = True
        while pending:
            self._wanted.wait()
            self._wanted.clear()
            self._notify()
            pending = not self._closed.wait(MIN_GAP_SECONDS) or self._wanted.is_set()
        self._disconnect()

    def _notify(self) -> None:
        # The kept connection may have died since the last time: the second try has a new one.
        for is_last_try in (False, True):
            try:
                if self._connection is None:
                    self._connection = _OwnConnection(self._engine)
                self._connection.execute(self._statement)
            except Exception as error:  # noqa: BLE001 - drivers and connectors fail in many ways; a doorbell must not die
                self._disconnect()
                if is_last_try:
                    _log.warning("nobody was woken; the poll follows", reason=type(error).__name__)
            else:
                return

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class WakeListener:
    """Waits for wakes on a connection of its own; used by one thread."""

    def __init__(self, engine: Engine, channel: str = CHANNEL) -> None:
        self._engine = engine
        self._statement = LISTEN.format(channel=channel)
        self._connection: _OwnConnection | None = None
        self._reconnect_seconds = _FIRST_RECONNECT_SECONDS
        self._unchecked_seconds = 0.0

    def wait(self, timeout_seconds: float, stop: threading.Event) -> bool:
        """Return True when woken (or connected anew: something may have been missed), False after the time.

        Returns early only by a wake; `stop` cuts the pause after a failed connection short.
        """
        try:
            if self._connection is None:
                self._connection = _OwnConnection(self._engine)
                self._connection.execute(self._statement)
                self._reconnect_seconds = _FIRST_RECONNECT_SECONDS
                return True
            return self._wait_for_socket(self._connection, timeout_seconds)
        except Exception as error:  # noqa: BLE001 - drivers and connectors fail in many ways; a doorbell must not die
            _log.warning("wakes are lost until connected again", reason=type(error).__name__)
            self.close()
            stop.wait(min(self._reconnect_seconds, timeout_seconds))
            self._reconnect_seconds = min(self._reconnect_seconds * 2, MAX_RECONNECT_SECONDS)
            return False

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _wait_for_socket(self, connection: _OwnConnection, timeout_seconds: float) -> bool:
        is_readable = connection.wait_readable(timeout_seconds)
        self._unchecked_seconds += timeout_seconds
        if is_readable or self._unchecked_seconds >= CHECK_SECONDS:
            # Whatever else the driver has buffered by now was sent before the wake that this returns, and
            # its row committed before that: the round that follows sees it.
            connection.read()
            self._unchecked_seconds = 0.0
        return is_readable
