"""Commits that happen after their connection has died."""

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger("sap_mock")


class LateCommits:
    """One thread, started by the first of them, runs them when they are due. They die with the process."""

    def __init__(self) -> None:
        self._wakeup = threading.Condition()
        self._waiting: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None

    def schedule(self, delay_ms: int, commit: Callable[[], object]) -> None:
        with self._wakeup:
            heapq.heappush(self._waiting, (time.monotonic() + delay_ms / 1000, next(self._order), commit))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="late-commits", daemon=True)
                self._thread.start()
            self._wakeup.notify()

    def forget(self) -> None:
        """Drop all that have not happened yet."""
        with self._wakeup:
            self._waiting.clear()

    def _run(self) -> None:
        while True:
            commit = self._next()
            try:
                commit()
            except Exception:
                logger.exception("a late commit failed")

    def _next(self) -> Callable[[], object]:
        with self._wakeup:
            while not self._waiting or self._waiting[0][0] > time.monotonic():
                timeout = self._waiting[0][0] - time.monotonic() if self._waiting else None
                self._wakeup.wait(timeout)
            return heapq.heappop(self._waiting)[2]
