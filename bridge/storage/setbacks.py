"""What one item of a loop that fails costs the others: nothing but the time of its own tries.

Each loop over partners, steps or pages runs every item inside `contained`. An item that has failed rests
before its next turn, longer each time, and one that keeps failing is an error that operators are alerted by.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from bridge.errors import TransientError
from bridge.storage.failures import is_away

FIRST_REST_SECONDS = 1.0
LONGEST_REST_SECONDS = 60.0
_MAX_DOUBLINGS = 6
# So many failures in a row are no accident any more.
ALARMING_FAILURES = 3

_log = structlog.get_logger(__name__)


class Setbacks:
    """The items of one loop that have failed, by name: how often in a row, and until when each rests.

    Used by one thread. An item is forgotten at its first success.
    """

    def __init__(self, loop: str, monotonic: Callable[[], float]) -> None:
        self._loop = loop
        self._monotonic = monotonic
        self._failures: dict[str, int] = {}
        self._rests_until_monotonic: dict[str, float] = {}

    def rests(self, item: str) -> bool:
        """Whether the item has failed lately and is left out for now."""
        return self._monotonic() < self._rests_until_monotonic.get(item, float("-inf"))

    def is_failing(self, item: str) -> bool:
        """Whether the last try of the item failed."""
        return item in self._failures

    @contextmanager
    def contained(self, item: str) -> Iterator[None]:
        """Run the body for the item; log what it raises and let it rest.

        Raises only what concerns every item alike: the database is away.
        """
        try:
            yield
        except Exception as error:
            if is_away(error):
                raise
            self._note_failure(item, error)
        else:
            self._failures.pop(item, None)
            self._rests_until_monotonic.pop(item, None)

    def _note_failure(self, item: str, error: Exception) -> None:
        failures = self._failures.get(item, 0) + 1
        self._failures[item] = failures
        is_alarming = failures >= ALARMING_FAILURES
        if isinstance(error, TransientError):
            # a port is away: that has alerts of its own, and everything goes on as soon as it is back
            is_alarming = False
        else:
            doublings = min(failures - 1, _MAX_DOUBLINGS)
            rest_seconds = min(FIRST_REST_SECONDS * float(2**doublings), LONGEST_REST_SECONDS)
            self._rests_until_monotonic[item] = self._monotonic() + rest_seconds
        if not is_alarming:
            _log.warning("work failed", loop=self._loop, item=item, failures=failures, exc_info=error)
        else:
            _log.error("work keeps failing", loop=self._loop, item=item, failures=failures, exc_info=error)
