"""Time as a parameter: every service gets a Clock, tests get one that they turn by hand.

Processes compare times through PostgreSQL, so in production their clock is the database's
(bridge.storage.database_clock): what one writes and another compares comes from one clock.
"""

import math
import re
import time
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, NewType, Protocol

from bridge.errors import TransientError

# A process whose clock may be further from the one that all share claims nothing and ends no lease.
MAX_UNCERTAINTY_SECONDS = 0.5
# How far the clocks of two processes that claim can be apart.
MAX_CLOCK_DIFFERENCE_SECONDS = 2 * MAX_UNCERTAINTY_SECONDS

# When something is at the earliest and at the latest, whatever the error of the clock that was read. No other
# datetime is one of them: where money hangs on a comparison, mypy refuses `clock.now()`.
Earliest = NewType("Earliest", datetime)
Latest = NewType("Latest", datetime)

# RFC 3339 section 5.6, with the offset that makes it a moment
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)


class Clock(Protocol):
    """Wall time for records, monotonic time for durations."""

    def now(self) -> datetime:
        """Return the current moment, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never run backwards."""
        ...

    def uncertainty_seconds(self) -> float:
        """Return how far `now` may be from the clock that all processes share; infinite if nobody knows."""
        ...


class SystemClock:
    """The machine's clock: for a process that shares its times with nobody."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def uncertainty_seconds(self) -> float:
        """Return 0: it is compared with no other."""
        return 0.0


class ManualClock:
    """A clock that only moves when told to, for simulation and tests."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._monotonic = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def uncertainty_seconds(self) -> float:
        """Return 0: it is the clock that all share."""
        return 0.0

    def advance(self, seconds: float) -> None:
        """Move both times forward by `seconds`."""
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds


class Moment(NamedTuple):
    """Now, give or take `uncertainty_seconds`, by the clock that all processes share.

    Who writes a time that another process waits for writes `latest`; who compares one asks whether it is past
    at `earliest`. Then nobody is early, however the two clocks differ (as with Spanner's TrueTime).
    """

    now: datetime
    uncertainty_seconds: float

    @property
    def earliest(self) -> Earliest:
        return Earliest(self.now - timedelta(seconds=self.uncertainty_seconds))

    @property
    def latest(self) -> Latest:
        return Latest(self.now + timedelta(seconds=self.uncertainty_seconds))

    def latest_in(self, seconds: float) -> Latest:
        """Return the latest that it can be in so many seconds."""
        return later(self.latest, seconds)


def later(written: Latest, seconds: float) -> Latest:
    """Return the latest that it can be so many seconds after what a process has written."""
    return Latest(written + timedelta(seconds=seconds))


def moment(clock: Clock) -> Moment:
    """Return the moment for what must be recorded in any case; the bound stands in for an unknown error."""
    uncertainty_seconds = clock.uncertainty_seconds()
    is_known = math.isfinite(uncertainty_seconds)
    return Moment(clock.now(), uncertainty_seconds if is_known else MAX_UNCERTAINTY_SECONDS)


def certain_moment(clock: Clock) -> Moment:
    """Return the moment; TransientError while it is less certain than MAX_UNCERTAINTY_SECONDS."""
    uncertainty_seconds = clock.uncertainty_seconds()
    if uncertainty_seconds > MAX_UNCERTAINTY_SECONDS:
        raise TransientError(
            f"the clock may be {uncertainty_seconds:.1f} s off the database's,"
            f" at most {MAX_UNCERTAINTY_SECONDS} s are allowed"
        )
    return Moment(clock.now(), uncertainty_seconds)


def rfc3339(moment: datetime) -> str:
    """Render `moment` as RFC 3339 UTC with milliseconds, as the public API does everywhere."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_moment(value: str) -> datetime:
    """Read a moment of RFC 3339 with its offset, in UTC; what is finer than microseconds is cut off.

    `T` and `Z` may be small letters (section 5.6). ValueError for anything else, and for no such moment.
    """
    capital = value.upper()
    if not _MOMENT.fullmatch(capital):
        raise ValueError("not a moment of RFC 3339")
    try:
        return datetime.fromisoformat(capital).astimezone(UTC)
    except OverflowError as error:
        raise ValueError("not a moment that there is") from error


def to_the_millisecond(moment: datetime) -> datetime:
    """Cut what the API does not show: a first answer and its replay then agree to the letter."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
