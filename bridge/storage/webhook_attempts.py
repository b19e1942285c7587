"""One attempt at a delivery: the claim that gives one process the right to send, and its record.

Every function takes a connection inside the caller's transaction. An attempt is identified by its number and
its lease: a claim whose lease has passed to somebody else records nothing. Lock order: cursor, delivery.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

TEST_EVENT_TYPE = "webhook.test"

SELECT_DELIVERY = text("""
    /* what a task is about, and how its endpoint stands */
    SELECT delivery.endpoint_id, delivery.partner_id, delivery.event_id IS NULL AS is_test,
           delivery.attempts_before, cursor.status, cursor.failing_since, cursor.configuration_version
    FROM webhooks.deliveries AS delivery JOIN webhooks.cursors AS cursor USING (endpoint_id)
    WHERE delivery.delivery_id = :delivery_id
""")

CLAIM_ATTEMPT = text("""
    /* take the attempt, if it is the next one of the delivery, is due and nobody is at it. A test is sent to
       a disabled endpoint too; it is no event, so its id and its time are those of the delivery */
    WITH claimed AS (
        UPDATE webhooks.deliveries AS delivery SET lease_until = :lease_until, task = 'made'
        WHERE delivery_id = :delivery_id AND status = 'pending' AND attempts + 1 = :attempt_number
          AND next_attempt_at <= :due_by AND (lease_until IS NULL OR lease_until <= :now)
          AND EXISTS (SELECT FROM webhooks.cursors AS cursor WHERE cursor.endpoint_id = delivery.endpoint_id
                      AND (cursor.status = 'enabled' OR (event_id IS NULL AND cursor.status = 'disabled')))
        RETURNING delivery_id, event_id, sequence, previous_sequence, created_at
    )
    SELECT COALESCE(claimed.event_id, 'evt_' || substr(claimed.delivery_id, 5)) AS event_id, claimed.sequence,
           claimed.previous_sequence, COALESCE(events.event_type, :test_event_type) AS event_type,
           COALESCE(events.data, CAST('{}' AS jsonb)) AS data,
           COALESCE(events.created_at, claimed.created_at) AS created_at, events.traceparent
    FROM claimed LEFT JOIN events USING (event_id)
""")

LOCK_DISABLED_CURSOR = text("""
    /* the endpoint stays disabled until this transaction has ended */
    SELECT endpoint_id FROM webhooks.cursors WHERE endpoint_id = :endpoint_id AND status = 'disabled'
    FOR SHARE
""")

HOLD_DELIVERY = text("""
    /* keep the event for when the endpoint is enabled again */
    UPDATE webhooks.deliveries SET status = 'held', next_attempt_at = NULL, lease_until = NULL, task = 'made'
    WHERE delivery_id = :delivery_id AND status = 'pending' AND event_id IS NOT NULL
      AND attempts + 1 = :attempt_number AND (lease_until IS NULL OR lease_until <= :now)
    RETURNING delivery_id
""")

LET_WAIT = text("""
    /* the endpoint has no room for the attempt now; whoever ends one of its attempts makes the task */
    UPDATE webhooks.deliveries SET task = 'waiting'
    WHERE delivery_id = :delivery_id AND status = 'pending' AND attempts + 1 = :attempt_number
      AND next_attempt_at <= :due_by AND (lease_until IS NULL OR lease_until <= :now)
    RETURNING delivery_id
""")

RECORD_ATTEMPT = text("""
    /* the attempt is over: delivered, waiting for the next one, exhausted, or held as its endpoint is */
    UPDATE webhooks.deliveries
    SET attempts = :attempt_number, status = :status, next_attempt_at = CAST(:next_attempt_at AS timestamptz),
        delivered_at = CAST(:delivered_at AS timestamptz), lease_until = NULL, sweep = 0
    WHERE delivery_id = :delivery_id AND status = 'pending' AND attempts + 1 = :attempt_number
      AND lease_until = :lease_until
    RETURNING delivery_id
""")

INSERT_ATTEMPT = text("""
    /* what the attempt came to, for the partner and the operators */
    INSERT INTO webhooks.attempts (delivery_id, attempt_number, started_at, duration_ms, response_status,
                                   error_class, response_excerpt, next_attempt_at)
    VALUES (:delivery_id, :attempt_number, :started_at, :duration_ms, :response_status, :error_class,
            CAST(:response_excerpt AS text), CAST(:next_attempt_at AS timestamptz))
""")

SELECT_ATTEMPT = text("""
    /* whether this very attempt has been recorded: the answer to the commit may have been lost */
    SELECT started_at FROM webhooks.attempts
    WHERE delivery_id = :delivery_id AND attempt_number = :attempt_number AND started_at = :started_at
""")


@dataclass(frozen=True, slots=True)
class StandingDelivery:
    """Which endpoint of which partner a delivery is for, and how that endpoint stands.

    `attempts_before`: made before the schedule last began anew. `configuration_version`: see the table.
    """

    endpoint_id: str
    partner_id: str
    is_test: bool
    attempts_before: int
    endpoint_status: str
    failing_since: datetime | None
    configuration_version: int


@dataclass(frozen=True, slots=True)
class ClaimedEvent:
    """The event that a claimed attempt has to tell, as it stands in the feed."""

    event_id: str
    sequence: int
    previous_sequence: int
    event_type: str
    data: dict[str, Any]
    created_at: datetime
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """An attempt that is over.

    `status` is what the delivery is now: delivered, pending (then `next_attempt_at` is set), exhausted, held.
    """

    delivery_id: str
    attempt_number: int
    lease_until: datetime
    started_at: datetime
    ended_at: datetime
    duration_ms: int
    response_status: int | None
    error_class: str | None
    response_excerpt: str | None
    status: str
    next_attempt_at: datetime | None


def standing_delivery(connection: Connection, delivery_id: str) -> StandingDelivery | None:
    row = connection.execute(SELECT_DELIVERY, {"delivery_id": delivery_id}).one_or_none()
    if row is None:
        return None
    return StandingDelivery(
        row.endpoint_id,
        row.partner_id,
        row.is_test,
        row.attempts_before,
        row.status,
        row.failing_since,
        row.configuration_version,
    )


def claim_attempt(
    connection: Connection,
    delivery_id: str,
    attempt_number: int,
    *,
    now: datetime,
    due_by: datetime,
    lease_until: datetime,
) -> ClaimedEvent | None:
    """Take the attempt; None if it is over, running, out of date, due past `due_by`, or not to be made."""
    row = connection.execute(
        CLAIM_ATTEMPT,
        {
            "delivery_id": delivery_id,
            "attempt_number": attempt_number,
            "now": now,
            "due_by": due_by,
            "lease_until": lease_until,
            "test_event_type": TEST_EVENT_TYPE,
        },
    ).one_or_none()
    if row is None:
        return None
    return ClaimedEvent(
        row.event_id,
        row.sequence,
        row.previous_sequence,
        row.event_type,
        row.data,
        row.created_at,
        row.traceparent,
    )


def hold_delivery(
    connection: Connection, endpoint_id: str, delivery_id: str, attempt_number: int, *, now: datetime
) -> bool:
    """Hold the delivery instead of this attempt, if the endpoint is disabled; nobody enables it meanwhile.

    False also if the attempt is over, running or out of date.
    """
    if connection.execute(LOCK_DISABLED_CURSOR, {"endpoint_id": endpoint_id}).one_or_none() is None:
        return False
    parameters = {"delivery_id": delivery_id, "attempt_number": attempt_number, "now": now}
    return connection.execute(HOLD_DELIVERY, parameters).one_or_none() is not None


def let_wait(
    connection: Connection, delivery_id: str, attempt_number: int, *, now: datetime, due_by: datetime
) -> bool:
    """Have the attempt wait for room at its endpoint; False if it is over, running or out of date."""
    parameters = {
        "delivery_id": delivery_id,
        "attempt_number": attempt_number,
        "now": now,
        "due_by": due_by,
    }
    return connection.execute(LET_WAIT, parameters).one_or_none() is not None


def record_attempt(connection: Connection, record: AttemptRecord) -> bool:
    """Write what the attempt came to; False, and nothing is written, if the claim has passed to another."""
    updated = connection.execute(
        RECORD_ATTEMPT,
        {
            "delivery_id": record.delivery_id,
            "attempt_number": record.attempt_number,
            "lease_until": record.lease_until,
            "status": record.status,
            "next_attempt_at": record.next_attempt_at,
            "delivered_at": record.ended_at if record.status == "delivered" else None,
        },
    ).one_or_none()
    if updated is None:
        return False
    connection.execute(
        INSERT_ATTEMPT,
        {
            "delivery_id": record.delivery_id,
            "attempt_number": record.attempt_number,
            "started_at": record.started_at,
            "duration_ms": record.duration_ms,
            "response_status": record.response_status,
            "error_class": record.error_class,
            "response_excerpt": record.response_excerpt,
            "next_attempt_at": record.next_attempt_at,
        },
    )
    return True


def is_recorded(connection: Connection, record: AttemptRecord) -> bool:
    """Tell whether this very attempt, not another claim's, stands in the log."""
    parameters = {
        "delivery_id": record.delivery_id,
        "attempt_number": record.attempt_number,
        "started_at": record.started_at,
    }
    return connection.execute(SELECT_ATTEMPT, parameters).one_or_none() is not None
