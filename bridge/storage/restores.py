"""The recovery gate: closed from the moment a restore is noticed until `bridge recover` has finished.

A restored database knows less than SAP does. While the gate is closed nothing is decided on what it says:
lanes are held, feeds get no numbers, and whoever would decide raises RecoveryDueError. Payments are accepted.

Three signs close the gate, and every service evaluates them inside the transaction that decides: the database
finds itself in another cluster or on another timeline; it is suspected of being old (`suspected_at`, for a
mark that is kept outside of the database; nothing sets it yet); a recovery runs.
A promoted replica's checkpoint is of the old timeline for minutes, until its first one has ended; the end of
its recovery tells the new one at once.
https://www.postgresql.org/docs/current/functions-info.html (pg_control_system, pg_control_checkpoint)
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, event, text

from bridge.errors import RecoveryDueError

# The key of the advisory lock that deciders share and the beginning of a recovery takes alone.
GATE_LOCK = 8_031_107

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
    UPDATE database_identity SET suspected_at = :now WHERE suspected_at IS NULL
""")

SETTLE_IN = text("""
    /* from now on the database belongs here */
    UPDATE database_identity
    SET system_identifier = (SELECT system_identifier FROM pg_control_system()),
        timeline_id = (SELECT greatest(timeline_id, min_recovery_end_timeline)
                       FROM pg_control_checkpoint(), pg_control_recovery()),
        suspected_at = NULL
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


def require_recovered(connection: Connection) -> None:
    """Raise RecoveryDueError while the gate is closed; else keep it open until the transaction ends.

    Call it before the transaction takes any other lock. The look is a statement of its own: its snapshot sees
    what the lock has waited for.
    """
    connection.execute(SHARE_GATE, {"gate": GATE_LOCK})
    if is_recovery_due(connection):
        raise RecoveryDueError


def close_gate(connection: Connection) -> None:
    """Wait until nobody is deciding. The caller's transaction then writes what keeps the gate closed."""
    connection.execute(CLOSE_GATE, {"gate": GATE_LOCK})


def suspect(connection: Connection, *, now: datetime) -> None:
    """Close the gate and hold the lanes of a database that is older than something outside knows it to be."""
    close_gate(connection)
    connection.execute(SUSPECT, {"now": now})
    hold_lanes(connection)


def hold_lanes(connection: Connection) -> None:
    """Hold every lane for recovery that nobody holds yet."""
    connection.execute(text(HOLD_LANES))


def end_recovery(connection: Connection) -> None:
    """Let the lanes go that were held for recovery; the database is at home where it is now."""
    connection.execute(RELEASE_LANES)
    connection.execute(SETTLE_IN)
