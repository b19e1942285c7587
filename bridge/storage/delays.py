"""Telling a partner that an operation takes long: `payment.delayed`, once per operation."""

from datetime import datetime

from sqlalchemy import Connection, text

from bridge.payment import EventType, Payment, PaymentStatus
from bridge.storage.events import append_event
from bridge.storage.operations import operations_of_payment

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
    payment = Payment(
        payment_id=row.payment_id,
        partner_id=row.partner_id,
        external_id=row.external_id,
        status=PaymentStatus(row.status),
        currency=row.currency,
        amount_minor=row.amount_minor,
        captured_minor=row.captured_minor,
        refunded_minor=row.refunded_minor,
        capture=row.capture,
        requested_execution_date=row.requested_execution_date,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
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
