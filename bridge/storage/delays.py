"""Telling a partner that an operation takes long: `payment.delayed`, once per operation."""

from datetime import datetime

from sqlalchemy import Connection, text

from bridge.payment import EventType
from bridge.storage.events import append_event
from bridge.storage.operations import operations_of_payment, payment_of

SELECT_PAYMENT = text("""
    /* the payment as the event shows it; not locked, because the operation is already and comes after it */
    SELECT payment.payment_id, payment.partner_id, payment.external_id, payment.status, payment.currency,
           payment.amount_minor, payment.captured_minor, payment.refunded_minor, payment.capture,
           payment.requested_execution_date, payment.created_at, payment.updated_at, operation.traceparent
    FROM operations AS operation JOIN payments AS payment USING (payment_id)
    WHERE operation_id = :operation_id
""")


def tell_delay(connection: Connection, operation_id: str, *, now: datetime) -> None:
    """Append the event. The caller holds the operation and has seen that it was not told before."""
    row = connection.execute(SELECT_PAYMENT, {"operation_id": operation_id}).one()
    payment = payment_of(row)
    append_event(
        connection,
        partner_id=payment.partner_id,
        payment_id=payment.payment_id,
        operation_id=operation_id,
        event_type=EventType.DELAYED,
        payment=payment.as_json(operations_of_payment(connection, payment.payment_id)),
        traceparent=row.traceparent,
        now=now,
    )
