"""What an error of the database means: passing (try again later), a broken constraint, or a fault of ours."""

import re

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

UNIQUE_VIOLATION = "23505"
LOCK_NOT_AVAILABLE = "55P03"
# serialization failure, deadlock: the whole transaction was undone and may simply be repeated
REPEATABLE = frozenset({"40001", "40P01"})
# Classes of SQLSTATE: connection, resources, shutdown or takeover, system error.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_PASSING_CLASSES = ("08", "53", "57", "58")
# statement timeout, or cancelled by hand: of the server's class for shutdown, but it ends one statement only
QUERY_CANCELED = "57014"
# idle in transaction timeout; a standby or a database in recovery takes no writes
_PASSING = frozenset({LOCK_NOT_AVAILABLE, "25P03", "25006"}) | REPEATABLE


def sqlstate(error: DBAPIError) -> str | None:
    """Return the five characters of the server's error, None when the server did not answer."""
    arguments = getattr(error.orig, "args", ())
    fields = arguments[0] if arguments else None
    return fields.get("C") if isinstance(fields, dict) else None


def constraint_of(error: DBAPIError) -> str | None:
    """Return the name of the constraint or unique index that was broken."""
    arguments = getattr(error.orig, "args", ())
    fields = arguments[0] if arguments else None
    return fields.get("n") if isinstance(fields, dict) else None


def is_passing(error: DBAPIError) -> bool:
    """Tell whether the same statement may succeed later: the database is away, full, locked or restarting."""
    if error.connection_invalidated:
        return True
    state = sqlstate(error)
    if state is None:
        # no answer: pg8000 raises InterfaceError for what happened on the way to the server
        return type(error.orig).__name__ == "InterfaceError"
    return state in _PASSING or state.startswith(_PASSING_CLASSES)


def is_away(error: Exception) -> bool:
    """Tell whether the database is away or full for everybody, not only for the rows that this was about.

    Time-outs, locks, deadlocks and broken constraints say nothing about the next statement on other rows.
    """
    if isinstance(error, PoolTimeoutError):
        return True
    if not isinstance(error, DBAPIError) or not is_passing(error):
        return False
    state = sqlstate(error)
    return state is None or (state not in REPEATABLE and state not in (LOCK_NOT_AVAILABLE, QUERY_CANCELED))


def waited_for(error: DBAPIError) -> str | None:
    """Return the table whose row the statement was waiting for when it gave up, if the server says.

    The server names it in the error's context: `while inserting index tuple (0,1) in relation "…"`.
    """
    arguments = getattr(error.orig, "args", ())
    fields = arguments[0] if arguments else None
    context = fields.get("W", "") if isinstance(fields, dict) else ""
    match = re.search(r'relation "([^"]+)"', context)
    return match[1] if match else None
