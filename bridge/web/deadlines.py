"""The whole time of a call: whatever the other side trickles, the connection is shut down after it."""

import contextlib
import socket
import threading
from collections import deque
from time import monotonic
from typing import Self


class DeadlinePassedError(OSError):
    """The call's time is over; the connection was shut down or is not used any more."""


class UnwatchedCallError(OSError):
    """No thread can be started to watch the call's time; nothing was sent."""


class Deadline:
    """Shuts down every connection that the call uses when its time is over."""

    def __init__(self, at_monotonic: float) -> None:
        self.at_monotonic = at_monotonic
        self.has_passed = False
        self._is_over = False
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._is_over = True
            for duplicate in self._sockets:
                duplicate.close()
            self._sockets.clear()

    @property
    def is_over(self) -> bool:
        return self._is_over

    def check(self) -> None:
        """Raise DeadlinePassedError if the time is over, even if nobody has noticed yet."""
        if self.has_passed or monotonic() >= self.at_monotonic:
            raise DeadlinePassedError("the call's time is over")

    def remaining_seconds(self) -> float:
        """Return how long is left, above 0; DeadlinePassedError if nothing is."""
        self.check()
        return max(self.at_monotonic - monotonic(), 0.001)

    def watch(self, connected: socket.socket) -> None:
        """Keep a second handle on the connection: TLS takes the first one over. OSError if there is none."""
        with self._lock:
            self.check()
            self._sockets.append(socket.fromfd(connected.fileno(), connected.family, connected.type))

    def expire(self) -> None:
        with self._lock:
            if self._is_over:
                return
            self.has_passed = True
            for duplicate in self._sockets:
                with contextlib.suppress(OSError):
                    duplicate.shutdown(socket.SHUT_RDWR)


class Deadlines:
    """Gives out deadlines, all equally long, so that one thread watches them in the order of their begin.

    They are real time, whatever clock the service is given: sockets know no other.
    """

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._changed = threading.Condition()
        self._pending: deque[Deadline] = deque()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def begin(self) -> Deadline:
        """Return a deadline that runs; UnwatchedCallError if it can't be watched."""
        deadline = Deadline(monotonic() + self._timeout_seconds)
        with self._changed:
            if self._thread is None:  # at the first call: a thread crosses no fork
                thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    raise UnwatchedCallError("no thread can be started") from error
                self._thread = thread
            self._pending.append(deadline)
            if len(self._pending) == 1:
                self._changed.notify()
        return deadline

    def close(self) -> None:
        """Let the thread end once every deadline that has begun is over; none may begin any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._pending:
                    if self._is_closed:
                        return
                    self._changed.wait()
                deadline = self._pending[0]
                remaining_seconds = deadline.at_monotonic - monotonic()
                if not deadline.is_over and remaining_seconds > 0:
                    self._changed.wait(remaining_seconds)
                    continue
                self._pending.popleft()
            deadline.expire()
