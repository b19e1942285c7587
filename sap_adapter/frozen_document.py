"""The document of an operation: rendered and frozen at its first claim, the same bytes in every later one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from bridge.errors import PermanentError
from bridge.keyring import KeyRing
from bridge.mapping_values import MappingError
from bridge.partner import PartnerConfiguration, SapTarget
from bridge.payment import Operation, OperationKind, OperationStatus, SapDocument
from bridge.storage.operations import LockedOperation, LockedPayment
from sap_adapter.connector import Connector
from sap_adapter.journal_facts import Place, journal_facts


@dataclass(frozen=True, slots=True)
class FrozenDocument:
    """What is sent, its type and posting date, whether a closed period moves that, and how it is stored."""

    content: bytes
    document_type: str
    posting_date: date
    next_open_day: bool
    encrypted: str


def frozen_document(
    key_ring: KeyRing,
    connector: Connector,
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
    if row.encrypted_document is None:
        return _rendered(key_ring, connector, payment, row, earlier, partner, place, now)
    if row.document_type is None or row.posting_date is None:
        # SAP may have received these bytes, so they must never be rendered a second time.
        raise PermanentError("a stored document without its type or posting date")
    content = key_ring.decrypt(row.encrypted_document, **place)
    sent = connector.with_posting_date(content, row.posting_date)
    encrypted = row.encrypted_document if sent == content else key_ring.encrypt(sent, **place)
    return FrozenDocument(sent, row.document_type, row.posting_date, row.next_open_day, encrypted)


def _rendered(
    key_ring: KeyRing,
    connector: Connector,
    payment: LockedPayment,
    row: LockedOperation,
    earlier: Sequence[Operation],
    partner: PartnerConfiguration | None,
    place: Mapping[str, str],
    now: datetime,
) -> FrozenDocument:
    target = _target(partner, payment, row)
    mapping = target.mappings.get(row.operation.kind)
    if mapping is None:
        raise PermanentError(f"no mapping for {row.operation.kind}")
    try:
        facts = journal_facts(
            mapping,
            payment.payment,
            row.operation,
            place=Place(row.sap_system, payment.company_code, payment.time_zone, target.currency_decimals),
            reference=row.sap_reference,
            parties=_parties(key_ring, payment),
            metadata=payment.metadata,
            authorisation=_authorisation(earlier),
            now=now,
        )
        entry = connector.render(facts)
    except MappingError as error:
        raise PermanentError(f"not mappable: {error}") from error
    except PermanentError:
        raise
    except Exception as error:
        # It would fail in every claim, and each would be undone with all that counts claims.
        raise PermanentError(f"not renderable ({type(error).__name__})") from error
    encrypted = key_ring.encrypt(entry.content, **place)
    posting_date = date.fromisoformat(facts.posting_date)
    return FrozenDocument(entry.content, entry.document_type, posting_date, mapping.next_open_day, encrypted)


def _parties(key_ring: KeyRing, payment: LockedPayment) -> dict[str, Any]:
    """Return what the mapping's expressions see of who pays whom and why."""
    if payment.encrypted_parties is None:
        return {}
    plain = key_ring.decrypt(
        payment.encrypted_parties,
        table="payments",
        column="encrypted_parties",
        row=payment.payment.payment_id,
    )
    return dict(json.loads(plain))


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


def _target(partner: PartnerConfiguration | None, payment: LockedPayment, row: LockedOperation) -> SapTarget:
    """Return the partner's target; PermanentError unless it is where the payment was accepted to go.

    The accounts of one SAP system or company code are somebody else's in another.
    """
    target = partner.target_at(row.sap_system, payment.company_code) if partner else None
    if target is None:
        raise PermanentError("the partner has no target any more where the payment was accepted to go")
    return target
