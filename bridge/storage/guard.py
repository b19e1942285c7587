"""The permits and the circuit of a SAP lane: who may call now, and when nobody may.

`call_window` is the guard's one number: 0 = circuit open, otherwise calls allowed at once. After an outage
one probe at a time goes out (half-open); its success opens the window again.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

MAX_BACKOFF_DOUBLINGS = 16
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
          AND (slot.lease_until IS NULL OR slot.lease_until <= :now)
          AND NOT EXISTS (
              SELECT FROM operations AS dead WHERE dead.operation_id = slot.operation_id
                AND dead.status = 'processing' AND dead.lease_until = slot.lease_until)
        ORDER BY slot.slot_number LIMIT 1
        FOR UPDATE OF slot SKIP LOCKED
    )
    RETURNING slot_number
""")

GIVE_BACK_SLOT = text("""
    /* the call is over; a permit that has passed to somebody else meanwhile is left alone */
    UPDATE sap_slots
    SET operation_id = NULL, lease_until = NULL, last_outcome = :outcome, last_latency_ms = :latency_ms,
        last_finished_at = :now,
        last_success_at = CASE WHEN :success THEN :now ELSE last_success_at END,
        answers = answers + CAST(:answers AS bigint),
        latency_ms_sum = latency_ms_sum + CAST(:answered_ms AS bigint)
    WHERE sap_system = :sap_system AND slot_number = :slot_number AND operation_id = :operation_id
""")

KEEP_SETTLING_SLOT = text("""
    /* SAP may still be working on it: the highest free permit stays taken until that is over */
    UPDATE sap_slots SET operation_id = :operation_id, lease_until = :settled_at, settling = true
    WHERE (sap_system, slot_number) = (
        SELECT slot.sap_system, slot.slot_number
        FROM sap_slots AS slot JOIN sap_systems AS lane USING (sap_system)
        WHERE slot.sap_system = :sap_system AND slot.slot_number <= lane.hard_cap
          AND (slot.lease_until IS NULL OR slot.lease_until <= :now)
          AND NOT EXISTS (
              SELECT FROM operations AS dead WHERE dead.operation_id = slot.operation_id
                AND dead.status = 'processing' AND dead.lease_until = slot.lease_until)
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

LOCK_LANE = text("""
    /* the guard of the lane, to change it */
    SELECT sap_system, hard_cap, call_window, probe_not_before, failed_probes, failing_operations
    FROM sap_systems WHERE sap_system = :sap_system FOR NO KEY UPDATE
""")

UPDATE_LANE = text("""
    /* the guard after a failure */
    UPDATE sap_systems
    SET call_window = :call_window, probe_not_before = :probe_not_before, failed_probes = :failed_probes,
        failing_operations = :failing_operations
    WHERE sap_system = :sap_system
""")

LANE_IS_TROUBLED = text("""
    /* read without a lock, so that the success of a healthy lane touches no shared row */
    SELECT EXISTS (SELECT FROM sap_systems WHERE sap_system = :sap_system
                   AND (failed_probes > 0 OR call_window < hard_cap OR failing_operations <> '{}'))
""")

REOPEN_LANE = text("""
    /* SAP answers: the whole window is open again */
    UPDATE sap_systems
    SET call_window = hard_cap, probe_not_before = NULL, failed_probes = 0, failing_operations = '{}'
    WHERE sap_system = :sap_system
""")

PROBE_BY_POSTING = text("""
    /* the read side answers: half-open as the lane is, its next probe is a posting (even numbers are) */
    UPDATE sap_systems SET failed_probes = failed_probes + 1
    WHERE sap_system = :sap_system AND call_window = 1 AND mod(failed_probes, 2) = 1
""")


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """When a lane's circuit opens, and how often it is probed while it is open."""

    failing_operations_to_open: int
    probe_interval_seconds: float
    max_probe_interval_seconds: float


@dataclass(frozen=True, slots=True)
class Lane:
    """The guard of one SAP system."""

    sap_system: str
    hard_cap: int
    call_window: int
    probe_not_before: datetime | None
    failed_probes: int
    failing_operations: tuple[str, ...]

    def after_failure(
        self, operation_id: str, settings: GuardSettings, *, retry_after_seconds: float, now: datetime
    ) -> "Lane":
        """Return the guard after a call for the operation failed without a definite answer.

        The circuit opens when that many distinct operations have failed with no success between, or at once
        if the call was a probe. One poisonous operation alone never closes a lane to the others.
        """
        if self.call_window == 0:
            return self
        failing = self.failing_operations
        if operation_id not in failing:
            failing = (*failing, operation_id)
        if self.failed_probes == 0 and len(failing) < settings.failing_operations_to_open:
            return replace(self, failing_operations=failing)
        doublings = min(self.failed_probes, MAX_BACKOFF_DOUBLINGS)
        pause_seconds = min(
            settings.probe_interval_seconds * 2**doublings, settings.max_probe_interval_seconds
        )
        return replace(
            self,
            call_window=0,
            failed_probes=self.failed_probes + 1,
            probe_not_before=now + timedelta(seconds=max(pause_seconds, retry_after_seconds)),
            failing_operations=failing[-settings.failing_operations_to_open :],
        )


def take_slot(
    connection: Connection, sap_system: str, operation_id: str, *, lease_until: datetime, now: datetime
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
            "outcome": outcome,
            "success": success,
            "answers": int(outcome in ANSWERS),
            "answered_ms": latency_ms if outcome in ANSWERS else 0,
            "latency_ms": latency_ms,
            "now": now,
        },
    )


def keep_settling_slot(
    connection: Connection, sap_system: str, operation_id: str, *, settled_at: datetime, now: datetime
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


def note_failure(
    connection: Connection,
    sap_system: str,
    operation_id: str,
    settings: GuardSettings,
    *,
    retry_after_seconds: float,
    now: datetime,
) -> None:
    """Let the guard of the lane know that SAP did not answer; it may open the circuit."""
    row = connection.execute(LOCK_LANE, {"sap_system": sap_system}).one()
    lane = Lane(
        row.sap_system,
        row.hard_cap,
        row.call_window,
        row.probe_not_before,
        row.failed_probes,
        tuple(row.failing_operations),
    )
    after = lane.after_failure(operation_id, settings, retry_after_seconds=retry_after_seconds, now=now)
    if after != lane:
        connection.execute(
            UPDATE_LANE,
            {
                "sap_system": sap_system,
                "call_window": after.call_window,
                "probe_not_before": after.probe_not_before,
                "failed_probes": after.failed_probes,
                "failing_operations": list(after.failing_operations),
            },
        )


def note_success(connection: Connection, sap_system: str) -> None:
    """Let the guard of the lane know that SAP posts; the window opens again if it was not open."""
    if connection.execute(LANE_IS_TROUBLED, {"sap_system": sap_system}).scalar_one():
        connection.execute(REOPEN_LANE, {"sap_system": sap_system})


def note_answer(connection: Connection, sap_system: str) -> None:
    """Let the guard of the lane know that SAP answered a question.

    That says nothing of its posting side: it neither opens the window nor forgives failed postings, but a
    half-open lane may try a posting next.
    """
    connection.execute(PROBE_BY_POSTING, {"sap_system": sap_system})
