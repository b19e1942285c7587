"""Documents of SAP that a recovery could give no operation: they stay visible until an operator settles them.

Every function takes a connection inside the caller's transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from bridge.money import Money
from bridge.payment import SapDocument
from bridge.storage.operations import lock_payment
from bridge.storage.recovered_steps import LostStep, let_turn_come

INSERT = text("""
    /* an operator has to look at it */
    INSERT INTO unplaced_documents
        (sap_system, company_code, fiscal_year, document_number, recovery_id, sap_reference, reason,
         amount_minor, currency, partner_id, external_id, kind)
    VALUES (:sap_system, :company_code, :fiscal_year, :document_number, :recovery_id, :reference, :reason,
            :amount_minor, :currency, CAST(:partner_id AS text), CAST(:external_id AS text),
            CAST(:kind AS text))
    ON CONFLICT DO NOTHING
""")

SELECT_OPEN = text("""
    /* documents that no operator has settled yet, of whichever recovery */
    SELECT * FROM unplaced_documents WHERE settled_at IS NULL
    ORDER BY sap_system, company_code, fiscal_year, document_number LIMIT :limit
""")


LOCK = text("""
    /* the document, to settle it */
    SELECT * FROM unplaced_documents
    WHERE sap_system = :sap_system AND company_code = :company_code AND fiscal_year = :fiscal_year
      AND document_number = :number
    FOR NO KEY UPDATE
""")

SETTLE = text("""
    /* an operator has dealt with it */
    UPDATE unplaced_documents SET settled_at = :now
    WHERE sap_system = :sap_system AND company_code = :company_code AND fiscal_year = :fiscal_year
      AND document_number = :number
""")

FIND_PAYMENT = text("""
    /* the payment of the operation that has this reference */
    SELECT payment_id FROM operations WHERE sap_reference = :reference
""")

REVIVE = text("""
    /* SAP has booked an operation that had ended here: SAP is asked about it again. If SAP does not show it
       any more, it ends as before: nobody wants it sent */
    UPDATE operations
    SET status = CASE WHEN position = 1 THEN 'unknown' ELSE 'accepted' END, sent_unresolved = true,
        settled_at = :now, none_seen_at = NULL, failure_code = NULL, failure_message = NULL,
        failure_pointer = NULL, completed_at = NULL, operator_decision = 'reject', updated_at = :now
    WHERE sap_reference = :reference AND status IN ('cancelled', 'rejected')
    RETURNING operation_id, payment_id, position
""")

REVIVE_PAYMENT = text("""
    /* it holds its external id again, unless another payment does */
    UPDATE payments SET status = 'accepted', updated_at = :now
    WHERE payment_id = :payment_id AND status IN ('cancelled', 'rejected') AND NOT EXISTS (
        SELECT FROM payments AS other
        WHERE other.partner_id = payments.partner_id AND other.external_id = payments.external_id
          AND other.status NOT IN ('cancelled', 'rejected'))
""")


@dataclass(frozen=True, slots=True)
class Unplaced:
    """A document and why it has no operation; `step` is what it says of itself, if that can be read."""

    sap_system: str
    document: SapDocument
    amount_minor: int
    currency: str
    reference: str
    reason: str
    step: LostStep | None


def note(connection: Connection, recovery_id: str, found: Unplaced) -> None:
    """Keep the document in sight; one that is there already stays as it is."""
    connection.execute(
        INSERT,
        {
            "sap_system": found.sap_system,
            "company_code": found.document.company_code,
            "fiscal_year": found.document.fiscal_year,
            "document_number": found.document.number,
            "recovery_id": recovery_id,
            "reference": found.reference,
            "reason": found.reason,
            "partner_id": found.step and found.step.partner_id,
            "external_id": found.step and found.step.external_id,
            "kind": found.step and str(found.step.kind),
            "amount_minor": found.amount_minor,
            "currency": found.currency,
        },
    )


def lock(connection: Connection, sap_system: str, document: SapDocument) -> Row[tuple[object, ...]] | None:
    """Lock the document's row and return it."""
    return connection.execute(LOCK, {"sap_system": sap_system} | document.as_json()).one_or_none()


def settle(connection: Connection, sap_system: str, document: SapDocument, *, now: datetime) -> None:
    connection.execute(SETTLE, {"sap_system": sap_system, "now": now} | document.as_json())


def revive(connection: Connection, reference: str, *, now: datetime) -> str | None:
    """Have SAP asked again about an operation that had ended here; return why that can't be.

    The caller's transaction is undone if it can't.
    """
    payment_id = connection.execute(FIND_PAYMENT, {"reference": reference}).scalar_one_or_none()
    if payment_id is None or lock_payment(connection, payment_id) is None:
        return None
    row = connection.execute(REVIVE, {"reference": reference, "now": now}).one_or_none()
    if row is None:
        return None
    if row.position == 1:
        done = connection.execute(REVIVE_PAYMENT, {"payment_id": row.payment_id, "now": now})
        if done.rowcount == 0:
            return "external-id-taken"
    let_turn_come(connection, row.payment_id, now=now)
    return None


def open_documents(connection: Connection, *, limit: int) -> Sequence[Row[tuple[object, ...]]]:
    """Return documents that wait for an operator."""
    return connection.execute(SELECT_OPEN, {"limit": limit}).all()


def view(row: Row[tuple[object, ...]]) -> dict[str, Any]:
    """Return the document as operators see it."""
    return {
        "sap_system": row.sap_system,
        "company_code": row.company_code,
        "fiscal_year": row.fiscal_year,
        "number": row.document_number,
        "sap_reference": row.sap_reference,
        "amount": Money(row.amount_minor, row.currency).as_json(),
        "partner_id": row.partner_id,
        "external_id": row.external_id,
        "kind": row.kind,
        "reason": row.reason,
    }
