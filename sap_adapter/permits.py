"""Waiting a moment for a permit: what the broker brings early need not go round through the lane."""

import threading

# Longer than a permit is between two calls of a quick SAP; no longer than a dispatch's pause would be.
WAIT_SECONDS = 0.25


class PermitQueue:
    """One per process and SAP system. `max_waiting`: requests that may wait at once; the others do not.

    A permit that another process gives back is noticed at the end of the wait.
    """

    def __init__(self, max_waiting: int) -> None:
        self._places = threading.BoundedSemaphore(max_waiting)
        self._freed = threading.Condition()

    def wait(self) -> bool:
        """Return whether another try is worth while: a permit came free, or nobody knows; else at once."""
        if not self._places.acquire(blocking=False):
            return False
        try:
            with self._freed:
                self._freed.wait(WAIT_SECONDS)
        finally:
            self._places.release()
        return True

    def freed(self) -> None:
        """A call of this process is over: the one that has waited longest may try."""
        with self._freed:
            self._freed.notify()
