"""What operators do to a lane: hold it, let it go, change how many calls SAP may have at once.

Every function takes a connection inside the caller's transaction. Lock order: lane, slot.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, text

# As the schema has it.
MAX_HARD_CAP_CALLS = 256

LOCK_LANE = text("""
    /* the lane, to change it */
    SELECT held_by, hard_cap FROM sap_systems WHERE sap_system = :sap_system FOR NO KEY UPDATE
""")

SET_HELD = text("""
    /* held: nothing is dispatched, and no call begins */
    UPDATE sap_systems
    SET held = :held, held_by = CASE WHEN :held THEN 'operator' END
    WHERE sap_system = :sap_system
""")

SET_CAP = text("""
    /* a window that was whole stays whole; otherwise it grows by itself, and is never above the cap */
    UPDATE sap_systems
    SET hard_cap = :hard_cap,
        call_window = CASE WHEN call_window = hard_cap AND failed_probes = 0 THEN :hard_cap
                           ELSE least(call_window, :hard_cap) END
    WHERE sap_system = :sap_system
""")

ADD_SLOTS = text("""
    /* one row per call that may run at once. Those above a lower cap stay: their calls end, none begins */
    INSERT INTO sap_slots (sap_system, slot_number)
    SELECT :sap_system, generate_series(1, CAST(:hard_cap AS integer))
    ON CONFLICT (sap_system, slot_number) DO NOTHING
""")


@dataclass(frozen=True, slots=True)
class LockedLane:
    """What operators decide about a lane; `hard_cap` in calls at once. `held_by`: operator or recovery."""

    held_by: str | None
    hard_cap: int


def lock_lane(connection: Connection, sap_system: str) -> LockedLane | None:
    """Lock the lane and return it; a relay at it or a failure being recorded is waited for."""
    row = connection.execute(LOCK_LANE, {"sap_system": sap_system}).one_or_none()
    return None if row is None else LockedLane(row.held_by, row.hard_cap)


def set_held(connection: Connection, sap_system: str, *, held: bool) -> None:
    connection.execute(SET_HELD, {"sap_system": sap_system, "held": held})


def set_cap(connection: Connection, sap_system: str, hard_cap: int) -> None:
    """Change the calls allowed at once. What is with SAP already ends in its own time."""
    parameters = {"sap_system": sap_system, "hard_cap": hard_cap}
    connection.execute(SET_CAP, parameters)
    connection.execute(ADD_SLOTS, parameters)
