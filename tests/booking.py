"""What the adapter does to a payment when SAP answers, without SAP: the next step booked, or refused."""

from sqlalchemy import text

from bridge.ids import new_id
from bridge.payment import (
    FINAL_OPERATION_STATUSES,
    SUCCESS_EVENTS,
    Failure,
    SapDocument,
    after_rejection,
    after_success,
)
from bridge.storage import outcomes
from bridge.storage.events import append_event
from bridge.storage.operations import lock_payment, operations_of_payment

DELETE_ROW = text("DELETE FROM outbox WHERE operation_id = :operation_id")


def book(stage, payment_id, *, steps=1):
    """Let SAP book that many of the payment's unfinished steps, in order."""
    for _ in range(steps):
        with stage.owner.begin() as connection:
            payment, operation = _next(connection, payment_id)
            now = stage.clock.now()
            number = new_id("op", now)
            outcomes.record_success(
                connection, operation.operation_id, SapDocument("1000", "2026", number), now=now
            )
            after = after_success(payment, operation.kind, operation.amount.minor, now)
            outcomes.update_payment(connection, after)
            append_event(
                connection,
                partner_id=payment.partner_id,
                payment_id=payment_id,
                operation_id=operation.operation_id,
                event_type=SUCCESS_EVENTS[operation.kind],
                payment=after.as_json(operations_of_payment(connection, payment_id)),
                traceparent=None,
                now=now,
            )


def refuse(stage, payment_id):
    """Let SAP refuse the payment's first unfinished step."""
    with stage.owner.begin() as connection:
        payment, operation = _next(connection, payment_id)
        now = stage.clock.now()
        failure = Failure("rejected", "Refused for a test.")
        outcomes.record_rejection(
            connection, operation.operation_id, failure, encrypted_sap_log=None, now=now
        )
        outcomes.update_payment(connection, after_rejection(payment, operation.kind, now))


def _next(connection, payment_id):
    payment = lock_payment(connection, payment_id).payment
    operations = operations_of_payment(connection, payment_id)
    operation = next(each for each in operations if each.status not in FINAL_OPERATION_STATUSES)
    connection.execute(DELETE_ROW, {"operation_id": operation.operation_id})
    return payment, operation
