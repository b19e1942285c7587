"""gunicorn's threaded worker, except that no thread waits for a peer.

gunicorn gives a connection to a thread as soon as it is accepted, so that as many slow senders as there are
threads stop everybody. Here the main loop receives whole requests and sends what a peer does not take at
once, and threads read and write memory. Peers have deadlines; when there is no room, the connection that has
waited longest makes place for a new one. docs/decisions/0021-no-thread-waits-for-a-peer.md
"""

import errno
import selectors
import socket
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

import structlog
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker

from bridge.errors import RejectedError
from bridge.threads import start_all
from bridge.web.arrival import Arrival
from bridge.web.connection import Connection, Phase
from bridge.web.outgoing import Outgoing
from bridge.web.refusals import RepeatedHeaderError, refusal, refusal_of, written
from bridge.web.single_headers import repeated_header

# From the beginning of a request to the end of its headers, and of its body.
HEAD_SECONDS = 10.0
BODY_SECONDS = 60.0
# For a peer to take an answer.
ANSWER_SECONDS = 30.0
# For a peer to read an answer that was given before everything it sent was read; a reset would take it away
# (RFC 9112 section 9.6).
LINGER_SECONDS = 2.0
# Parts of requests and answers in memory, of all connections together.
MAX_HELD_BYTES = 64 * 1024 * 1024
RECEIVE_BYTES = 256 * 1024
# Without accepting, after the process has run out of descriptors.
ACCEPT_PAUSE_SECONDS = 0.5
SWEEP_SECONDS = 0.5

_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_log = structlog.get_logger(__name__)


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """`_waiting` has the connections that no thread is at; only the main loop touches them."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._waiting: dict[Connection, None] = {}
        self._held_bytes = self._sent_away = 0
        self._accepts_again_at = self._swept_at = 0.0
        super().__init__(*arguments, **options)

    @property
    def worker_connections(self) -> int:
        """How many gunicorn lets in: one more than there are, while one that waits can make place for it."""
        if time.monotonic() < self._accepts_again_at:
            return 0
        return max(self._limit, self.nr_conns + 1) if self._waiting else self._limit

    @worker_connections.setter
    def worker_connections(self, value: int) -> None:
        """Set by gunicorn to what is configured."""
        self._limit = value

    def get_thread_pool(self) -> futures.ThreadPoolExecutor:
        """Start every thread now: one that can't be started later would end the worker."""
        pool: futures.ThreadPoolExecutor = super().get_thread_pool()
        start_all(pool, self.cfg.threads)
        return pool

    # In a thread

    def handle(self, conn: Connection) -> bool:
        """Answer a request that has arrived; return whether another may follow."""
        is_kept = super().handle(conn)
        try:
            conn.sock.flush()
        except OSError:
            return False
        return bool(is_kept)

    def handle_request(self, req: Any, conn: Connection) -> bool:
        """See gunicorn."""
        name = repeated_header(req.headers)
        if name is not None:
            raise RepeatedHeaderError(name)
        # the main loop has said 100 Continue where it was waited for
        req._expected_100_continue = False  # noqa: SLF001 - gunicorn has no public name for it
        if conn.arrival.is_cut:
            req.force_close()
        return bool(super().handle_request(req, conn))

    def handle_error(self, req: Any, client: Outgoing, addr: Any, exc: Exception) -> None:  # noqa: ARG002 - gunicorn's signature
        """Answer what can't be read with a problem (RFC 9457), as all else is answered."""
        problem = refusal_of(exc)
        if client.pending_bytes:
            # the rest of a request that is answered; the peer would take a second answer for the next one's
            _log.info("connection ends behind a bad body", reason=type(exc).__name__)
            return
        if problem.status == 500:
            _log.error("request not handled", exc_info=exc)
        else:
            _log.info("request refused", status=problem.status, reason=type(exc).__name__)
        client.sendall(written(problem))

    # In the main loop

    def accept(self, listener: socket.socket) -> None:
        """Take a connection, and with luck its first request at once."""
        if self.nr_conns >= self._limit:
            self._make_place()
        try:
            peer, client = listener.accept()
        except OSError as error:
            if error.errno in _OUT_OF_DESCRIPTORS:
                _log.warning("no descriptor for a connection", error=errno.errorcode[error.errno])
                self._make_place()
                self._accepts_again_at = time.monotonic() + ACCEPT_PAUSE_SECONDS
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK):
                raise
            return
        conn = Connection(self.cfg, peer, client, listener.getsockname())
        self.nr_conns += 1
        self._wait(conn, Phase.IDLE, float(self.cfg.keepalive))
        self._ready(conn)

    def finish_request(self, conn: Connection, fs: "futures.Future[bool]") -> None:
        """Go on with a connection that a thread is done with."""
        is_kept = fs.exception() is None and fs.result()
        self._answer(conn, self._next if is_kept else self._end)

    def _next(self, conn: Connection) -> None:
        """Wait for another request; what has been sent ahead of its turn is the beginning of it."""
        ahead = conn.parser.unreader.take_buffered() + conn.incoming.take_rest()
        conn.arrival = Arrival()
        idle_seconds = float(self.cfg.keepalive) if self.alive else STOP_KEEPALIVE_LINGER
        self._wait(conn, Phase.IDLE, idle_seconds)
        if ahead:
            self._take(conn, ahead)

    def _ready(self, conn: Connection) -> None:
        """Do what the connection waits to do; what goes wrong with one ends that one."""
        if conn not in self._waiting:
            return  # it made place for another in this turn of the loop
        try:
            if conn.phase == Phase.ANSWERING:
                self._send(conn)
            else:
                self._receive(conn)
        except Exception as error:  # noqa: BLE001 - the worker and all other connections go on
            _log.error("connection dropped", exc_info=error)
            if conn in self._waiting:
                self._drop(conn)

    def _receive(self, conn: Connection) -> None:
        try:
            data = conn.peer.recv(RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._drop(conn)
        elif conn.phase != Phase.LINGERING:
            self._take(conn, data)

    def _take(self, conn: Connection, data: bytes) -> None:
        """Add to a request, and give it to a thread when there is nothing more to wait for."""
        arrival, had_head = conn.arrival, conn.arrival.has_head
        arrival.add(data)
        if not arrival.received:
            return
        if conn.phase == Phase.IDLE:
            self._wait(conn, Phase.RECEIVING, HEAD_SECONDS)
        self._hold(conn, len(arrival.received))
        if arrival.is_whole:
            self._stop_waiting(conn)
            conn.incoming.feed(arrival.take())
            self.enqueue_req(conn)
        elif arrival.is_oversized:
            self._refuse(conn, refusal(431))
        elif arrival.has_head and not had_head:
            conn.deadline = conn.since + BODY_SECONDS
            if arrival.expects_continue:
                conn.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                if self._flush(conn):
                    self._hold(conn, len(arrival.received))
        self._free_memory()

    def _refuse(self, conn: Connection, problem: RejectedError) -> None:
        conn.arrival.is_cut = True
        conn.sock.sendall(written(problem))
        self._answer(conn, self._end)

    def _answer(self, conn: Connection, then: Callable[[Connection], None]) -> None:
        """Send what the peer has not taken, then go on."""
        conn.after_answer = then
        if not self._send(conn):
            self._wait(conn, Phase.ANSWERING, ANSWER_SECONDS)
            self._free_memory()

    def _send(self, conn: Connection) -> bool:
        """Return whether there is nothing more to wait for."""
        if not self._flush(conn):
            return conn.peer.fileno() < 0
        then, conn.after_answer = conn.after_answer, None
        if then is not None:
            self._stop_waiting(conn)
            then(conn)
        return True

    def _flush(self, conn: Connection) -> bool:
        try:
            is_sent = conn.sock.flush()
        except OSError:
            self._drop(conn)
            return False
        self._hold(conn, conn.sock.pending_bytes)
        return is_sent

    def _end(self, conn: Connection) -> None:
        if not conn.arrival.is_cut:
            self._drop(conn)
            return
        try:
            conn.peer.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(conn)
            return
        self._wait(conn, Phase.LINGERING, LINGER_SECONDS)

    def _drop(self, conn: Connection) -> None:
        self._stop_waiting(conn)
        self._hold(conn, 0)
        self.nr_conns -= 1
        conn.peer.close()

    def _wait(self, conn: Connection, phase: Phase, seconds: float) -> None:
        is_writing = phase == Phase.ANSWERING
        events = selectors.EVENT_WRITE if is_writing else selectors.EVENT_READ
        watch = self.poller.modify if conn in self._waiting else self.poller.register
        watch(conn, events, self._ready)
        self._waiting[conn] = None
        conn.phase, conn.since = phase, time.monotonic()
        conn.deadline = conn.since + seconds

    def _stop_waiting(self, conn: Connection) -> None:
        if conn in self._waiting:
            del self._waiting[conn]
            self.poller.unregister(conn)

    def _hold(self, conn: Connection, count: int) -> None:
        self._held_bytes += count - conn.held_bytes
        conn.held_bytes = count

    def _make_place(self, *, is_holding: bool = False) -> bool:
        """Send away the one that has waited longest, idle ones first; False if all are with threads."""
        candidates = [conn for conn in self._waiting if conn.held_bytes or not is_holding]
        if not candidates:
            return False
        self._drop(min(candidates, key=lambda conn: (conn.phase > Phase.IDLE, conn.since)))
        self._sent_away += 1
        return True

    def _free_memory(self) -> None:
        while self._held_bytes > MAX_HELD_BYTES and self._make_place(is_holding=True):
            pass

    def murder_keepalived(self, force: bool = False) -> None:
        """Send away those whose time is over. gunicorn calls it in each turn of its loop."""
        now = time.monotonic()
        if now - self._swept_at < SWEEP_SECONDS and not force:
            return
        self._swept_at = now
        if self._sent_away:
            _log.warning("connections made place for others", count=self._sent_away)
            self._sent_away = 0
        for conn in [conn for conn in self._waiting if force or conn.deadline <= now]:
            if conn.phase == Phase.RECEIVING and conn.arrival.received and not force:
                self._refuse(conn, refusal(408))
            else:
                self._drop(conn)

    def _cap_keepalive(self, deadline: float) -> None:
        """When the worker stops, wait no longer than `deadline` for a request that has not begun."""
        for conn in self._waiting:
            if conn.phase == Phase.IDLE:
                conn.deadline = min(conn.deadline, deadline)
