"""Operations: their rows under lock, and the claim that gives one process the right to call SAP.

Every function takes a connection inside the caller's transaction. Lock order: payment, operation, lane, slot.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Connection, Row, text

from bridge.clock import Latest
from bridge.money import Money
from bridge.payment import (
    Failure,
    Operation,
    OperationKind,
    OperationStatus,
    Payment,
    PaymentStatus,
    SapDocument,
)
from bridge.storage.restores import IS_TRUSTED

LOCK_PAYMENT = text("""
    /* the payment, so that its operations are judged one after the other */
    SELECT payment_id, partner_id, external_id, status, currency, amount_minor, captured_minor,
           refunded_minor, capture, requested_execution_date, created_at, updated_at, company_code, time_zone,
           encrypted_parties, metadata
    FROM payments WHERE payment_id = :payment_id FOR NO KEY UPDATE
""")

LOCK_OPERATION = text(f"""
    /* the operation that is claimed or recorded. Before the database was compared with the high-water mark
       every lane counts as held */
    SELECT operation.*, payment.currency,
           EXISTS (SELECT FROM sap_systems AS lane
                   WHERE lane.sap_system = operation.sap_system AND lane.held)
           OR NOT {IS_TRUSTED} AS is_lane_held,
           EXISTS (SELECT FROM unplaced_documents AS document
                   WHERE document.partner_id = payment.partner_id
                     AND document.external_id = payment.external_id
                     AND document.settled_at IS NULL) AS has_unplaced_document
    FROM operations AS operation JOIN payments AS payment USING (payment_id)
    WHERE operation_id = :operation_id FOR NO KEY UPDATE OF operation
""")  # noqa: S608 - made of constants

SELECT_OPERATIONS = text("""
    /* all steps of a payment, in their order */
    SELECT operation.*, payment.currency
    FROM operations AS operation JOIN payments AS payment USING (payment_id)
    WHERE payment_id = :payment_id ORDER BY position
""")

SPEND_DISPATCH = text("""
    /* use up the dispatch number: any other copy of the message is out of date from here on */
    UPDATE operations
    SET dispatch_number = dispatch_number + 1, dispatched_at = NULL, dispatches_without_claim = 0,
        traceparent = coalesce(CAST(:traceparent AS text), traceparent)
    WHERE operation_id = :operation_id
    RETURNING dispatch_number
""")

START_POST = text("""
    /* the claim before a posting: from here on SAP may have it */
    UPDATE operations
    SET status = 'processing', lease_until = :lease_until, sent_unresolved = true,
        claims_started = claims_started + 1, encrypted_document = :encrypted_document,
        document_type = :document_type, posting_date = :posting_date, next_open_day = :next_open_day,
        updated_at = :now
    WHERE operation_id = :operation_id
""")

NOTE_RETURNED_CLAIM = text("""
    /* the call of a claim that was taken over did come back: it was slow, and killed nobody */
    UPDATE operations SET claims_finished = least(claims_started, claims_finished + 1)
    WHERE operation_id = :operation_id
""")

RESUME_UNKNOWN = text("""
    /* parked as poison although its calls come back: SAP is asked about it after all */
    UPDATE operations SET status = 'unknown', parked_reason = NULL, updated_at = :now
    WHERE operation_id = :operation_id AND status = 'parked' AND parked_reason = 'poison' AND sent_unresolved
""")

START_QUESTION = text("""
    /* the claim before asking SAP for our reference; after a restore the status may still be another */
    UPDATE operations
    SET status = 'unknown', lease_until = :lease_until, claims_started = claims_started + 1, updated_at = :now
    WHERE operation_id = :operation_id
""")


@dataclass(frozen=True, slots=True)
class LockedPayment:
    """A payment's row, locked until the transaction ends."""

    payment: Payment
    company_code: str
    time_zone: str
    encrypted_parties: str | None
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class LockedOperation:
    """An operation's row, locked until the transaction ends."""

    operation: Operation
    payment_id: str
    position: int
    sap_system: str
    is_lane_held: bool
    has_unplaced_document: bool
    sap_reference: str
    generation: int
    dispatch_number: int
    lease_until: Latest | None
    sent_unresolved: bool
    is_recovered: bool
    operator_decision: str | None
    parked_reason: str | None
    found_documents: tuple[SapDocument, ...]
    due_at: datetime | None
    claims_unfinished: int
    attempts: int
    last_attempt_at: datetime | None
    encrypted_document: str | None
    document_type: str | None
    posting_date: date | None
    next_open_day: bool
    settled_at: Latest | None
    sap_answer_forgotten: bool
    none_seen_at: Latest | None
    delayed_at: datetime | None
    updated_at: datetime
    traceparent: str | None


def lock_payment(connection: Connection, payment_id: str) -> LockedPayment | None:
    row = connection.execute(LOCK_PAYMENT, {"payment_id": payment_id}).one_or_none()
    if row is None:
        return None
    return LockedPayment(
        payment_of(row), row.company_code, row.time_zone, row.encrypted_parties, row.metadata
    )


def lock_operation(connection: Connection, operation_id: str) -> LockedOperation | None:
    row = connection.execute(LOCK_OPERATION, {"operation_id": operation_id}).one_or_none()
    if row is None:
        return None
    return LockedOperation(
        operation=operation_of(row),
        payment_id=row.payment_id,
        position=row.position,
        sap_system=row.sap_system,
        is_lane_held=row.is_lane_held,
        has_unplaced_document=row.has_unplaced_document,
        sap_reference=row.sap_reference,
        generation=row.generation,
        dispatch_number=row.dispatch_number,
        lease_until=row.lease_until,
        sent_unresolved=row.sent_unresolved,
        is_recovered=row.recovered_at is not None,
        operator_decision=row.operator_decision,
        parked_reason=row.parked_reason,
        found_documents=_documents(row.found_documents),
        due_at=row.due_at,
        claims_unfinished=row.claims_started - row.claims_finished,
        attempts=row.attempts,
        last_attempt_at=row.last_attempt_at,
        encrypted_document=row.encrypted_document,
        document_type=row.document_type,
        posting_date=row.posting_date,
        next_open_day=row.next_open_day,
        settled_at=row.settled_at,
        sap_answer_forgotten=row.sap_answer_forgotten,
        none_seen_at=row.none_seen_at,
        delayed_at=row.delayed_at,
        updated_at=row.updated_at,
        traceparent=row.traceparent,
    )


def _documents(keys: str | None) -> tuple[SapDocument, ...]:
    return tuple(SapDocument(*key.split("/")) for key in keys.split(",")) if keys else ()


def operations_of_payment(connection: Connection, payment_id: str) -> list[Operation]:
    rows = connection.execute(SELECT_OPERATIONS, {"payment_id": payment_id})
    return [operation_of(row) for row in rows]


def spend_dispatch(connection: Connection, operation_id: str, *, traceparent: str | None = None) -> int:
    """Raise the dispatch number and return it; it then identifies this claim.

    `traceparent`: what follows from this claim continues the trace from there.
    """
    parameters = {"operation_id": operation_id, "traceparent": traceparent}
    return int(connection.execute(SPEND_DISPATCH, parameters).scalar_one())


def start_post(
    connection: Connection,
    operation_id: str,
    *,
    lease_until: Latest,
    encrypted_document: str,
    document_type: str,
    posting_date: date,
    next_open_day: bool,
    now: datetime,
) -> None:
    connection.execute(
        START_POST,
        {
            "operation_id": operation_id,
            "lease_until": lease_until,
            "encrypted_document": encrypted_document,
            "document_type": document_type,
            "posting_date": posting_date,
            "next_open_day": next_open_day,
            "now": now,
        },
    )


def start_question(connection: Connection, operation_id: str, *, lease_until: Latest, now: datetime) -> None:
    connection.execute(START_QUESTION, {"operation_id": operation_id, "lease_until": lease_until, "now": now})


def note_returned_claim(connection: Connection, operation_id: str) -> None:
    """Count one claim less as unfinished."""
    connection.execute(NOTE_RETURNED_CLAIM, {"operation_id": operation_id})


def resume_unknown(connection: Connection, operation_id: str, *, now: datetime) -> None:
    """Let an operation that was parked as poison be unknown again; the caller puts it back into its lane."""
    connection.execute(RESUME_UNKNOWN, {"operation_id": operation_id, "now": now})


def payment_of(row: Row[tuple[object, ...]]) -> Payment:
    """Read a payment out of a row with the columns of `payments`."""
    return Payment(
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


def operation_of(row: Row[tuple[object, ...]]) -> Operation:
    """Read an operation out of a row of `operations` joined with its payment's currency."""
    return make_operation(row, OperationStatus(row.status), row.amount_minor, row.created_at)


def make_operation(
    row: Row[tuple[object, ...]], status: OperationStatus, amount_minor: int, created_at: datetime
) -> Operation:
    """As `operation_of`; what has the same name in the payment's row is given beside it."""
    document = None
    if row.sap_document_number is not None:
        document = SapDocument(row.sap_company_code, row.sap_fiscal_year, row.sap_document_number)
    failure = None
    if status == OperationStatus.REJECTED and row.failure_code is not None:
        failure = Failure(row.failure_code, row.failure_message, row.failure_pointer)
    return Operation(
        operation_id=row.operation_id,
        kind=OperationKind(row.kind),
        status=status,
        amount=Money(amount_minor, row.currency),
        created_at=created_at,
        sap_document=document,
        failure=failure,
        completed_at=row.completed_at,
    )
