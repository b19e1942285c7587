"""The permits of a SAP lane, and what its guard is told by those who call: see bridge.lane.

Answers of a healthy lane touch no shared row: they are counted on the permits, and the relay folds them into
the window. A failure is told at once.
"""

from datetime import datetime

from sqlalchemy import Connection, text

from bridge.clock import Earliest, Latest
from bridge.lane import FailedCall, GuardSettings, Lane
from bridge.storage.lane_rows import COLUMNS, lane_of, save_lane

# How a posting ends that SAP has answered: what the window and the estimates are measured by.
ANSWERS = frozenset({"posted", "refused"})

TAKE_SLOT = text("""
    /* a free call permit within the window of the lane; none if it is held or its circuit is open. What a
       claim left behind when its lease ended stays taken until the operation is unknown: SAP may be at it */
    UPDATE sap_slots SET operation_id = :operation_id, lease_until = :lease_until, settling = false
    WHERE (sap_system, slot_number) = (
        SELECT slot.sap_system, slot.slot_number
        FROM sap_slots AS slot JOIN sap_systems AS lane USING (sap_system)
        WHERE slot.sap_system = :sap_system AND NOT lane.held AND slot.slot_number <= lane.call_window
          AND (slot.lease_until IS NULL OR (
              slot.lease_until <= :now AND slot.lease_until IS DISTINCT FROM (
                  SELECT dead.lease_until FROM operations AS dead
                  WHERE dead.operation_id = slot.operation_id AND dead.status = 'processing')))
        ORDER BY slot.slot_number LIMIT 1
        FOR UPDATE OF slot SKIP LOCKED
    )
    RETURNING slot_number
""")

GIVE_BACK_SLOT = text("""
    /* the call is over; a permit with another lease belongs to another claim by now */
    UPDATE sap_slots
    SET operation_id = NULL, lease_until = NULL, last_outcome = :outcome, last_latency_ms = :latency_ms,
        last_finished_at = :now,
        last_success_at = CASE WHEN :success THEN :now ELSE last_success_at END,
        answers = answers + CAST(:answers AS bigint),
        latency_ms_sum = latency_ms_sum + CAST(:answered_ms AS bigint)
    WHERE sap_system = :sap_system AND slot_number = :slot_number AND operation_id = :operation_id
      AND lease_until = :lease_until
""")

GIVE_BACK_AT_ONCE = text("""
    /* SAP has answered, and what follows is between us and the database: the permit is free before that is
       recorded. One whose lease is another by now belongs to a later claim. Nobody waits for the disk: if it
       is lost with the database, the lease ends */
    WITH hurried AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
    UPDATE sap_slots
    SET operation_id = NULL, lease_until = NULL, last_outcome = :outcome, last_latency_ms = :latency_ms,
        last_finished_at = :now,
        last_success_at = CASE WHEN :success THEN :now ELSE last_success_at END,
        answers = answers + 1, latency_ms_sum = latency_ms_sum + CAST(:latency_ms AS bigint)
    FROM hurried
    WHERE sap_system = :sap_system AND slot_number = :slot_number AND operation_id = :operation_id
      AND lease_until = :lease_until
""")

KEEP_SETTLING_SLOT = text("""
    /* SAP may still be working on it: the highest free permit stays taken until that is over */
    UPDATE sap_slots SET operation_id = :operation_id, lease_until = :settled_at, settling = true
    WHERE (sap_system, slot_number) = (
        SELECT slot.sap_system, slot.slot_number
        FROM sap_slots AS slot JOIN sap_systems AS lane USING (sap_system)
        WHERE slot.sap_system = :sap_system AND slot.slot_number <= lane.hard_cap
          AND (slot.lease_until IS NULL OR (
              slot.lease_until <= :now AND slot.lease_until IS DISTINCT FROM (
                  SELECT dead.lease_until FROM operations AS dead
                  WHERE dead.operation_id = slot.operation_id AND dead.status = 'processing')))
        ORDER BY slot.slot_number DESC LIMIT 1 FOR UPDATE OF slot SKIP LOCKED
    )
""")

FREE_SETTLING_SLOTS = text("""
    /* the outcome is known: nothing of the operation can still be running in SAP */
    UPDATE sap_slots SET operation_id = NULL, lease_until = NULL, settling = false
    WHERE sap_system = :sap_system AND operation_id = :operation_id
""")

OTHERS_SUCCEEDED = text("""
    /* whether any posting of the lane has succeeded since then */
    SELECT EXISTS (SELECT FROM sap_slots WHERE sap_system = :sap_system AND last_success_at > :since)
""")

FAILS_ALONE = text("""
    /* whether the lane is well but for this operation: open, nothing else has failed since its last success,
       and that was after the operation was accepted */
    SELECT call_window > 0 AND failed_probes = 0
           AND failing_operations <@ ARRAY[CAST(:operation_id AS text)]
           AND EXISTS (SELECT FROM sap_slots AS slot
                       WHERE slot.sap_system = lane.sap_system AND last_success_at > :since)
    FROM sap_systems AS lane WHERE sap_system = :sap_system
""")

LOCK_LANE = text(f"""
    /* the guard of the lane, to change it */
    SELECT {COLUMNS} FROM sap_systems WHERE sap_system = :sap_system FOR NO KEY UPDATE
""")  # noqa: S608 - made of constants

LANE_IS_TROUBLED = text("""
    /* read without a lock, so that the success of a healthy lane touches no shared row */
    SELECT EXISTS (SELECT FROM sap_systems WHERE sap_system = :sap_system
                   AND (failed_probes > 0 OR call_window = 0 OR failing_operations <> '{}'))
""")


def take_slot(
    connection: Connection, sap_system: str, operation_id: str, *, lease_until: Latest, now: Earliest
) -> int | None:
    """Return the number of the permit taken, or None when no call may start now."""
    slot_number: int | None = connection.execute(
        TAKE_SLOT,
        {
            "sap_system": sap_system,
            "operation_id": operation_id,
            "lease_until": lease_until,
            "now": now,
        },
    ).scalar_one_or_none()
    return slot_number


def give_back_slot(
    connection: Connection,
    sap_system: str,
    slot_number: int,
    operation_id: str,
    *,
    lease_until: Latest,
    outcome: str,
    success: bool,
    latency_ms: int,
    now: datetime,
) -> None:
    connection.execute(
        GIVE_BACK_SLOT,
        {
            "sap_system": sap_system,
            "slot_number": slot_number,
            "operation_id": operation_id,
            "lease_until": lease_until,
            "outcome": outcome,
            "success": success,
            "answers": int(outcome in ANSWERS),
            "answered_ms": latency_ms if outcome in ANSWERS else 0,
            "latency_ms": latency_ms,
            "now": now,
        },
    )


def give_back_answered_slot(
    connection: Connection,
    sap_system: str,
    slot_number: int,
    operation_id: str,
    *,
    lease_until: Latest,
    outcome: str,
    success: bool,
    latency_ms: int,
    now: datetime,
) -> None:
    """Give the permit of an answered posting back, in a transaction of its own; then record the answer."""
    connection.execute(
        GIVE_BACK_AT_ONCE,
        {
            "sap_system": sap_system,
            "slot_number": slot_number,
            "operation_id": operation_id,
            "lease_until": lease_until,
            "outcome": outcome,
            "success": success,
            "latency_ms": latency_ms,
            "now": now,
        },
    )


def keep_settling_slot(
    connection: Connection, sap_system: str, operation_id: str, *, settled_at: Latest, now: Earliest
) -> None:
    connection.execute(
        KEEP_SETTLING_SLOT,
        {
            "sap_system": sap_system,
            "operation_id": operation_id,
            "settled_at": settled_at,
            "now": now,
        },
    )


def free_settling_slots(connection: Connection, sap_system: str, operation_id: str) -> None:
    connection.execute(FREE_SETTLING_SLOTS, {"sap_system": sap_system, "operation_id": operation_id})


def others_succeeded(connection: Connection, sap_system: str, *, since: datetime) -> bool:
    return bool(connection.execute(OTHERS_SUCCEEDED, {"sap_system": sap_system, "since": since}).scalar_one())


def fails_alone(connection: Connection, sap_system: str, operation_id: str, *, since: datetime) -> bool:
    """Whether SAP has taken others since then and nothing but this operation fails."""
    parameters = {"sap_system": sap_system, "operation_id": operation_id, "since": since}
    return bool(connection.execute(FAILS_ALONE, parameters).scalar_one())


def note_failure(
    connection: Connection, sap_system: str, failure: FailedCall, settings: GuardSettings, *, now: datetime
) -> None:
    """Let the guard of the lane know that SAP did not answer: the window may shrink, the circuit open."""
    before = _lock_lane(connection, sap_system)
    save_lane(connection, sap_system, before, before.after_failure(failure, settings, now))


def note_success(connection: Connection, sap_system: str) -> None:
    """Let the guard of the lane know that SAP posts; a lane that was closed opens again."""
    if connection.execute(LANE_IS_TROUBLED, {"sap_system": sap_system}).scalar_one():
        before = _lock_lane(connection, sap_system)
        save_lane(connection, sap_system, before, before.after_success())


def note_answer(connection: Connection, sap_system: str) -> None:
    """Let the guard of the lane know that SAP answered a question; that alone opens nothing."""
    if connection.execute(LANE_IS_TROUBLED, {"sap_system": sap_system}).scalar_one():
        before = _lock_lane(connection, sap_system)
        save_lane(connection, sap_system, before, before.after_question())


def _lock_lane(connection: Connection, sap_system: str) -> Lane:
    return lane_of(connection.execute(LOCK_LANE, {"sap_system": sap_system}).one())
