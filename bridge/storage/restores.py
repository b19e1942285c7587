"""Noticing that the database was restored from a backup: it finds itself in another cluster, or timeline.

A restored database knows less than SAP does. Until `bridge recover` has run, its lanes are held: nothing that
may have been posted in the lost time is posted again.
https://www.postgresql.org/docs/current/functions-info.html (pg_control_system, pg_control_checkpoint)
"""

from typing import Any

from sqlalchemy import Connection, Engine, event, text

IS_AT_HOME = """
    /* whether this is the cluster and the timeline that the database was made or last recovered in */
    SELECT EXISTS (
        SELECT FROM database_identity
        JOIN pg_control_system() AS cluster USING (system_identifier)
        CROSS JOIN pg_control_checkpoint() AS checkpoint
        WHERE checkpoint.timeline_id = database_identity.timeline_id
    )
"""

HOLD_LANES = """
    /* no call before bridge recover has run; what an operator holds stays his */
    UPDATE sap_systems SET held = true, held_by = 'recovery' WHERE NOT held
"""

RELEASE_LANES = text("""
    /* recovered: what was held for it goes on */
    UPDATE sap_systems SET held = false, held_by = NULL WHERE held_by = 'recovery'
""")

SETTLE_IN = text("""
    /* from now on the database belongs here */
    UPDATE database_identity
    SET system_identifier = (SELECT system_identifier FROM pg_control_system()),
        timeline_id = (SELECT timeline_id FROM pg_control_checkpoint())
""")


def hold_lanes_of_a_restored_database(engine: Engine) -> None:
    """Have every new connection look whether the database was restored, before anything is done on it.

    A restore ends all connections, so nobody can go on with a restored database without having looked.
    """

    @event.listens_for(engine, "connect")
    def look(driver_connection: Any, _record: Any) -> None:
        cursor = driver_connection.cursor()
        try:
            cursor.execute(IS_AT_HOME)
            if not cursor.fetchone()[0]:
                cursor.execute(HOLD_LANES)
            driver_connection.commit()
        finally:
            cursor.close()


def is_restored(connection: Connection) -> bool:
    return not connection.execute(text(IS_AT_HOME)).scalar_one()


def hold_lanes(connection: Connection) -> None:
    """Hold every lane for recovery that nobody holds yet."""
    connection.execute(text(HOLD_LANES))


def end_recovery(connection: Connection) -> None:
    """Let the lanes go that were held for recovery; the database is at home where it is now."""
    connection.execute(RELEASE_LANES)
    connection.execute(SETTLE_IN)
