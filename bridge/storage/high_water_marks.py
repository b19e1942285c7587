"""The database's side of the high-water mark: what it has proposed, and what it knows to stand outside.

A proposal is committed before it is written outside, and noted afterwards. Every function takes a connection
inside the caller's transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

from sqlalchemy import Connection, Row, text

from bridge.high_water_mark import HighWaterMark, MarksOfDatabase
from bridge.storage.restores import IS_RECOVERED, IS_TRUSTED

# Proposals that may be under way at once: one more each time that PostgreSQL starts before one was noted.
MAX_TOKENS = 64

SELECT_STATE = f"""
    SELECT database_id, mark_serial, proposed_at, noted_serial, noted_at, mark_tokens, mark_epoch,
           is_compared, takes_over, pg_postmaster_start_time() AS started_at, {IS_TRUSTED} AS is_trusted,
           ({IS_RECOVERED}) AS is_recovered
    FROM database_identity
"""  # noqa: S608 - made of constants

READ = text(f"""
    /* how the database stands to the mark outside */
    {SELECT_STATE}
""")

LOCK = text(f"""
    /* the same; one process at a time proposes */
    {SELECT_STATE} FOR NO KEY UPDATE OF database_identity
""")

PROPOSE = text("""
    /* the mark that is about to be written outside */
    UPDATE database_identity
    SET mark_serial = :serial, mark_epoch = :epoch, mark_tokens = mark_tokens || CAST(:token AS text),
        proposed_at = :now
""")

NOTE = text("""
    /* the mark stands outside, and no earlier proposal can be written any more: the database as it runs now
       is the newest there is. Unless PostgreSQL has started meanwhile, perhaps on other files */
    UPDATE database_identity
    SET noted_serial = :serial, noted_at = :now,
        mark_tokens = mark_tokens[array_position(mark_tokens, CAST(:token AS text)):],
        trusted_start = pg_postmaster_start_time(), trusted_table = tableoid, is_compared = true,
        takes_over = false
    WHERE CAST(:token AS text) = ANY(mark_tokens) AND noted_serial < :serial AND suspected_at IS NULL
      AND pg_postmaster_start_time() = :started_at
    RETURNING is_only
""")

TRUST = text("""
    /* the mark is out of reach: go on without, until it is not */
    UPDATE database_identity
    SET trusted_start = pg_postmaster_start_time(), trusted_table = tableoid, is_compared = false,
        takes_over = false
    WHERE pg_postmaster_start_time() = :started_at
""")


@dataclass(frozen=True, slots=True)
class MarkState:
    """How the database stands to the mark. `started_at`: when PostgreSQL did.

    `is_trusted`: the database may be decided by, as far as the mark goes. `is_recovered`: no recovery is due.
    """

    marks: MarksOfDatabase
    epoch: int
    proposed_at: datetime | None
    noted_at: datetime | None
    started_at: datetime
    is_trusted: bool
    is_recovered: bool


def read_state(connection: Connection) -> MarkState:
    return _state(connection.execute(READ).one())


def lock_state(connection: Connection) -> MarkState:
    """Return the state with its row locked. Lock order: the gate, then this row."""
    return _state(connection.execute(LOCK).one())


def propose(
    connection: Connection, state: MarkState, standing: HighWaterMark | None, *, now: datetime
) -> HighWaterMark:
    """Return the mark to be written over the one that stands outside; the state is locked.

    What was proposed and never noted is proposed again, unless PostgreSQL has started since: whoever has
    copied the files meanwhile has that proposal too.
    """
    marks, proposed_at = state.marks, state.proposed_at
    standing_serial, standing_epoch = (0, 0) if standing is None else (standing.serial, standing.epoch)
    epoch = max(state.epoch, standing_epoch + 1) if marks.takes_over else state.epoch
    is_pending = marks.serial > max(marks.noted_serial, standing_serial) and epoch == state.epoch
    if is_pending and proposed_at and (state.is_trusted or len(marks.tokens) >= MAX_TOKENS):
        return HighWaterMark(marks.database_id, marks.serial, marks.tokens[-1], epoch, proposed_at)
    mark = HighWaterMark(
        marks.database_id, max(marks.serial, standing_serial) + 1, uuid4().hex, epoch, proposed_at=now
    )
    parameters = {"serial": mark.serial, "epoch": epoch, "token": mark.token, "now": now}
    connection.execute(PROPOSE, parameters)
    return mark


def note(connection: Connection, mark: HighWaterMark, started_at: datetime, *, now: datetime) -> bool:
    """Note that the mark stands outside, and trust the database; False if somebody has done so already."""
    parameters = {"serial": mark.serial, "token": mark.token, "started_at": started_at, "now": now}
    return connection.execute(NOTE, parameters).first() is not None


def trust_without_mark(connection: Connection, started_at: datetime) -> None:
    """Open the gate for the database as PostgreSQL has it since `started_at`, though it was not compared."""
    connection.execute(TRUST, {"started_at": started_at})


def _state(row: Row[tuple[object, ...]]) -> MarkState:
    tokens: Sequence[str] = row.mark_tokens
    return MarkState(
        marks=MarksOfDatabase(
            database_id=row.database_id,
            serial=row.mark_serial,
            noted_serial=row.noted_serial,
            tokens=tuple(tokens),
            is_compared=row.is_trusted and row.is_compared,
            takes_over=row.is_trusted and row.takes_over,
        ),
        epoch=row.mark_epoch,
        proposed_at=row.proposed_at,
        noted_at=row.noted_at,
        started_at=row.started_at,
        is_trusted=row.is_trusted,
        is_recovered=row.is_recovered,
    )
