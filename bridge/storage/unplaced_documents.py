"""Documents of SAP that a recovery could give no operation: they stay visible until an operator settles them.

Every function takes a connection inside the caller's transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import IntegrityError

from bridge.money import Money
from bridge.payment import SapDocument
from bridge.storage.accept import EXTERNAL_ID_INDEX
from bridge.storage.failures import constraint_of
from bridge.storage.operations import lock_payment
from bridge.storage.recovered_steps import (
    STEP_WITH_SAP,
    LostStep,
    find_reference,
    is_any_claimed,
    let_turn_come,
    wait_for_their_turn,
)

INSERT = text("""
    /* an operator has to look at it, unless one has dismissed it already. The recovery that found it first
       stays while it is on the list: what was asked for since is judged by its backup */
    INSERT INTO unplaced_documents
        (sap_system, company_code, fiscal_year, document_number, recovery_id, sap_reference, reason,
         amount_minor, currency, partner_id, external_id, kind)
    VALUES (:sap_system, :company_code, :fiscal_year, :document_number, :recovery_id, :reference, :reason,
            :amount_minor, :currency, CAST(:partner_id AS text), CAST(:external_id AS text),
            CAST(:kind AS text))
    ON CONFLICT (sap_system, company_code, fiscal_year, document_number) DO UPDATE
    SET sap_reference = excluded.sap_reference, reason = excluded.reason,
        amount_minor = excluded.amount_minor, currency = excluded.currency, partner_id = excluded.partner_id,
        external_id = excluded.external_id, kind = excluded.kind, settled_at = NULL, settled_as = NULL
    WHERE unplaced_documents.settled_as IS DISTINCT FROM 'dismissed'
""")

LOST_SINCE = text("""
    /* the backup that the document was lost after: that of the recovery which has found it, or of one since
       then which reads from earlier on, because the first was begun with a wrong moment */
    SELECT min(later.reads_since)
    FROM recoveries AS first JOIN recoveries AS later ON later.started_at >= first.started_at
    WHERE first.recovery_id = :recovery_id
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
    /* it leaves the list */
    UPDATE unplaced_documents SET settled_at = :now, settled_as = :settled_as
    WHERE sap_system = :sap_system AND company_code = :company_code AND fiscal_year = :fiscal_year
      AND document_number = :number AND settled_at IS NULL
""")

IS_DISMISSED = text("""
    /* whether an operator has said that nothing is to be made of it */
    SELECT EXISTS (
        SELECT FROM unplaced_documents
        WHERE sap_system = :sap_system AND company_code = :company_code AND fiscal_year = :fiscal_year
          AND document_number = :number AND settled_as = 'dismissed'
    )
""")

IS_FOUND_EARLIER = text("""
    /* whether it is on the list of a recovery that has finished */
    SELECT EXISTS (
        SELECT FROM unplaced_documents JOIN recoveries USING (recovery_id)
        WHERE sap_system = :sap_system AND company_code = :company_code AND fiscal_year = :fiscal_year
          AND document_number = :number AND settled_at IS NULL
          AND finished_at IS NOT NULL AND NOT is_abandoned
    )
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
    /* it holds its external id again; the unique index refuses if another payment does */
    UPDATE payments SET status = 'accepted', updated_at = :now
    WHERE payment_id = :payment_id AND status IN ('cancelled', 'rejected')
""")


# Why a recovery places no document that an earlier one has left on the list: what was asked for since has to
# be judged by the earlier backup, and what may have been sent since the later one is lost again.
FOUND_EARLIER = "found-earlier"
# Why a document can have no operation, whatever is out of its way: what it says makes no row.
NO_VALID_STEP = "no-valid-step"


class SettledAs(StrEnum):
    """How a document left the list: it was given an operation, or an operator has dismissed it."""

    PLACED = "placed"
    DISMISSED = "dismissed"


@dataclass(frozen=True, slots=True)
class Unplaced:
    """A document and why it has no operation; amount and `step` are what it says, if that can be read."""

    sap_system: str
    document: SapDocument
    amount_minor: int | None
    currency: str | None
    reference: str
    reason: str
    step: LostStep | None


def note(connection: Connection, recovery_id: str, found: Unplaced) -> None:
    """Keep the document in sight, unless an operator has dismissed it."""
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


def lost_since(connection: Connection, recovery_id: str) -> datetime:
    """Return the moment since when what was asked for may be a document of the recovery, sent again."""
    since: datetime = connection.execute(LOST_SINCE, {"recovery_id": recovery_id}).scalar_one()
    return since


def is_dismissed(connection: Connection, sap_system: str, document: SapDocument) -> bool:
    parameters = {"sap_system": sap_system} | document.as_json()
    return bool(connection.execute(IS_DISMISSED, parameters).scalar_one())


def is_found_earlier(connection: Connection, sap_system: str, document: SapDocument) -> bool:
    """Tell whether a recovery that has finished has left the document to an operator."""
    parameters = {"sap_system": sap_system} | document.as_json()
    return bool(connection.execute(IS_FOUND_EARLIER, parameters).scalar_one())


def settle(
    connection: Connection, sap_system: str, document: SapDocument, settled_as: SettledAs, *, now: datetime
) -> None:
    """Take the document off the list; nothing happens to one that is not on it."""
    parameters = {"sap_system": sap_system, "settled_as": str(settled_as), "now": now}
    connection.execute(SETTLE, parameters | document.as_json())


def revive(connection: Connection, reference: str, document: SapDocument, *, now: datetime) -> str | None:
    """Have SAP asked again about the document's operation, which had ended here; return why that can't be.

    The caller's transaction is undone if it can't.
    """
    payment_id = connection.execute(FIND_PAYMENT, {"reference": reference}).scalar_one_or_none()
    if payment_id is None or lock_payment(connection, payment_id) is None:
        return None
    if is_any_claimed(connection, payment_id):
        return STEP_WITH_SAP
    known = find_reference(connection, reference)
    if known is not None and known.status not in ("cancelled", "rejected"):
        # another document of the same reference has brought it back already
        key = (document.company_code, document.fiscal_year, document.number)
        return None if known.document == key else "second-document"
    # a later step may be unknown, and one at a time can be: it waits behind this one
    wait_for_their_turn(connection, payment_id, now=now)
    row = connection.execute(REVIVE, {"reference": reference, "now": now}).one_or_none()
    if row is not None and row.position == 1:
        try:
            with connection.begin_nested():
                connection.execute(REVIVE_PAYMENT, {"payment_id": payment_id, "now": now})
        except IntegrityError as error:
            if constraint_of(error) != EXTERNAL_ID_INDEX:
                raise
            return "external-id-taken"
    let_turn_come(connection, payment_id, now=now)
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
        "amount": None if row.amount_minor is None else Money(row.amount_minor, row.currency).as_json(),
        "partner_id": row.partner_id,
        "external_id": row.external_id,
        "kind": row.kind,
        "reason": row.reason,
    }
