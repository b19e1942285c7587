"""Taking back a payment of which SAP has heard nothing, and refusing what waits behind a step that failed.

Every function takes a connection inside the caller's transaction, which holds the payment. Lock order:
payment, operations, event.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from bridge.payment import REJECTION_EVENTS, EventType, Failure, Operation, OperationKind, Payment
from bridge.storage.events import append_event

LOCK_UNSENT = text("""
    /* the first step of the payment, if nobody has ever claimed it: waits for the relay, never for a call.
       Of what was parked before its first call SAP has heard nothing, either */
    SELECT operation_id, kind, traceparent FROM operations
    WHERE payment_id = :payment_id AND position = 1 AND status IN ('scheduled', 'accepted', 'parked')
      AND claims_started = 0 AND NOT sent_unresolved AND recovered_at IS NULL
    FOR NO KEY UPDATE
""")

CANCEL_OPERATION = text("""
    /* it is over before it began; a message that is out already finds it so */
    WITH lane AS (
        DELETE FROM outbox WHERE operation_id = :operation_id
    )
    UPDATE operations
    SET status = 'cancelled', parked_reason = NULL, operator_decision = NULL, dispatched_at = NULL,
        completed_at = :now, updated_at = :now
    WHERE operation_id = :operation_id
""")

CANCEL_PAYMENT = text("""
    /* the partner has taken it back */
    UPDATE payments SET status = 'cancelled', updated_at = :now WHERE payment_id = :payment_id
""")

REJECT_SUCCESSORS = text("""
    /* what waited behind a step that did not succeed. A step that SAP may have, after a restore, is not
       rejected: SAP is asked about it when its turn comes */
    WITH successor AS (
        UPDATE operations
        SET status = 'rejected', failure_code = :code, failure_message = :message, completed_at = :now,
            parked_reason = NULL, operator_decision = NULL, updated_at = :now
        WHERE payment_id = :payment_id AND status IN ('accepted', 'parked') AND NOT sent_unresolved
          AND position > (SELECT position FROM operations WHERE operation_id = :operation_id)
        RETURNING operation_id, position, kind, traceparent
    ), lane AS (
        DELETE FROM outbox WHERE operation_id IN (SELECT operation_id FROM successor)
    )
    SELECT operation_id, kind, traceparent FROM successor ORDER BY position
""")


@dataclass(frozen=True, slots=True)
class Step:
    """An operation as its events name it."""

    operation_id: str
    kind: OperationKind
    traceparent: str | None


def lock_unsent(connection: Connection, payment_id: str) -> Step | None:
    """Lock the first operation and return it; None when SAP may have heard of it, or it is at its end."""
    row = connection.execute(LOCK_UNSENT, {"payment_id": payment_id}).one_or_none()
    return None if row is None else Step(row.operation_id, OperationKind(row.kind), row.traceparent)


def cancel(connection: Connection, payment_id: str, operation_id: str, *, now: datetime) -> None:
    """End the payment and its first operation, which `lock_unsent` has locked."""
    connection.execute(CANCEL_OPERATION, {"operation_id": operation_id, "now": now})
    connection.execute(CANCEL_PAYMENT, {"payment_id": payment_id, "now": now})


def reject_successors(
    connection: Connection, payment_id: str, operation_id: str, failure: Failure, *, now: datetime
) -> list[Step]:
    """Reject what waits behind the operation, which did not succeed; return it, in order.

    What SAP may have stays: the caller lets it go on.
    """
    rows = connection.execute(
        REJECT_SUCCESSORS,
        {
            "payment_id": payment_id,
            "operation_id": operation_id,
            "code": failure.code,
            "message": failure.message,
            "now": now,
        },
    )
    return [Step(row.operation_id, OperationKind(row.kind), row.traceparent) for row in rows]


def tell_cancelled(
    connection: Connection,
    payment: Payment,
    operations: Sequence[Operation],
    first: Step,
    successors: Sequence[Step],
    *,
    now: datetime,
) -> None:
    """Append payment.cancelled and each rejection; payment and operations are as they now stand."""
    told = [(first, EventType.CANCELLED)]
    told += [(successor, REJECTION_EVENTS[successor.kind]) for successor in successors]
    tell_steps(connection, payment, operations, told, now=now)


def tell_steps(
    connection: Connection,
    payment: Payment,
    operations: Sequence[Operation],
    told: Sequence[tuple[Step, EventType]],
    *,
    now: datetime,
) -> None:
    """Append one event for each step; payment and operations are as they now stand."""
    view = payment.as_json(operations)
    for step, event_type in told:
        append_event(
            connection,
            partner_id=payment.partner_id,
            payment_id=payment.payment_id,
            operation_id=step.operation_id,
            event_type=event_type,
            payment=view,
            traceparent=step.traceparent,
            now=now,
        )
