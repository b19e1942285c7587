"""One attempt at a delivery: the claim that gives one process the right to send, and its record.

Every function takes a connection inside the caller's transaction. An attempt is identified by its number and
its lease: a claim whose lease has passed to somebody else records nothing.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

SELECT_DELIVERY = text("""
    /* whose delivery a task is about, to look up its endpoint before the claim */
    SELECT endpoint_id, partner_id FROM webhooks.deliveries WHERE delivery_id = :delivery_id
""")

CLAIM_ATTEMPT = text("""
    /* take the attempt, if it is the next one of the delivery, is due and nobody is at it */
    WITH claimed AS (
        UPDATE webhooks.deliveries SET lease_until = :lease_until
        WHERE delivery_id = :delivery_id AND status = 'pending' AND attempts + 1 = :attempt_number
          AND next_attempt_at <= :due_by AND (lease_until IS NULL OR lease_until <= :now)
        RETURNING delivery_id, event_id, sequence, previous_sequence
    )
    SELECT claimed.event_id, claimed.sequence, claimed.previous_sequence, events.event_type, events.data,
           events.created_at
    FROM claimed JOIN events USING (event_id)
""")

HOLD_DELIVERY = text("""
    /* the endpoint is disabled or gone: keep the event for when it is back. Not before the attempt has been
       due for long enough: whoever asks may not know of the endpoint yet, or that it is enabled again */
    UPDATE webhooks.deliveries SET status = 'held', next_attempt_at = NULL, lease_until = NULL, sweep = 0
    WHERE delivery_id = :delivery_id AND status = 'pending' AND attempts + 1 = :attempt_number
      AND next_attempt_at <= :due_by AND (lease_until IS NULL OR lease_until <= :now)
    RETURNING delivery_id
""")

RECORD_ATTEMPT = text("""
    /* the attempt is over: delivered, waiting for the next one, or exhausted */
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
                                   error_class)
    VALUES (:delivery_id, :attempt_number, :started_at, :duration_ms, :response_status, :error_class)
""")


@dataclass(frozen=True, slots=True)
class DeliveryOwner:
    """Which endpoint of which partner a delivery is for."""

    endpoint_id: str
    partner_id: str


@dataclass(frozen=True, slots=True)
class ClaimedEvent:
    """The event that a claimed attempt has to tell, as it stands in the feed."""

    event_id: str
    sequence: int
    previous_sequence: int
    event_type: str
    data: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """An attempt that is over.

    `status` is what the delivery is now: delivered, pending (then `next_attempt_at` is set) or exhausted.
    """

    delivery_id: str
    attempt_number: int
    lease_until: datetime
    started_at: datetime
    ended_at: datetime
    duration_ms: int
    response_status: int | None
    error_class: str | None
    status: str
    next_attempt_at: datetime | None


def delivery_owner(connection: Connection, delivery_id: str) -> DeliveryOwner | None:
    row = connection.execute(SELECT_DELIVERY, {"delivery_id": delivery_id}).one_or_none()
    return None if row is None else DeliveryOwner(row.endpoint_id, row.partner_id)


def claim_attempt(
    connection: Connection,
    delivery_id: str,
    attempt_number: int,
    *,
    now: datetime,
    due_by: datetime,
    lease_until: datetime,
) -> ClaimedEvent | None:
    """Take the attempt; None if it is over, running, out of date or due past `due_by`."""
    row = connection.execute(
        CLAIM_ATTEMPT,
        {
            "delivery_id": delivery_id,
            "attempt_number": attempt_number,
            "now": now,
            "due_by": due_by,
            "lease_until": lease_until,
        },
    ).one_or_none()
    if row is None:
        return None
    return ClaimedEvent(
        row.event_id, row.sequence, row.previous_sequence, row.event_type, row.data, row.created_at
    )


def hold_delivery(
    connection: Connection, delivery_id: str, attempt_number: int, *, now: datetime, due_by: datetime
) -> bool:
    """Hold the delivery instead of this attempt, if the attempt has been due by `due_by`.

    False also if the attempt is over, running or out of date.
    """
    parameters = {
        "delivery_id": delivery_id,
        "attempt_number": attempt_number,
        "now": now,
        "due_by": due_by,
    }
    return connection.execute(HOLD_DELIVERY, parameters).one_or_none() is not None


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
        },
    )
    return True
