"""What a call meets before SAP looks at it: counting, capacity, slowness, refusals, dropped connections."""

import random
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from sap_mock.faults import Faults

OVERLOADED_LATENCY_MS = 800
OVERLOADED_RETRY_AFTER_SECONDS = 2
CAPACITY_RETRY_AFTER_SECONDS = 1
THROTTLE_RETRY_AFTER_SECONDS = 1


class DroppedConnectionError(Exception):
    """The connection dies without an answer."""


class BusyError(Exception):
    """503, with `Retry-After` when `retry_after_seconds` is not None."""

    def __init__(self, retry_after_seconds: int | None) -> None:
        super().__init__("busy")
        self.retry_after_seconds = retry_after_seconds


class ThrottledError(Exception):
    """429 of the API management before SAP: nothing has reached SAP."""

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__("throttled")
        self.retry_after_seconds = retry_after_seconds


class BrokenError(Exception):
    """500 with an HTML page; nothing was committed."""


class DrippingError(Exception):
    """The headers of the answer come a byte at a time and never end; nothing was committed."""


class Ending(Enum):
    """How a posting call ends."""

    ANSWER = "commit and answer"
    DROP_BEFORE_COMMIT = "drop, never commit"
    COMMIT_THEN_DROP = "commit, then drop"
    DROP_THEN_COMMIT = "drop, commit later"


class Traffic:
    """Shared by all calls; the counts run since start or reset. Dice come from one seedable generator."""

    def __init__(
        self, seed: int | None = None, *, overloaded_latency_ms: int = OVERLOADED_LATENCY_MS
    ) -> None:
        self._overloaded_latency_ms = overloaded_latency_ms
        self._lock = threading.Lock()
        self._random = random.Random(seed)  # noqa: S311 - dice for faults, no secret
        self._faults = Faults()
        self._calls = 0
        self._refused = 0
        self._in_flight = 0
        self._max_in_flight = 0
        self._admitted = 0
        self._overloaded_turns = 0
        self._passed: deque[float] = deque()

    @property
    def faults(self) -> Faults:
        return self._faults

    def set_faults(self, faults: Faults) -> None:
        with self._lock:
            self._faults = faults
            self._overloaded_turns = 0

    def reset(self) -> None:
        """Forget counts and faults; calls in flight go on and are counted as such."""
        with self._lock:
            self._faults = Faults()
            self._overloaded_turns = 0
            self._calls = self._refused = 0
            self._max_in_flight = self._in_flight

    def stats(self) -> dict[str, int]:
        with self._lock:
            return {"calls": self._calls, "refused": self._refused, "max_in_flight": self._max_in_flight}

    @contextmanager
    def call(self) -> Iterator[Faults]:
        """Let one SOAP or OData call through, in its own time, and hand out the faults that hold for it.

        Raises DroppedConnectionError, ThrottledError, BusyError or BrokenError when it does not get through.
        """
        with self._counted():
            self._drop_when_down()
            self._throttle()
            with self._within_capacity():
                self._take_time()
                # SAP may have gone down while the call was waiting: nothing commits then
                self._drop_when_down()
                self._turn_away_when_overloaded()
                faults = self._faults
                if self.happens(faults.error_rate):
                    raise BrokenError
                if self.happens(faults.dripping_rate):
                    raise DrippingError
                yield faults

    def ending(self, faults: Faults) -> Ending:
        """Throw the dice for one posting call."""
        if self.happens(faults.drop_before_commit_rate):
            return Ending.DROP_BEFORE_COMMIT
        # a late commit asked for alone is meant for every call; with a rate, for the share that drops
        if faults.late_commit_ms and (
            not faults.commit_then_drop_rate or self.happens(faults.commit_then_drop_rate)
        ):
            return Ending.DROP_THEN_COMMIT
        if not faults.late_commit_ms and self.happens(faults.commit_then_drop_rate):
            return Ending.COMMIT_THEN_DROP
        return Ending.ANSWER

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._calls += 1
            self._in_flight += 1
            self._max_in_flight = max(self._max_in_flight, self._in_flight)
        try:
            yield
        finally:
            with self._lock:
                self._in_flight -= 1

    def _throttle(self) -> None:
        """Let so many calls through in any one second."""
        now = time.monotonic()
        with self._lock:
            limit = self._faults.calls_per_second
            while self._passed and self._passed[0] <= now - 1:
                self._passed.popleft()
            if not 0 < limit <= len(self._passed):
                self._passed.append(now)
                return
            self._refused += 1
        raise ThrottledError(THROTTLE_RETRY_AFTER_SECONDS)

    @contextmanager
    def _within_capacity(self) -> Iterator[None]:
        with self._lock:
            full = 0 < self._faults.capacity <= self._admitted
            if full:
                self._refused += 1
            else:
                self._admitted += 1
        if full:
            raise BusyError(CAPACITY_RETRY_AFTER_SECONDS)
        try:
            yield
        finally:
            with self._lock:
                self._admitted -= 1

    def _drop_when_down(self) -> None:
        if self._faults.mode == "down":
            raise DroppedConnectionError

    def _take_time(self) -> None:
        faults = self._faults
        milliseconds = faults.latency_ms + (self._overloaded_latency_ms if faults.mode == "overloaded" else 0)
        if milliseconds:
            with self._lock:
                jitter = self._random.uniform(1, 1 + faults.latency_jitter)
            time.sleep(milliseconds * jitter / 1000)

    def _turn_away_when_overloaded(self) -> None:
        """Every second call gets 503, every second of those a Retry-After."""
        with self._lock:
            if self._faults.mode != "overloaded":
                return
            self._overloaded_turns += 1
            turn = self._overloaded_turns
            if turn % 2 != 0:
                return
            self._refused += 1
        raise BusyError(OVERLOADED_RETRY_AFTER_SECONDS if turn % 4 == 0 else None)

    def happens(self, rate: float) -> bool:
        """Throw the dice once."""
        with self._lock:
            return self._random.random() < rate
