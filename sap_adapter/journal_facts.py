"""What a step's journal entry is rendered from: the payment, the step, what the mapping makes of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from bridge.journal_mapping import JournalEntryMapping
from bridge.mapping_values import MappingError, evaluate, view
from bridge.money import InvalidMoneyError, Money, written
from bridge.payment import Operation, OperationKind, Payment, SapDocument
from sap_adapter.connector import JournalFacts


@dataclass(frozen=True, slots=True)
class Place:
    """Where the payment was routed to when it was accepted. `time_zone` is the company code's.

    `currency_decimals`: of the currencies that SAP counts otherwise than ISO 4217.
    """

    sap_system: str
    company_code: str
    time_zone: str
    currency_decimals: Mapping[str, int] = field(default_factory=dict)


def journal_facts(
    mapping: JournalEntryMapping,
    payment: Payment,
    operation: Operation,
    *,
    place: Place,
    reference: str,
    parties: Mapping[str, Any],
    metadata: Mapping[str, str],
    authorisation: SapDocument | None,
    now: datetime,
) -> JournalFacts:
    """Return the facts of an entry posted `now`; MappingError if the mapping gives none.

    The posting date is never before the day that the payment was wanted for, whatever the clock says.
    `parties` is bridge.parties' JSON, `authorisation` the document that a reversal takes back.
    """
    zone = ZoneInfo(place.time_zone)
    accepted_on = _day(operation.created_at, zone)
    chosen = accepted_on if mapping.posting_date == "acceptance" else _day(now, zone)
    posting_date = max(chosen, payment.requested_execution_date or chosen)
    seen = view(
        payment,
        operation,
        parties=parties,
        metadata=metadata,
        sap_system=place.sap_system,
        company_code=place.company_code,
        accepted_on=accepted_on,
    )
    return JournalFacts(
        kind=operation.kind,
        reference=reference,
        partner_id=payment.partner_id,
        external_id=payment.external_id,
        amount=_written(place, operation.amount),
        currency=operation.amount.currency,
        company_code=place.company_code,
        document_date=accepted_on.isoformat(),
        posting_date=posting_date.isoformat(),
        values=evaluate(mapping, seen),
        reverses=authorisation if operation.kind == OperationKind.REVERSE else None,
    )


def _written(place: Place, amount: Money) -> str:
    try:
        return written(amount, place.currency_decimals)
    except InvalidMoneyError as error:
        raise MappingError("currency_decimals", f"leaves no room for the amount: {error}") from error


def _day(moment: datetime, zone: ZoneInfo) -> date:
    return moment.astimezone(zone).date()
