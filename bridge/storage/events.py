"""What leaves through the outbox, written in the transaction that made it true."""

import json
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from bridge.ids import new_id
from bridge.payment import EventType

APPEND_EVENT = text("""
    /* append an event to the timeline of the payment and queue it for the feed */
    WITH event AS (
        INSERT INTO events
            (event_id, partner_id, payment_id, operation_id, event_type, data, traceparent, created_at)
        VALUES (:event_id, :partner_id, :payment_id, :operation_id, :event_type, CAST(:data AS jsonb),
                CAST(:traceparent AS text), :now)
        RETURNING event_id
    )
    INSERT INTO outbox (lane, partner_id, event_id, not_before, traceparent, created_at)
    SELECT 'events', :partner_id, event_id, :now, CAST(:traceparent AS text), :now FROM event
""")

PUT_BACK = text("""
    /* queue an operation in its lane again; a row that is just being published loses its claim and stays */
    INSERT INTO outbox (lane, partner_id, operation_id, not_before, is_returned, traceparent, created_at)
    SELECT sap_system, partner_id, operation_id, CAST(:not_before AS timestamptz), true, traceparent, :now
    FROM operations WHERE operation_id = :operation_id
    ON CONFLICT (operation_id) WHERE operation_id IS NOT NULL DO UPDATE
    SET not_before = excluded.not_before, is_returned = true, claim_id = NULL, lease_until = NULL
""")


def append_event(
    connection: Connection,
    *,
    partner_id: str,
    payment_id: str,
    operation_id: str,
    event_type: EventType,
    payment: dict[str, Any],
    traceparent: str | None,
    now: datetime,
) -> str:
    """Write an event with its outbox row and return its id.

    `payment` is `Payment.as_json(...)`: the payment as it is at the event, without names and texts.
    """
    event_id = new_id("evt", now)
    connection.execute(
        APPEND_EVENT,
        {
            "event_id": event_id,
            "partner_id": partner_id,
            "payment_id": payment_id,
            "operation_id": operation_id,
            "event_type": str(event_type),
            "data": json.dumps({"payment": payment}),
            "traceparent": traceparent,
            "now": now,
        },
    )
    return event_id


def put_back(
    connection: Connection, operation_id: str, *, not_before: datetime | None, now: datetime
) -> None:
    """Queue the operation for its next dispatch, not before `not_before`; None: when its turn comes."""
    connection.execute(PUT_BACK, {"operation_id": operation_id, "not_before": not_before, "now": now})
