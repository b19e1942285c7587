"""What was pushed while no adapter was there, put back in its lane when one starts.

Pub/Sub pushes it again ever more rarely (up to 600 s), the watchdog looks after it ever more rarely too, and
until then it takes the room of its lane. A start is when somebody knows that it can be claimed again.
"""

from collections.abc import Collection
from datetime import timedelta

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from bridge.clock import Clock
from bridge.storage.events import put_back
from bridge.storage.watchdog import lock_unclaimed, recall

log = structlog.get_logger()

# A running adapter claims within milliseconds; if another one is just about to, its copy is out of date.
UNCLAIMED_SECONDS = 2.0
# The most that all lanes can have out is twice their caps.
MAX_UNCLAIMED = 1000


def recall_unclaimed(engine: Engine, lanes: Collection[str], clock: Clock) -> int:
    """Put back what is out and unclaimed in these lanes, and return how many operations that were.

    Without the database nothing happens: the watchdog does the same later.
    """
    try:
        with engine.begin() as connection:
            now = clock.now()
            before = now - timedelta(seconds=UNCLAIMED_SECONDS)
            found = lock_unclaimed(connection, lanes, before=before, limit=MAX_UNCLAIMED, now=now)
            for operation_id in found:
                recall(connection, operation_id, is_lost=False)
                put_back(connection, operation_id, not_before=now, now=now)
    except (DBAPIError, PoolTimeoutError) as error:
        log.warning("not-recalled", reason=type(error).__name__)
        return 0
    if found:
        log.info("recalled", operations=len(found))
    return len(found)
