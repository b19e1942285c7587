"""What came of a claim, written once: succeeded, rejected, parked, not posted, unknown, still unknown.

Every function takes a connection inside the caller's transaction, in which the rows are locked.
"""

from collections.abc import Sequence
from datetime import date, datetime

from sqlalchemy import Connection, text

from bridge.clock import Latest
from bridge.payment import Failure, ParkReason, Payment, SapDocument

SUCCEED = text("""
    /* SAP has booked it */
    UPDATE operations
    SET status = 'succeeded', sap_company_code = :company_code, sap_fiscal_year = :fiscal_year,
        sap_document_number = :document_number, sent_unresolved = false, settled_at = NULL,
        none_seen_at = NULL, completed_at = :now,
        lease_until = NULL, claims_finished = claims_started, updated_at = :now
    WHERE operation_id = :operation_id
""")

REJECT = text("""
    /* SAP has refused it for a reason the partner can mend */
    UPDATE operations
    SET status = 'rejected', failure_code = :code, failure_message = :message, failure_pointer = :pointer,
        encrypted_sap_log = :encrypted_sap_log, sent_unresolved = false, completed_at = :now,
        lease_until = NULL, claims_finished = claims_started, updated_at = :now
    WHERE operation_id = :operation_id
""")

PARK = text("""
    /* an operator has to look at it; sent_unresolved stays what it is unless the outcome is definite */
    UPDATE operations
    SET status = 'parked', parked_reason = :reason, sent_unresolved = sent_unresolved AND NOT :definite,
        generation = generation + :generations, failure_code = :code, failure_message = :message,
        encrypted_sap_log = coalesce(:encrypted_sap_log, encrypted_sap_log),
        found_documents = CAST(:found_documents AS text),
        settled_at = greatest(settled_at, CAST(:settled_at AS timestamptz)),
        sap_answer_forgotten = sap_answer_forgotten AND CAST(:generations AS integer) = 0,
        delayed_at = coalesce(delayed_at, :now),
        claims_finished = CASE WHEN :claimed THEN claims_started ELSE claims_finished END,
        lease_until = NULL, updated_at = :now
    WHERE operation_id = :operation_id
""")

NOT_POSTED = text("""
    /* definitely not in SAP: it waits for its next dispatch (a refusal starts a new generation) */
    UPDATE operations
    SET status = 'accepted', sent_unresolved = false, settled_at = NULL, none_seen_at = NULL,
        generation = generation + :generations, sap_answer_forgotten = false,
        attempts = attempts + :attempts, last_attempt_at = :now,
        lease_until = NULL, claims_finished = claims_started, updated_at = :now
    WHERE operation_id = :operation_id
""")

MOVE_POSTING_DATE = text("""
    /* the period was closed: the next sending carries a later posting date */
    UPDATE operations SET posting_date = :posting_date, updated_at = :now
    WHERE operation_id = :operation_id
""")

UNKNOWN = text("""
    /* it may be in SAP: nothing is posted again before SAP has been asked */
    UPDATE operations
    SET status = 'unknown', settled_at = :settled_at, none_seen_at = NULL,
        sap_answer_forgotten = sap_answer_forgotten OR :forgotten,
        attempts = attempts + :attempts, last_attempt_at = :now,
        lease_until = NULL, claims_finished = claims_started, updated_at = :now
    WHERE operation_id = :operation_id
""")

STILL_UNKNOWN = text("""
    /* asked, and not yet wiser; a none that counts is remembered */
    UPDATE operations
    SET none_seen_at = coalesce(none_seen_at, :none_seen_at),
        lease_until = NULL, claims_finished = claims_started, updated_at = :now
    WHERE operation_id = :operation_id
""")

UPDATE_PAYMENT = text("""
    /* what the outcome made of the payment */
    UPDATE payments
    SET status = :status, captured_minor = :captured_minor, refunded_minor = :refunded_minor,
        updated_at = :now
    WHERE payment_id = :payment_id
""")


def record_success(
    connection: Connection, operation_id: str, document: SapDocument, *, now: datetime
) -> None:
    connection.execute(
        SUCCEED,
        {
            "operation_id": operation_id,
            "company_code": document.company_code,
            "fiscal_year": document.fiscal_year,
            "document_number": document.number,
            "now": now,
        },
    )


def record_rejection(
    connection: Connection,
    operation_id: str,
    failure: Failure,
    *,
    encrypted_sap_log: str | None,
    now: datetime,
) -> None:
    connection.execute(
        REJECT,
        {
            "operation_id": operation_id,
            "code": failure.code,
            "message": failure.message,
            "pointer": failure.pointer,
            "encrypted_sap_log": encrypted_sap_log,
            "now": now,
        },
    )


def record_parked(
    connection: Connection,
    operation_id: str,
    reason: ParkReason,
    *,
    definitely_not_posted: bool,
    refused: bool,
    claimed: bool,
    now: datetime,
    failure: Failure | None = None,
    encrypted_sap_log: str | None = None,
    found: Sequence[SapDocument] = (),
    settled_at: Latest | None = None,
) -> None:
    """Park the operation. `refused`: SAP said no, so the next sending needs a new generation's UUID.

    `claimed`: a claim ends with this; otherwise the claim count stays. `found`: documents that SAP has
    under its reference and that can't be recorded.
    """
    connection.execute(
        PARK,
        {
            "operation_id": operation_id,
            "reason": str(reason),
            "definite": definitely_not_posted,
            "generations": int(refused),
            "code": failure.code if failure else None,
            "message": failure.message if failure else None,
            "encrypted_sap_log": encrypted_sap_log,
            "found_documents": ",".join(map(str, found)) or None,
            "settled_at": settled_at,
            "claimed": claimed,
            "now": now,
        },
    )


def record_not_posted(
    connection: Connection, operation_id: str, *, refused: bool, counted: bool, now: datetime
) -> None:
    """SAP has not got it. `refused`: it has refused this generation; `counted`: against the operation."""
    connection.execute(
        NOT_POSTED,
        {
            "operation_id": operation_id,
            "generations": int(refused),
            "attempts": int(counted),
            "now": now,
        },
    )


def move_posting_date(
    connection: Connection, operation_id: str, posting_date: date, *, now: datetime
) -> None:
    """Let the frozen document carry another posting date from its next sending on."""
    connection.execute(
        MOVE_POSTING_DATE, {"operation_id": operation_id, "posting_date": posting_date, "now": now}
    )


def record_unknown(
    connection: Connection,
    operation_id: str,
    *,
    settled_at: Latest,
    forgotten: bool = False,
    counted: bool,
    now: datetime,
) -> None:
    """SAP may have it. No "none" counts before `settled_at`.

    `forgotten`: SAP has processed this generation's message and no longer knows with what result.
    """
    connection.execute(
        UNKNOWN,
        {
            "operation_id": operation_id,
            "settled_at": settled_at,
            "forgotten": forgotten,
            "attempts": int(counted),
            "now": now,
        },
    )


def record_still_unknown(
    connection: Connection, operation_id: str, *, none_seen_at: Latest | None, now: datetime
) -> None:
    connection.execute(
        STILL_UNKNOWN, {"operation_id": operation_id, "none_seen_at": none_seen_at, "now": now}
    )


def update_payment(connection: Connection, payment: Payment) -> None:
    connection.execute(
        UPDATE_PAYMENT,
        {
            "payment_id": payment.payment_id,
            "status": str(payment.status),
            "captured_minor": payment.captured_minor,
            "refunded_minor": payment.refunded_minor,
            "now": payment.updated_at,
        },
    )
