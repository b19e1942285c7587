"""Waiting a moment for a permit: what the broker brings early need not go round through the lane."""

import threading

# Longer than a permit is between two calls of a quick SAP; no longer than a dispatch's pause would be.
WAIT_SECONDS = 0.25
# Who finds none then goes back to the lane: for so long, or for as long as all try in vain, to a limit.
PAUSE_SECONDS = 0.25
MAX_PAUSE_SECONDS = 2.0


class PermitQueue:
    """One per process and SAP system. `max_waiting`: requests that may wait at once; the others do not.

    A permit that another process gives back is noticed at the end of the wait.
    """

    def __init__(self, max_waiting: int) -> None:
        self._places = threading.BoundedSemaphore(max_waiting)
        self._freed = threading.Condition()
        self._waiting = 0
        self._vain_since: float | None = None

    def wait(self) -> bool:
        """Return whether another try is worth while: a permit came free, or nobody knows; else at once."""
        if not self._places.acquire(blocking=False):
            return False
        try:
            with self._freed:
                self._waiting += 1
                self._freed.wait(WAIT_SECONDS)
                self._waiting -= 1
        finally:
            self._places.release()
        return True

    def is_waited_for(self) -> bool:
        """Whether somebody waits already: who comes now need not look whether there is a permit."""
        return self._waiting > 0

    def freed(self) -> None:
        """A call of this process is over: the one that has waited longest may try."""
        with self._freed:
            self._freed.notify()

    def taken(self) -> None:
        """A permit could be taken: the lane moves."""
        self._vain_since = None

    def pause_seconds(self, monotonic: float) -> float:
        """Return how long to stay away: while SAP hangs, nobody comes back four times a second in vain."""
        if self._vain_since is None:
            self._vain_since = monotonic
        return min(max(monotonic - self._vain_since, PAUSE_SECONDS), MAX_PAUSE_SECONDS)
