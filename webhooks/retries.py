"""When a delivery is tried again. Pure: the schedule, the jitter and the receiver's own wish."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

DEFAULT_DELAYS_SECONDS = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
JITTER_FRACTION = 0.1
# A receiver may ask for more time than the schedule has, up to this many times as much.
MAX_RETRY_AFTER_FACTOR = 2.0
_MAX_DIGITS = 9


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """`delays_seconds[n - 1]` is the pause after the n-th failed attempt; after the last there is no more.

    `spread` returns a number between -1 and 1, another one each time.
    """

    delays_seconds: tuple[float, ...]
    spread: Callable[[], float]

    @property
    def first_delay_seconds(self) -> float:
        """Return the first pause, without jitter."""
        return self.delays_seconds[0]

    def delay_seconds(self, failed_attempts: int, retry_after_seconds: float | None = None) -> float | None:
        """Return the pause after that many failed attempts, or None when the schedule is over.

        The receiver's Retry-After can lengthen the pause to twice its length and never shortens it.
        """
        if failed_attempts > len(self.delays_seconds):
            return None
        scheduled = self.delays_seconds[failed_attempts - 1]
        delay = scheduled * (1.0 + JITTER_FRACTION * self.spread())
        if retry_after_seconds is None:
            return delay
        return max(delay, min(retry_after_seconds, delay * MAX_RETRY_AFTER_FACTOR))


def read_retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds that a Retry-After header asks for (RFC 9110 section 10.2.3: seconds or a date).

    None if there is none or it can't be read; never below 0.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:_MAX_DIGITS])
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # a time zone of many digits is no ValueError
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max((moment - now).total_seconds(), 0.0)
