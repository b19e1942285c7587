"""A recovery after a restore from backup: begun by an operator, carried on by the job, told to whoever asks.

Every function takes a connection inside the caller's transaction.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from bridge.clock import rfc3339
from bridge.errors import BridgeError
from bridge.storage import unplaced_documents
from bridge.storage.recovered import FeedStart

BEGIN = text("""
    /* a recovery; the unique index lets one run at a time */
    INSERT INTO recoveries (recovery_id, since, reads_since, started_by, system_identifier, timeline_id,
                            begun_start, begun_table, started_at, updated_at)
    SELECT :recovery_id, :since, least(:since, CAST(:reads_since AS timestamptz)), :started_by,
           system_identifier, greatest(timeline_id, min_recovery_end_timeline),
           pg_postmaster_start_time(), CAST('recoveries' AS regclass), :now, :now
    FROM pg_control_system(), pg_control_checkpoint(), pg_control_recovery()
""")

BEGIN_LANES = text("""
    /* the documents of every SAP system are walked through */
    INSERT INTO recovery_lanes (recovery_id, sap_system) SELECT :recovery_id, sap_system FROM sap_systems
""")

ABANDON = text("""
    /* the recovery that runs: another one takes its place in the same transaction */
    UPDATE recoveries SET finished_at = :now, is_abandoned = true, updated_at = :now WHERE finished_at IS NULL
""")

IS_AT_HOME = text("""
    /* whether the database is still the one that the recovery was begun in: nobody can put a copy in its
       place without starting PostgreSQL, or making its tables, again */
    SELECT system_identifier = :system_identifier
           AND greatest(timeline_id, min_recovery_end_timeline) = :timeline_id
           AND pg_postmaster_start_time() = :begun_start
           AND CAST('recoveries' AS regclass) = CAST(:begun_table AS oid)
    FROM pg_control_system(), pg_control_checkpoint(), pg_control_recovery()
""")

SELECT_LATEST = text("""
    /* the recovery that runs, or that ran last */
    SELECT * FROM recoveries ORDER BY finished_at IS NULL DESC, started_at DESC LIMIT 1
""")

SELECT_LANES = text("""
    /* how far the walk through the documents of each SAP system has come */
    SELECT * FROM recovery_lanes WHERE recovery_id = :recovery_id ORDER BY sap_system
""")

LOCK = text("""
    /* the recovery that runs; one job at a time takes its next step */
    SELECT * FROM recoveries WHERE finished_at IS NULL FOR NO KEY UPDATE
""")

SAVE = text("""
    /* how far it has come */
    UPDATE recoveries
    SET feeds_resumed = CAST(:feeds_resumed AS integer), feed_floor = :feed_floor, feed_epoch = :feed_epoch,
        operations_marked = operations_marked + :operations_marked,
        marked_to = :marked_to, is_marked = :is_marked, updated_at = :now
    WHERE recovery_id = :recovery_id
""")

SAVE_LANE = text("""
    /* how far the walk through the documents of a SAP system has come */
    UPDATE recovery_lanes
    SET pass_number = :pass_number, next_offset = :next_offset,
        documents_read = documents_read + :documents_read,
        operations_made = operations_made + :operations_made,
        documents_unplaced = documents_unplaced + :documents_unplaced,
        finished_at = CAST(:finished_at AS timestamptz)
    WHERE recovery_id = :recovery_id AND sap_system = :sap_system
""")

FINISH = text("""
    /* it is over */
    UPDATE recoveries SET finished_at = :now, updated_at = :now WHERE recovery_id = :recovery_id
""")

MAX_UNPLACED_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Recovery:
    """A recovery as it stands; `marked_to` is the operation that the walk through them has come to.

    `since` is the moment of the backup, `reads_since` where the documents are read from. Unless it
    `is_at_home` it may have been restored with the database, and know nothing of what has happened since.
    """

    recovery_id: str
    since: datetime
    reads_since: datetime
    is_at_home: bool
    started_by: str
    feeds_resumed: int | None
    marked_to: str
    is_marked: bool
    started_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class LaneWalk:
    """How far the walk through one SAP system's documents has come."""

    sap_system: str
    pass_number: int
    next_offset: int
    finished_at: datetime | None


class RestoredRecoveryError(BridgeError):
    """The recovery that runs may have come out of a backup; another one has to be begun in its place."""

    def __init__(self) -> None:
        super().__init__(
            "PostgreSQL has started since this recovery was begun, perhaps on a backup that was made during"
            " it; begin another by `bridge recover --since … --restart`"
        )


def begin(
    connection: Connection,
    recovery_id: str,
    *,
    since: datetime,
    replaces: Recovery | None,
    started_by: str,
    now: datetime,
) -> None:
    """Begin a recovery. `replaces`: the one that runs, which is abandoned.

    What that one has not placed yet is left to the new one, which therefore reads documents from as early on.
    """
    if replaces is not None:
        connection.execute(ABANDON, {"now": now})
    parameters = {
        "recovery_id": recovery_id,
        "since": since,
        "reads_since": replaces and replaces.reads_since,
        "started_by": started_by,
        "now": now,
    }
    connection.execute(BEGIN, parameters)
    connection.execute(BEGIN_LANES, {"recovery_id": recovery_id})


def latest(connection: Connection) -> Recovery | None:
    """Return the recovery that runs, or the last one."""
    row = connection.execute(SELECT_LATEST).one_or_none()
    return None if row is None else _recovery(connection, row)


def lock_running(connection: Connection) -> Recovery | None:
    """Lock the recovery that runs, so that nobody else takes its next step; None if none runs.

    RestoredRecoveryError if it is not to be carried on.
    """
    row = connection.execute(LOCK).one_or_none()
    if row is None:
        return None
    recovery = _recovery(connection, row)
    if not recovery.is_at_home:
        raise RestoredRecoveryError
    return recovery


def lane_walks(connection: Connection, recovery_id: str) -> list[LaneWalk]:
    return [
        LaneWalk(row.sap_system, row.pass_number, row.next_offset, row.finished_at)
        for row in connection.execute(SELECT_LANES, {"recovery_id": recovery_id})
    ]


def save(
    connection: Connection,
    recovery: Recovery,
    *,
    feeds_resumed: int | None,
    feed_start: FeedStart,
    operations_marked: int,
    marked_to: str,
    is_marked: bool,
    now: datetime,
) -> None:
    """Note a step; `operations_marked` is added to what was marked before."""
    connection.execute(
        SAVE,
        {
            "recovery_id": recovery.recovery_id,
            "feeds_resumed": feeds_resumed,
            "feed_floor": feed_start.floor,
            "feed_epoch": feed_start.epoch,
            "operations_marked": operations_marked,
            "marked_to": marked_to,
            "is_marked": is_marked,
            "now": now,
        },
    )


def save_lane(
    connection: Connection,
    recovery: Recovery,
    walk: LaneWalk,
    *,
    documents_read: int,
    operations_made: int,
    documents_unplaced: int,
) -> None:
    """Note a step of a walk; the counts are added to those of before."""
    connection.execute(
        SAVE_LANE,
        {
            "recovery_id": recovery.recovery_id,
            "sap_system": walk.sap_system,
            "pass_number": walk.pass_number,
            "next_offset": walk.next_offset,
            "documents_read": documents_read,
            "operations_made": operations_made,
            "documents_unplaced": documents_unplaced,
            "finished_at": walk.finished_at,
        },
    )


def finish(connection: Connection, recovery: Recovery, *, now: datetime) -> None:
    connection.execute(FINISH, {"recovery_id": recovery.recovery_id, "now": now})


def view(connection: Connection) -> dict[str, Any] | None:
    """Return the recovery that runs, or the last one, with its progress, as operators see it."""
    row = connection.execute(SELECT_LATEST).one_or_none()
    if row is None:
        return None
    parameters = {"recovery_id": row.recovery_id}
    unplaced = unplaced_documents.open_documents(connection, limit=MAX_UNPLACED_SHOWN)
    return {
        "id": row.recovery_id,
        "status": "running" if row.finished_at is None else "finished",
        "since": rfc3339(row.since),
        "reads_since": rfc3339(row.reads_since),
        "started_by": row.started_by,
        "started_at": rfc3339(row.started_at),
        "updated_at": rfc3339(row.updated_at),
        "finished_at": rfc3339(row.finished_at) if row.finished_at else None,
        "feeds_resumed": row.feeds_resumed,
        "operations_marked": row.operations_marked,
        "is_marked": row.is_marked,
        "lanes": [
            {
                "sap_system": lane.sap_system,
                "pass": lane.pass_number,
                "documents_read": lane.documents_read,
                "operations_made": lane.operations_made,
                "documents_unplaced": lane.documents_unplaced,
                "is_finished": lane.finished_at is not None,
            }
            for lane in connection.execute(SELECT_LANES, parameters)
        ],
        "unplaced_documents": [unplaced_documents.view(one) for one in unplaced],
    }


def _recovery(connection: Connection, row: Row[tuple[object, ...]]) -> Recovery:
    home = {
        "system_identifier": row.system_identifier,
        "timeline_id": row.timeline_id,
        "begun_start": row.begun_start,
        "begun_table": row.begun_table,
    }
    return Recovery(
        recovery_id=row.recovery_id,
        since=row.since,
        reads_since=row.reads_since,
        is_at_home=connection.execute(IS_AT_HOME, home).scalar_one(),
        started_by=row.started_by,
        feeds_resumed=row.feeds_resumed,
        marked_to=row.marked_to,
        is_marked=row.is_marked,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
