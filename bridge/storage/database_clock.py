"""The clock that all processes share: the database's, carried on by each process's own elapsed time.

A sample is what the database's clock showed between the sending and the receiving of one statement; its
error is at most half of that round trip (as in NTP, RFC 5905). It grows by what two oscillators may drift
apart. The process's wall clock takes no part: it may be wrong, or jump.

Connections take the samples (`compare_clocks`): a new one when it is made, so that a process that meets
another primary has its time before it works there; a pooled one by the ping before its use, whenever the
last sample is older than SAMPLE_SECONDS. A thread would get no CPU on Cloud Run between requests.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from pg8000 import InterfaceError
from sqlalchemy import Engine, event
from sqlalchemy.exc import SQLAlchemyError

from bridge.clock import MAX_UNCERTAINTY_SECONDS, Clock, SystemClock
from bridge.errors import TransientError

# A connection that is about to be used takes a sample if the last one is older.
SAMPLE_SECONDS = 10.0
# Seconds that two clocks may drift apart in a second: a crystal 0.0001, the correction of a kernel 0.0005.
MAX_DRIFT = 0.001
# A wall clock that moves against the elapsed time by more has jumped, or the machine has stood still.
MAX_LOCAL_JUMP_SECONDS = 0.5
READS_OF_TWO_CLOCKS = 3
# How long a thread waits for another one's first sample.
FIRST_SAMPLE_TIMEOUT_SECONDS = 5.0
# A database that did not answer is asked again after this pause.
RETRY_SECONDS = 1.0

SHOW_TIME = "SELECT clock_timestamp() /* the clock that all processes share */"

# seconds that go on while the machine sleeps, where the system has such a clock
_ELAPSED = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

_log = structlog.get_logger(__name__)


def elapsed_seconds() -> float:
    """Return seconds since some moment, which neither jump nor stop."""
    return time.clock_gettime(_ELAPSED)


@dataclass(frozen=True, slots=True)
class Sample:
    """The database's clock showed `shown` at `at_elapsed`, give or take `error_seconds`."""

    shown: datetime
    at_elapsed: float
    error_seconds: float

    @classmethod
    def between(cls, sent_at: float, shown: datetime, received_at: float) -> "Sample":
        """Return the sample of one round trip; its ends are elapsed seconds."""
        return cls(shown, (sent_at + received_at) / 2, (received_at - sent_at) / 2)

    def time_at(self, elapsed: float) -> datetime:
        return self.shown + timedelta(seconds=elapsed - self.at_elapsed)

    def error_at(self, elapsed: float) -> float:
        return self.error_seconds + abs(elapsed - self.at_elapsed) * MAX_DRIFT


class DatabaseClock:
    """See Clock. `now` asks the database while it is uncertain; TransientError before the first sample."""

    def __init__(self, local: Clock | None = None, elapsed: Callable[[], float] = elapsed_seconds) -> None:
        self._local = local or SystemClock()
        self._elapsed = elapsed
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._sample: Sample | None = None
        self._sampled_at = float("-inf")
        self._local_ahead = 0.0
        self._ask: Callable[[], None] | None = None
        self._ask_not_before = float("-inf")

    def now(self) -> datetime:
        sample = self._sample
        if sample is None:
            self._ask_once(wait_seconds=FIRST_SAMPLE_TIMEOUT_SECONDS)
        elif sample.error_at(self._elapsed()) > MAX_UNCERTAINTY_SECONDS:
            self._ask_once(wait_seconds=0.0)
        sample = self._sample
        if sample is None:
            raise TransientError("the database's clock is not known yet")
        return sample.time_at(self._elapsed())

    def monotonic(self) -> float:
        return self._local.monotonic()

    def uncertainty_seconds(self) -> float:
        sample = self._sample
        if sample is None or self._has_jumped():
            return float("inf")
        return sample.error_at(self._elapsed())

    def local_offset_seconds(self) -> float | None:
        """Return how far the machine's wall clock is ahead of this one; None before the first sample."""
        sample = self._sample
        if sample is None:
            return None
        return (self._local.now() - sample.time_at(self._elapsed())).total_seconds()

    def is_sample_due(self) -> bool:
        """Whether a connection that is about to be used shall take a sample."""
        return self._elapsed() - self._sampled_at > SAMPLE_SECONDS or self._has_jumped()

    def refresh(self) -> None:
        """Take a sample if one is due and the database answers; at a service's start."""
        if self.is_sample_due():
            self._ask_once(wait_seconds=0.0)

    def refresh_soon(self) -> None:
        """The same on a thread of its own: a database that hangs holds up nobody."""
        if self.is_sample_due() and not self._asking.locked():
            threading.Thread(target=self.refresh, name="clock sample", daemon=True).start()

    def ask_by(self, ask: Callable[[], None]) -> None:
        """Have `ask` called when a sample is missing; it brings one or raises the database's errors."""
        self._ask = ask

    def sample(self, show_time: Callable[[], datetime]) -> None:
        """Ask the database for its time by `show_time`, one round trip, and remember the answer."""
        sent_at = self._elapsed()
        shown = show_time()
        received_at = self._elapsed()
        self._remember(Sample.between(sent_at, shown, received_at), received_at)

    def _remember(self, fresh: Sample, received_at: float) -> None:
        """Keep the sample with the smaller error; a fresh one that contradicts the kept one replaces it."""
        with self._lock:
            kept, has_jumped = self._sample, self._has_jumped()
            self._sampled_at, self._local_ahead = received_at, self._local_ahead_of_elapsed()
            if kept is not None and not has_jumped:
                apart = (fresh.time_at(received_at) - kept.time_at(received_at)).total_seconds()
                errors = fresh.error_at(received_at) + kept.error_at(received_at)
                if abs(apart) <= errors and kept.error_at(received_at) < fresh.error_at(received_at):
                    return
                if abs(apart) > errors:
                    # its own clock was set, or another primary has taken over
                    _log.warning("the database's clock has jumped", seconds=round(apart, 3))
            self._sample = fresh

    def _has_jumped(self) -> bool:
        return abs(self._local_ahead_of_elapsed() - self._local_ahead) > MAX_LOCAL_JUMP_SECONDS

    def _local_ahead_of_elapsed(self) -> float:
        """Read both clocks at one moment: again if the thread was put aside between them."""
        for _ in range(READS_OF_TWO_CLOCKS):
            before = self._elapsed()
            local_seconds = self._local.now().timestamp()
            after = self._elapsed()
            if after - before < MAX_LOCAL_JUMP_SECONDS / 10:
                break
        return local_seconds - after

    def _ask_once(self, *, wait_seconds: float) -> None:
        """Have one thread at a time ask; the others wait for its answer at most so long."""
        if self._ask is None or not self._asking.acquire(timeout=wait_seconds):
            return
        try:
            if self._elapsed() >= self._ask_not_before and self.is_sample_due():
                self._ask()
        except SQLAlchemyError as error:
            self._ask_not_before = self._elapsed() + RETRY_SECONDS
            _log.warning("the database's clock can't be read", reason=type(error).__name__)
        finally:
            self._asking.release()


def compare_clocks(engine: Engine, clock: DatabaseClock) -> None:
    """Have the engine's connections take samples: each new one, and the pool's ping whenever one is due."""
    ping = engine.dialect.do_ping

    @event.listens_for(engine, "connect")
    def connected(driver_connection: Any, _record: Any) -> None:
        sample_by(driver_connection, clock)

    def ping_or_sample(driver_connection: Any) -> bool:
        if not clock.is_sample_due():
            return ping(driver_connection)
        sample_by(driver_connection, clock)
        return True

    engine.dialect.do_ping = ping_or_sample  # type: ignore[method-assign, assignment]


def sample_by(driver_connection: Any, clock: DatabaseClock) -> None:
    """Take a sample on a connection in no transaction, and leave it in none."""
    before = driver_connection.autocommit
    driver_connection.autocommit = True
    try:
        cursor = driver_connection.cursor()
        clock.sample(lambda: _shown(cursor))
        cursor.close()
    except OSError as error:
        raise InterfaceError(f"network error ({type(error).__name__})") from error
    finally:
        driver_connection.autocommit = before


def _shown(cursor: Any) -> datetime:
    cursor.execute(SHOW_TIME)
    shown: datetime = cursor.fetchone()[0]
    return shown
