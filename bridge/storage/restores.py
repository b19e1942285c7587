"""The recovery gate: closed from the moment a restore is noticed until `bridge recover` has finished.

A restored database knows less than SAP does. While the gate is closed nothing is decided on what it says:
lanes are held, feeds get no numbers, and whoever would decide raises RecoveryDueError. Payments are accepted.

Three signs close the gate, and every service evaluates them inside the transaction that decides: the database
finds itself in another cluster or on another timeline; the high-water mark outside of it tells against it
(`suspected_at`); a recovery runs.

The gate is also closed from each start of PostgreSQL until the dispatcher has compared the database with that
mark (bridge/storage/high_water_marks.py): nobody can put a database back without starting PostgreSQL, or
making its tables, again.
A promoted replica's checkpoint is of the old timeline for minutes, until its first one has ended; the end of
its recovery tells the new one at once.
https://www.postgresql.org/docs/current/functions-info.html (pg_control_system, pg_control_checkpoint)
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, event, text

from bridge.clock import rfc3339
from bridge.errors import RecoveryDueError, TransientError
from bridge.high_water_mark import Suspicion

# The key of the advisory lock that deciders share and the beginning of a recovery takes alone.
GATE_LOCK = 8_031_107
# How soon to come back while the database is compared with the high-water mark.
COMPARING_SECONDS = 5.0

IS_RECOVERED = """
    /* whether the database is where it was made or last recovered, and nothing suggests that it is old */
    SELECT EXISTS (
        SELECT FROM database_identity AS home
        JOIN pg_control_system() AS cluster USING (system_identifier)
        CROSS JOIN pg_control_checkpoint() AS checkpoint CROSS JOIN pg_control_recovery() AS recovery
        WHERE greatest(checkpoint.timeline_id, recovery.min_recovery_end_timeline) = home.timeline_id
          AND home.suspected_at IS NULL
    ) AND NOT EXISTS (SELECT FROM recoveries WHERE finished_at IS NULL)
"""

IS_TRUSTED = """
    EXISTS (SELECT FROM database_identity AS home
            WHERE home.trusted_start = pg_postmaster_start_time() AND home.trusted_table = home.tableoid)
"""

LOOK = text(f"""
    /* the two conditions of the gate */
    SELECT ({IS_RECOVERED}) AS is_recovered, {IS_TRUSTED} AS is_trusted
""")

SHARE_GATE = text("""
    /* until this transaction ends no recovery begins */
    SELECT pg_advisory_xact_lock_shared(CAST(:gate AS bigint))
""")

CLOSE_GATE = text("""
    /* wait for every transaction that is deciding; whichever comes next sees what this one commits */
    SELECT pg_advisory_xact_lock(CAST(:gate AS bigint))
""")

HOLD_LANES = """
    /* no call before bridge recover has run; a lane that an operator holds stays held by the operator */
    UPDATE sap_systems SET held = true, held_by = 'recovery' WHERE NOT held
"""

# In one statement: between two the recovery may end, and what is held then nobody would let go.
HOLD_LANES_IF_DUE = f"{HOLD_LANES} AND NOT ({IS_RECOVERED})"

RELEASE_LANES = text("""
    /* recovered: lanes that were held for it go on */
    UPDATE sap_systems SET held = false, held_by = NULL WHERE held_by = 'recovery'
""")

SUSPECT = text("""
    /* something outside knows more than this database does */
    UPDATE database_identity SET suspected_at = :now, suspected_because = :because
    WHERE suspected_at IS NULL
""")

SELECT_SUSPICION = text("""
    /* why the database is suspected, since when, and when it last proposed a mark itself */
    SELECT suspected_because, suspected_at, proposed_at FROM database_identity WHERE suspected_at IS NOT NULL
""")

SETTLE_IN = text("""
    /* from now on the database belongs here, and the high-water mark follows it, whatever it says */
    UPDATE database_identity
    SET system_identifier = (SELECT system_identifier FROM pg_control_system()),
        timeline_id = (SELECT greatest(timeline_id, min_recovery_end_timeline)
                       FROM pg_control_checkpoint(), pg_control_recovery()),
        suspected_at = NULL, suspected_because = NULL,
        trusted_start = pg_postmaster_start_time(), trusted_table = tableoid,
        is_compared = false, takes_over = true
""")


def hold_lanes_of_a_restored_database(engine: Engine) -> None:
    """Have every new connection look whether the database was restored, before anything is done on it.

    A restore ends all connections, so nobody can go on with a restored database without having looked.
    """

    @event.listens_for(engine, "connect")
    def look(driver_connection: Any, _record: Any) -> None:
        cursor = driver_connection.cursor()
        try:
            cursor.execute(IS_RECOVERED)
            if not cursor.fetchone()[0]:
                cursor.execute(HOLD_LANES_IF_DUE)
            driver_connection.commit()
        finally:
            cursor.close()


def is_recovery_due(connection: Connection) -> bool:
    """Tell whether a recovery runs or has to be begun."""
    return not connection.execute(text(IS_RECOVERED)).scalar_one()


def may_decide(connection: Connection) -> bool:
    """Tell whether the gate is open, for those who may simply come back later."""
    row = connection.execute(LOOK).one()
    return bool(row.is_recovered and row.is_trusted)


def require_open_gate(connection: Connection) -> None:
    """Raise RecoveryDueError, or TransientError before the comparison with the mark, if it is closed."""
    row = connection.execute(LOOK).one()
    if not row.is_recovered:
        raise RecoveryDueError
    if not row.is_trusted:
        raise TransientError(
            "PostgreSQL has started and was not compared with the high-water mark yet",
            retry_after_seconds=COMPARING_SECONDS,
        )


def require_recovered(connection: Connection) -> None:
    """Raise as `require_open_gate` while the gate is closed; else keep it open until the transaction ends.

    Call it before the transaction takes any other lock. The look is a statement of its own: its snapshot sees
    what the lock has waited for.
    """
    connection.execute(SHARE_GATE, {"gate": GATE_LOCK})
    require_open_gate(connection)


def close_gate(connection: Connection) -> None:
    """Wait until nobody is deciding. The caller's transaction then writes what keeps the gate closed."""
    connection.execute(CLOSE_GATE, {"gate": GATE_LOCK})


def suspect(connection: Connection, because: Suspicion, *, now: datetime) -> None:
    """Hold the lanes of a database that the mark tells against. The caller has closed the gate."""
    connection.execute(SUSPECT, {"because": str(because), "now": now})
    hold_lanes(connection)


def suspicion(connection: Connection) -> dict[str, Any] | None:
    """Return why the database is suspected, as operators see it; None if it is not.

    `stands_at`: the database's last mark of its own, so about the moment that it was put back to.
    """
    row = connection.execute(SELECT_SUSPICION).one_or_none()
    if row is None:
        return None
    return {
        "reason": row.suspected_because,
        "since": rfc3339(row.suspected_at),
        "stands_at": rfc3339(row.proposed_at) if row.proposed_at else None,
    }


def hold_lanes(connection: Connection) -> None:
    """Hold every lane for recovery that nobody holds yet."""
    connection.execute(text(HOLD_LANES))


def end_recovery(connection: Connection) -> None:
    """Let the lanes go that were held for recovery; the database is at home where it is now."""
    connection.execute(RELEASE_LANES)
    connection.execute(SETTLE_IN)
