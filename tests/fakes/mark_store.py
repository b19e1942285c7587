"""The port MarkStore in memory; passes the same conformance suite as Firestore."""

import threading
from collections.abc import Callable

from bridge.high_water_mark import HighWaterMark, StandingMark
from bridge.ports import VersionConflictError


class InMemoryMarkStore:
    """`failure`, when set, is raised by every call: the store that is away.

    `after_read` and `before_write` run once each when they are set, with nothing locked: what happens
    meanwhile.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._standing: StandingMark | None = None
        self._writes = 0
        self.failure: Exception | None = None
        self.after_read: Callable[[], None] | None = None
        self.before_write: Callable[[], None] | None = None
        self.lose_answer: Exception | None = None

    def read(self) -> StandingMark | None:
        if self.failure is not None:
            raise self.failure
        standing = self._standing
        then, self.after_read = self.after_read, None
        if then is not None:
            then()
        return standing

    def write(self, mark: HighWaterMark, over: StandingMark | None) -> None:
        if over is not None and mark.serial <= over.mark.serial:
            raise ValueError("the serial has to rise")
        then, self.before_write = self.before_write, None
        if then is not None:
            then()
        if self.failure is not None:
            raise self.failure
        with self._lock:
            version = None if over is None else over.version
            if (None if self._standing is None else self._standing.version) != version:
                raise VersionConflictError("another mark stands there")
            self._writes += 1
            self._standing = StandingMark(mark, self._writes)
        lost, self.lose_answer = self.lose_answer, None
        if lost is not None:
            raise lost

    def close(self) -> None:
        """Nothing is open."""

    def lose(self) -> None:
        """Forget the mark, as a hand in the console could."""
        self._standing = None
