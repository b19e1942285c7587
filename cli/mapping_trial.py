"""A partner's mapping tried on a sample payment: the journal entry that it would become.

The same code validates, routes and renders as in the services; nothing is sent anywhere and nothing stored.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lxml import etree

from bridge.errors import FieldError, RejectedError
from bridge.ids import new_id, sap_reference
from bridge.mapping_values import MappingError
from bridge.partner import PartnerConfiguration
from bridge.payment import (
    Operation,
    OperationKind,
    OperationStatus,
    Payment,
    PaymentStatus,
    SapDocument,
    first_operation_kind,
)
from gateway.payment_request import PaymentRequest, read_payment
from partners import documents
from sap_adapter.journal_entry import render
from sap_adapter.journal_facts import Place, journal_facts


class TrialError(Exception):
    """Why there is no journal entry. `what` is the document or the payment; each mistake has its pointer."""

    def __init__(self, what: str, *errors: FieldError) -> None:
        super().__init__(what)
        self.what = what
        self.errors = errors


@dataclass(frozen=True, slots=True)
class Trial:
    """What the payment would become. `rule` is what routed it, None: the default. `entry` is SAP's XML."""

    kind: OperationKind
    target: str
    rule: str | None
    sap_system: str
    company_code: str
    entry: str


def try_mapping(
    document: dict[str, Any], payment: dict[str, Any], kind: OperationKind | None, now: datetime
) -> Trial:
    """Return the entry of the payment's first step, or of the step `kind`; TrialError if there is none.

    `document`: a partner's, as `bridge partners show` prints it or `create` takes it; `payment`: the body of
    `POST /v1/payments`. A reversal takes back an authorisation with a made-up number.
    """
    stored = _partner(document)
    partner = stored.at(now)
    try:
        request = read_payment(payment)
    except RejectedError as error:
        raise TrialError("payment", *error.errors) from error
    kind = kind or first_operation_kind(request.capture)
    explanation = partner.routing.explain(request.amount)
    target = partner.targets[explanation.target]
    pointer = f"{_place_of_targets(stored, now)}/targets/{explanation.target}/mappings"
    if kind not in target.mappings:
        raise TrialError("document", FieldError(pointer, f"has no mapping for {kind}"))
    sample, operation = _sample(partner.partner_id, request, kind, now)
    try:
        facts = journal_facts(
            target.mappings[kind],
            sample,
            operation,
            place=Place(target.sap_system, target.company_code, target.time_zone, target.currency_decimals),
            reference=sap_reference(operation.operation_id),
            parties=json.loads(request.parties.to_bytes()),
            metadata=request.metadata,
            authorisation=SapDocument(target.company_code, str(now.year), "1" + "0" * 9),
            now=now,
        )
    except MappingError as error:
        mistake = FieldError(f"{pointer}/{kind}/{error.member}", f"{error.why}, for this payment")
        raise TrialError("document", mistake) from error
    entry = etree.fromstring(render(facts).content)
    etree.indent(entry)
    return Trial(
        kind,
        explanation.target,
        explanation.rule,
        target.sap_system,
        target.company_code,
        etree.tostring(entry, encoding="unicode"),
    )


def _partner(document: dict[str, Any]) -> PartnerConfiguration:
    """Return the document; who may call and who is told have no part in a mapping."""
    partner_id = document.get("partner_id") or f"par_{'0' * 26}"
    relevant = {"name": "", "status": "active", **document, "clients": [], "webhook_endpoints": []}
    try:
        return documents.read(relevant, partner_id=partner_id, version=1, base=None)
    except RejectedError as error:
        raise TrialError("document", *error.errors) from error


def _place_of_targets(partner: PartnerConfiguration, now: datetime) -> str:
    """Return the pointer to what has the targets that hold `now`: the document, or a dated change of it."""
    place = ""
    for number, change in enumerate(partner.dated_changes):
        if change.targets is not None and change.effective_from <= now:
            place = f"/dated_changes/{number}"
    return place


def _sample(
    partner_id: str, request: PaymentRequest, kind: OperationKind, now: datetime
) -> tuple[Payment, Operation]:
    amount = request.amount
    payment = Payment(
        payment_id=new_id("pay", now),
        partner_id=partner_id,
        external_id=request.external_id,
        status=PaymentStatus.ACCEPTED,
        currency=amount.currency,
        amount_minor=amount.minor,
        captured_minor=0,
        refunded_minor=0,
        capture=request.capture,
        requested_execution_date=request.requested_execution_date,
        created_at=now,
        updated_at=now,
    )
    return payment, Operation(new_id("op", now), kind, OperationStatus.ACCEPTED, amount, now)
