"""Wait on a condition with a deadline, never on a fixed sleep."""

import time
from collections.abc import Callable
from typing import TypeVar

POLL_SECONDS = 0.02
# Long enough for a machine with ten times the load. A test that passes never waits for it, so there is no
# reason to choose another one: it says that something hangs, not how fast it is.
DEADLINE_SECONDS = 120.0

T = TypeVar("T")


def wait_until(
    predicate: Callable[[], T],
    *,
    timeout_seconds: float = DEADLINE_SECONDS,
    what: str = "condition",
    poll_seconds: float = POLL_SECONDS,
) -> T:
    """Return the predicate's first truthy value; raise AssertionError after the deadline."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what} not met within {timeout_seconds} s; last value {value!r}")
        time.sleep(poll_seconds)
