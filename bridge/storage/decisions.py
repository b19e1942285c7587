"""What an operator does to an operation: stop it, let it go on, have it rendered anew, reject it.

While `sent_unresolved` is set SAP may have it, and nothing but the question to SAP leads on. What an operator
wants then waits in `operator_decision`, and whoever records what SAP has carries it out in that transaction.

Every function takes a connection inside the caller's transaction, which holds the payment and the operation.
Lock order: payment, operation, event.
"""

from datetime import datetime

from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from bridge.clock import Latest
from bridge.payment import (
    FINAL_OPERATION_STATUSES,
    PREDECESSOR_REJECTED,
    REJECTED_BY_OPERATOR,
    REJECTION_EVENTS,
    SUCCESS_EVENTS,
    Failure,
    OperationStatus,
    OperatorDecision,
    ParkReason,
    SapDocument,
    after_rejection,
    after_success,
    allows,
    as_booked,
    has_its_turn,
)
from bridge.storage import audit
from bridge.storage.accept import EXTERNAL_ID_INDEX, ExternalIdTakenError
from bridge.storage.cancel import Step, reject_successors, tell_steps
from bridge.storage.delays import tell_delay
from bridge.storage.events import put_back
from bridge.storage.failures import constraint_of
from bridge.storage.operate import let_next_go
from bridge.storage.operations import LockedOperation, LockedPayment, lock_operation, operations_of_payment

# The actor in the audit trail of what no person did.
BRIDGE = "bridge"

PARK = text("""
    /* an operator has stopped it; what was sent and is not known stays so */
    WITH lane AS (
        DELETE FROM outbox WHERE operation_id = :operation_id
    )
    UPDATE operations
    SET status = 'parked', parked_reason = :reason, operator_decision = NULL, dispatched_at = NULL,
        delayed_at = coalesce(delayed_at, :now), updated_at = :now
    WHERE operation_id = :operation_id
""")

RELEASE = text("""
    /* it goes on as if it were new: what counted against it is forgotten, except what SAP may have of it */
    UPDATE operations
    SET status = :status, parked_reason = NULL, found_documents = NULL,
        operator_decision = CAST(:decision AS text),
        dispatched_at = NULL, dispatches_without_claim = 0, attempts = 0, claims_finished = claims_started,
        settled_at = CASE WHEN sent_unresolved THEN coalesce(settled_at, :settled_at) END,
        none_seen_at = NULL, failure_code = NULL, failure_message = NULL, failure_pointer = NULL,
        updated_at = :now
    WHERE operation_id = :operation_id
""")

DROP_DOCUMENT = text("""
    /* the next claim renders it anew */
    UPDATE operations
    SET encrypted_document = NULL, document_type = NULL, posting_date = NULL, next_open_day = false,
        updated_at = :now
    WHERE operation_id = :operation_id
""")

DECIDE = text("""
    /* to be carried out by whoever records what SAP has; NULL: there is nothing to decide any more */
    UPDATE operations SET operator_decision = CAST(:decision AS text), updated_at = :now
    WHERE operation_id = :operation_id
""")

REJECT = text("""
    /* it is ended, and SAP has not got it */
    WITH lane AS (
        DELETE FROM outbox WHERE operation_id = :operation_id
    )
    UPDATE operations
    SET status = 'rejected', parked_reason = NULL, operator_decision = NULL, dispatched_at = NULL,
        sent_unresolved = false, found_documents = NULL,
        failure_code = :code, failure_message = :message, failure_pointer = NULL, settled_at = NULL,
        none_seen_at = NULL, completed_at = :now, updated_at = :now
    WHERE operation_id = :operation_id
""")

ACCEPT = text("""
    /* an operator says that the document is of this operation */
    UPDATE operations
    SET status = 'succeeded', sap_company_code = :company_code, sap_fiscal_year = :fiscal_year,
        sap_document_number = :number, parked_reason = NULL, found_documents = NULL, operator_decision = NULL,
        sent_unresolved = false, settled_at = NULL, none_seen_at = NULL, failure_code = NULL,
        failure_message = NULL, failure_pointer = NULL, completed_at = :now, updated_at = :now
    WHERE operation_id = :operation_id AND status = 'parked'
""")

BOOK = text("""
    /* the payment as SAP has it; `misfit`: its own rules did not allow that */
    UPDATE payments
    SET status = :status, captured_minor = :captured_minor, refunded_minor = :refunded_minor,
        is_overbooked = is_overbooked OR :misfit, updated_at = :now
    WHERE payment_id = :payment_id
""")

REJECT_PAYMENT = text("""
    /* what the rejection made of the payment */
    UPDATE payments SET status = :status, updated_at = :now WHERE payment_id = :payment_id
""")

DAY_BEGINS = text("""
    /* when the day begins that the payment is wanted for, in its own time zone */
    SELECT CAST(requested_execution_date AS timestamp) AT TIME ZONE time_zone
    FROM payments WHERE payment_id = :payment_id
""")


def park(connection: Connection, row: LockedOperation, *, now: datetime) -> None:
    """Stop an operation that nobody is at, and tell the partner that it takes longer."""
    operation_id = row.operation.operation_id
    parameters = {"operation_id": operation_id, "reason": str(ParkReason.HELD), "now": now}
    connection.execute(PARK, parameters)
    if row.delayed_at is None:
        tell_delay(connection, operation_id, now=now)


def release(
    connection: Connection,
    row: LockedOperation,
    *,
    decision: OperatorDecision | None,
    settled_at: Latest | None,
    now: datetime,
) -> None:
    """Let a parked operation go on, or an unknown one be asked about at once.

    With something sent and not resolved it goes to the resolver, which carries `decision` out. Otherwise it
    waits for its turn, as it did before: for its day, or for the steps before it. `settled_at`:
    when a "none" counts, where the call that was sent has left no such time; None if nothing is unresolved.
    """
    operation_id = row.operation.operation_id
    status, not_before = _where_it_stands(connection, row, now)
    connection.execute(
        RELEASE,
        {
            "operation_id": operation_id,
            "status": str(status),
            "decision": str(decision) if decision else None,
            "settled_at": settled_at,
            "now": now,
        },
    )
    put_back(connection, operation_id, not_before=not_before, now=now)


def remap(connection: Connection, operation_id: str, *, now: datetime) -> None:
    """Have the next claim render the document by the mapping as it then is. Nothing sent is unresolved."""
    connection.execute(DROP_DOCUMENT, {"operation_id": operation_id, "now": now})


def decide(
    connection: Connection, operation_id: str, decision: OperatorDecision | None, *, now: datetime
) -> None:
    """Leave word for whoever is at the operation now, or take it back."""
    word = str(decision) if decision else None
    connection.execute(DECIDE, {"operation_id": operation_id, "decision": word, "now": now})


def reject(
    connection: Connection,
    payment: LockedPayment,
    row: LockedOperation,
    *,
    failure: Failure = REJECTED_BY_OPERATOR,
    now: datetime,
) -> None:
    """End an operation that SAP has not got, reject what waits behind it, and tell both."""
    operation, payment_id = row.operation, payment.payment.payment_id
    why = {"code": failure.code, "message": failure.message}
    connection.execute(REJECT, {"operation_id": operation.operation_id, "now": now} | why)
    after = after_rejection(payment.payment, operation.kind, now)
    connection.execute(REJECT_PAYMENT, {"payment_id": payment_id, "status": str(after.status), "now": now})
    successors = reject_successors(
        connection, payment_id, operation.operation_id, PREDECESSOR_REJECTED, now=now
    )
    let_next_go(connection, payment_id, now=now)
    steps = [Step(operation.operation_id, operation.kind, row.traceparent), *successors]
    told = [(step, REJECTION_EVENTS[step.kind]) for step in steps]
    tell_steps(connection, after, operations_of_payment(connection, payment_id), told, now=now)


def accept(
    connection: Connection,
    payment: LockedPayment,
    row: LockedOperation,
    document: SapDocument,
    *,
    now: datetime,
) -> None:
    """Record a document that SAP has and that did not fit, and tell the partner what was booked.

    ExternalIdTakenError if the payment had ended and another one has its external id now: the caller's
    transaction has to be undone.
    """
    operation = row.operation
    connection.execute(ACCEPT, {"operation_id": operation.operation_id, "now": now} | document.as_json())
    fits = allows(payment.payment, operation)
    book = after_success if fits else as_booked
    after = book(payment.payment, operation.kind, operation.amount.minor, now)
    booked = {
        "payment_id": after.payment_id,
        "status": str(after.status),
        "captured_minor": after.captured_minor,
        "refunded_minor": after.refunded_minor,
        "misfit": not fits,
        "now": now,
    }
    try:
        connection.execute(BOOK, booked)
    except IntegrityError as error:
        if constraint_of(error) == EXTERNAL_ID_INDEX:
            raise ExternalIdTakenError from error
        raise
    let_next_go(connection, after.payment_id, now=now)
    step = Step(operation.operation_id, operation.kind, row.traceparent)
    told = [(step, SUCCESS_EVENTS[operation.kind])]
    tell_steps(connection, after, operations_of_payment(connection, after.payment_id), told, now=now)


def carry_out(
    connection: Connection, payment: LockedPayment, operation_id: str, *, now: datetime
) -> OperatorDecision | None:
    """Do what an operator has decided, if what has just been recorded allows it; return what was done.

    The operation is read again: the caller has changed it. A decision that waits for SAP's answer stays.
    """
    row = lock_operation(connection, operation_id)
    if row is None or row.operator_decision is None:
        return None
    decision = OperatorDecision(row.operator_decision)
    status = row.operation.status
    is_over = status in FINAL_OPERATION_STATUSES
    # parked and not resolved: SAP has what is not ours to overrule, and an operator has to look again
    is_overtaken = status == OperationStatus.PARKED and (
        row.sent_unresolved or decision == OperatorDecision.PARK
    )
    if is_over or is_overtaken:
        decide(connection, operation_id, None, now=now)
        audit.append(
            connection, actor=BRIDGE, action=f"operation.{decision} lapsed", subject=operation_id,
            reason=row.parked_reason or str(status), now=now,
        )  # fmt: skip
        return None
    if decision == OperatorDecision.PARK:
        park(connection, row, now=now)
    elif row.sent_unresolved:
        return None
    elif decision == OperatorDecision.REJECT:
        reject(connection, payment, row, now=now)
    else:
        remap(connection, operation_id, now=now)
        release(connection, row, decision=None, settled_at=None, now=now)
    return decision


def _where_it_stands(
    connection: Connection, row: LockedOperation, now: datetime
) -> tuple[OperationStatus, datetime | None]:
    """Return the status to go on in, and when it may be dispatched; None: when its turn comes."""
    operations = operations_of_payment(connection, row.payment_id)
    ids = [operation.operation_id for operation in operations]
    earlier = operations[: ids.index(row.operation.operation_id)]
    if not has_its_turn(earlier):
        return OperationStatus.ACCEPTED, None
    if row.sent_unresolved:
        return OperationStatus.UNKNOWN, now
    day_begins = connection.execute(DAY_BEGINS, {"payment_id": row.payment_id}).scalar_one()
    if not earlier and day_begins is not None and day_begins > now:
        return OperationStatus.SCHEDULED, day_begins
    return OperationStatus.ACCEPTED, now
