"""Documents of SAP that a recovery could give no operation: they stay visible until an operator settles them.

Every function takes a connection inside the caller's transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Row, text

from bridge.payment import SapDocument
from bridge.storage.recovered_steps import LostStep

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


def open_documents(connection: Connection, *, limit: int) -> Sequence[Row[tuple[object, ...]]]:
    """Return documents that wait for an operator."""
    return connection.execute(SELECT_OPEN, {"limit": limit}).all()
