"""One attempt at a delivery: what it is about, and its record. The claim is in webhook_claims.

Every function takes a connection inside the caller's transaction. An attempt is identified by its number and
its lease: a claim whose lease has passed to somebody else records nothing. Lock order: cursor, delivery.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from bridge.storage.prepared import Prepared

TEST_EVENT_TYPE = "webhook.test"

SELECT_DELIVERY = text("""
    /* what a task is about, and how its endpoint stands */
    SELECT delivery.endpoint_id, delivery.partner_id, delivery.event_id IS NULL AS is_test,
           cursor.status AS endpoint_status, cursor.failing_since, cursor.probe_at,
           cursor.configuration_version
    FROM webhooks.deliveries AS delivery JOIN webhooks.cursors AS cursor USING (endpoint_id)
    WHERE delivery.delivery_id = :delivery_id
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

RECORD_ATTEMPT = text("""
    /* the attempt is over: delivered, waiting for the next one, exhausted, or held as its endpoint is */
    UPDATE webhooks.deliveries
    SET attempts = :attempt_number, status = :status, next_attempt_at = CAST(:next_attempt_at AS timestamptz),
        delivered_at = CAST(:delivered_at AS timestamptz), lease_until = NULL, sweep = 0,
        swept_until = NULL
    WHERE delivery_id = :delivery_id AND status = 'pending' AND attempts + 1 = :attempt_number
      AND lease_until = :lease_until
    RETURNING delivery_id
""")

RECORD_DELIVERED = text("""
    /* the attempt is over and the event delivered: the delivery, and the log for the partner */
    WITH delivered AS (
        UPDATE webhooks.deliveries
        SET attempts = :attempt_number, status = 'delivered', next_attempt_at = NULL,
            delivered_at = :delivered_at, lease_until = NULL, sweep = 0,
            swept_until = NULL
        WHERE delivery_id = :delivery_id AND status = 'pending' AND attempts + 1 = :attempt_number
          AND lease_until = :lease_until
        RETURNING delivery_id
    )
    INSERT INTO webhooks.attempts (delivery_id, attempt_number, started_at, duration_ms, response_status,
                                   response_excerpt)
    SELECT delivery_id, :attempt_number, :started_at, :duration_ms, :response_status,
           CAST(:response_excerpt AS text)
    FROM delivered
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


_SELECT_DELIVERY = Prepared(SELECT_DELIVERY)
_RECORD_DELIVERED = Prepared(RECORD_DELIVERED)


@dataclass(frozen=True, slots=True)
class StandingDelivery:
    """Which endpoint of which partner a delivery is for, and how that endpoint stands.

    `probe_at`: while it fails, when it may be probed. `configuration_version`: see the table.
    """

    endpoint_id: str
    partner_id: str
    is_test: bool
    endpoint_status: str
    failing_since: datetime | None
    probe_at: datetime | None
    configuration_version: int


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
    rows = _SELECT_DELIVERY.rows(connection, {"delivery_id": delivery_id})
    return StandingDelivery(*rows[0]) if rows else None


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


def record_delivered(connection: Connection, record: AttemptRecord) -> bool:
    """Write that the event was delivered; False, and nothing written, if the claim has passed to another."""
    rows = _RECORD_DELIVERED.rows(
        connection,
        {
            "delivery_id": record.delivery_id,
            "attempt_number": record.attempt_number,
            "lease_until": record.lease_until,
            "delivered_at": record.ended_at,
            "started_at": record.started_at,
            "duration_ms": record.duration_ms,
            "response_status": record.response_status,
            "response_excerpt": record.response_excerpt,
        },
    )
    return bool(rows)


def is_recorded(connection: Connection, record: AttemptRecord) -> bool:
    """Tell whether this very attempt, not another claim's, stands in the log."""
    parameters = {
        "delivery_id": record.delivery_id,
        "attempt_number": record.attempt_number,
        "started_at": record.started_at,
    }
    return connection.execute(SELECT_ATTEMPT, parameters).one_or_none() is not None
