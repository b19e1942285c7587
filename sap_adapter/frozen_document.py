"""The document of an operation: rendered and frozen at its first claim, the same bytes in every later one."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from zoneinfo import ZoneInfo

from bridge.errors import PermanentError
from bridge.keyring import KeyRing
from bridge.partner import JournalEntryMapping, PartnerConfiguration
from bridge.payment import Operation, OperationKind, OperationStatus, SapDocument
from bridge.storage.operations import LockedOperation, LockedPayment
from sap_adapter.connector import JournalFacts
from sap_adapter.journal_entry import render


@dataclass(frozen=True, slots=True)
class FrozenDocument:
    """What is sent, its type, and how it is stored."""

    content: bytes
    document_type: str
    encrypted: str


def frozen_document(
    key_ring: KeyRing,
    payment: LockedPayment,
    row: LockedOperation,
    earlier: Sequence[Operation],
    partner: PartnerConfiguration | None,
    now: datetime,
) -> FrozenDocument:
    """Return the operation's document, rendered now if this is its first claim.

    `earlier` are the steps before it. PermanentError if the partner's mapping does not give one.
    """
    place = {"table": "operations", "column": "encrypted_document", "row": row.operation.operation_id}
    if row.encrypted_document is not None and row.document_type is not None:
        content = key_ring.decrypt(row.encrypted_document, **place)
        return FrozenDocument(content, row.document_type, row.encrypted_document)
    mapping = _mapping(partner, payment, row)
    try:
        entry = render(_facts(key_ring, payment, row, earlier, now), mapping)
    except (ValueError, KeyError) as error:
        # It would fail in every claim, and each would be undone with all that counts claims.
        raise PermanentError(f"not renderable ({type(error).__name__})") from error
    return FrozenDocument(entry.content, entry.document_type, key_ring.encrypt(entry.content, **place))


def _facts(
    key_ring: KeyRing,
    payment: LockedPayment,
    row: LockedOperation,
    earlier: Sequence[Operation],
    now: datetime,
) -> JournalFacts:
    zone = ZoneInfo(payment.time_zone)
    return JournalFacts(
        kind=row.operation.kind,
        reference=row.sap_reference,
        external_id=payment.payment.external_id,
        amount=row.operation.amount,
        company_code=payment.company_code,
        document_date=_day(row.operation.created_at, zone).isoformat(),
        posting_date=_day(now, zone).isoformat(),
        counterparty_text=_counterparty_text(key_ring, payment),
        reverses=_authorisation(earlier) if row.operation.kind == OperationKind.REVERSE else None,
    )


def _authorisation(earlier: Sequence[Operation]) -> SapDocument | None:
    """Return the document of the authorisation, which a reversal takes back."""
    return next(
        (
            operation.sap_document
            for operation in earlier
            if operation.kind == OperationKind.AUTHORIZE and operation.status == OperationStatus.SUCCEEDED
        ),
        None,
    )


def _counterparty_text(key_ring: KeyRing, payment: LockedPayment) -> str:
    """Return what the customer's line says: the remittance information, else the debtor's name."""
    if payment.encrypted_parties is None:
        return ""
    plain = key_ring.decrypt(
        payment.encrypted_parties,
        table="payments",
        column="encrypted_parties",
        row=payment.payment.payment_id,
    )
    parties = json.loads(plain)
    debtor = parties.get("debtor") or {}
    return str(parties.get("remittance_information") or debtor.get("name") or "")


def _mapping(
    partner: PartnerConfiguration | None, payment: LockedPayment, row: LockedOperation
) -> JournalEntryMapping:
    """Return the partner's mapping; PermanentError unless it is for where the payment was accepted to go.

    The accounts of one SAP system or company code are somebody else's in another.
    """
    target = partner.target_at(row.sap_system, payment.company_code) if partner else None
    if target is None:
        raise PermanentError("the partner has no target any more where the payment was accepted to go")
    mapping = target.mappings.get(row.operation.kind)
    if mapping is None:
        raise PermanentError(f"no mapping for {row.operation.kind}")
    return mapping


def _day(moment: datetime, zone: ZoneInfo) -> date:
    return moment.astimezone(zone).date()
