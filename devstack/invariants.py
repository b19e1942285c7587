"""The six invariants (docs/invariants.md) as checks of a run: `check` returns what breaks them, or nothing.

Used by the demo, the chaos tests and the end-to-end tests. The judging is pure (`judge`), so that it is
itself tested with made-up evidence.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from typing import Any

from bridge.money import Money
from bridge.partner import PartnerStatus
from bridge.payment import (
    FINAL_OPERATION_STATUSES,
    REJECTION_EVENTS,
    SUCCESS_EVENTS,
    EventType,
    OperationStatus,
)
from devstack.evidence import Before, Evidence, collect
from devstack.layout import CLEARING_ACCOUNT
from devstack.leaks import find_leaks
from devstack.running_stack import RunningStack

INVARIANTS = {
    1: "durable: every payment answered 202 is there",
    2: "exactly once: documents in SAP are the succeeded operations, their sums captured less refunded",
    3: "nothing silently stuck: every operation at its end",
    4: "every outcome told: gap-free feed, every webhook received and verified",
    5: "SAP protected: never more calls at once than allowed",
    6: "least data: names, accounts and texts nowhere in clear",
}
# of the others none has reached SAP, or SAP has refused it
MAY_HAVE_A_DOCUMENT = frozenset(
    {OperationStatus.SUCCEEDED, OperationStatus.PROCESSING, OperationStatus.UNKNOWN, OperationStatus.PARKED}
)


@dataclass(frozen=True, slots=True)
class Violation:
    """One line about what breaks an invariant (its number in docs/invariants.md)."""

    invariant: int
    what: str

    def __str__(self) -> str:
        return f"invariant {self.invariant}: {self.what}"


@dataclass(frozen=True, slots=True)
class Accepted:
    """A 202 as the sender remembers it. `value` is the decimal string that was asked for."""

    payment_id: str
    partner_id: str
    external_id: str
    value: str
    currency: str


@dataclass(frozen=True, slots=True)
class Expectations:
    """What the sender knows. `planted` are the personal data it sent; `drained`: all must have ended."""

    accepted: Sequence[Accepted] = ()
    planted: Sequence[str] = ()
    drained: bool = True
    before: Before = field(default_factory=Before)


def check(stack: RunningStack, expectations: Expectations) -> list[Violation]:
    """Read the stack and judge it."""
    evidence = collect(stack, expectations.before, find_leaks(stack, expectations.planted))
    return judge(evidence, expectations)


def judge(evidence: Evidence, expectations: Expectations) -> list[Violation]:
    """Return every violation, in the order of the invariants."""
    findings = {
        1: _lost(evidence, expectations),
        2: _not_once(evidence),
        3: _stuck(evidence, drained=expectations.drained),
        4: _not_told(evidence, drained=expectations.drained),
        5: _overrun(evidence),
        6: iter(evidence.leaks),
    }
    return [Violation(number, what) for number, found in findings.items() for what in found]


def _lost(evidence: Evidence, expectations: Expectations) -> Iterator[str]:
    by_id = Counter(one.payment_id for one in expectations.accepted)
    yield from (f"{payment_id} was answered to {n} payments" for payment_id, n in by_id.items() if n > 1)
    for one in expectations.accepted:
        row = evidence.payments.get(one.payment_id)
        if row is None:
            yield f"{one.payment_id} ({one.external_id}) was answered 202 and is not stored"
            continue
        stored = (row.partner_id, row.external_id, Money(row.amount_minor, row.currency))
        if stored != (one.partner_id, one.external_id, Money.parse(one.value, one.currency)):
            yield f"{one.payment_id} is not stored as it was sent ({one.external_id})"


def _not_once(evidence: Evidence) -> Iterator[str]:
    documents = defaultdict(list)
    for document in evidence.documents:
        documents[document["reference"]].append(document)
    for operation in evidence.operations:
        found = documents.get(operation.sap_reference, [])
        yield from _wrong_documents(operation, found)
    for reference, found in documents.items():
        if reference not in evidence.our_references:
            yield f"SAP has {len(found)} documents {reference!r} without an operation"
    if evidence.duplicates:
        yield f"SAP counts {evidence.duplicates} duplicates"
    yield from _wrong_balances(evidence)


def _wrong_documents(operation: Any, found: Sequence[Any]) -> Iterator[str]:
    name, status = operation.operation_id, operation.status
    if len(found) > 1:
        yield f"{name} has {len(found)} documents in SAP"
    if status == OperationStatus.SUCCEEDED and not found:
        yield f"{name} is succeeded and has no document {operation.sap_reference} in SAP"
    if found and status not in MAY_HAVE_A_DOCUMENT:
        yield f"{name} is {status} and has a document in SAP"
    for document in found:
        amount = Money(operation.amount_minor, operation.currency)
        if (Decimal(document["amount"]), document["currency"]) != (Decimal(amount.value), amount.currency):
            yield (
                f"{name} over {amount.value} {amount.currency} has a document over "
                f"{document['amount']} {document['currency']}"
            )
        in_sap = (document["company_code"], document["fiscal_year"], document["number"])
        recorded = (operation.sap_company_code, operation.sap_fiscal_year, operation.sap_document_number)
        if status == OperationStatus.SUCCEEDED and in_sap != recorded:
            yield f"{name} recorded document {'/'.join(recorded)}, SAP has {'/'.join(in_sap)}"


def _wrong_balances(evidence: Evidence) -> Iterator[str]:
    """Per payment, what its documents left on the clearing account is what was captured and not refunded."""
    payment_of = {operation.sap_reference: operation.payment_id for operation in evidence.operations}
    balances: dict[str, Decimal] = defaultdict(Decimal)
    for document in evidence.documents:
        payment_id = payment_of.get(document["reference"], "")
        for item in document["items"]:
            if item["account"] == CLEARING_ACCOUNT:
                balances[payment_id] += Decimal(item["amount"])
    moving = {one.payment_id for one in evidence.operations if one.status not in FINAL_OPERATION_STATUSES}
    for payment_id, row in evidence.payments.items():
        expected = Money(row.captured_minor - row.refunded_minor, row.currency)
        if payment_id not in moving and balances[payment_id] != Decimal(expected.value):
            yield (
                f"{payment_id} captured less refunded is {expected.value} {expected.currency}, SAP's "
                f"clearing account says {balances[payment_id]}"
            )


def _stuck(evidence: Evidence, *, drained: bool) -> Iterator[str]:
    with_operation = {operation.payment_id for operation in evidence.operations}
    yield from (f"{one} has no operation" for one in evidence.payments if one not in with_operation)
    for operation in evidence.operations:
        name, status = operation.operation_id, operation.status
        final = status in FINAL_OPERATION_STATUSES
        moving = operation.in_outbox or operation.dispatched_at or operation.lease_until
        if not (final or moving or status == OperationStatus.PARKED):
            yield f"{name} is {status} and neither waits, is on its way nor is worked on"
        if drained and not final:
            yield f"{name} is still {status}"
        if drained and final and (operation.in_outbox or operation.lease_until or operation.holds_slot):
            yield f"{name} is {status} and still has an outbox row, a lease or a call permit"
    if drained:
        waiting = sum(event.in_outbox for event in evidence.events)
        leased = sum(bool(delivery.is_leased) for delivery in evidence.deliveries)
        yield from (f"{waiting} events are still in the outbox" for _ in range(bool(waiting)))
        yield from (f"{leased} deliveries are still leased" for _ in range(bool(leased)))


def _not_told(evidence: Evidence, *, drained: bool) -> Iterator[str]:
    for feed in evidence.feeds:
        if feed.last - feed.first + 1 != feed.count or feed.counter != feed.last:
            yield (
                f"the feed of {feed.partner_id} has {feed.count} events from {feed.first} to {feed.last}, "
                f"its counter says {feed.counter}"
            )
    yield from _untold_payments(evidence)
    yield from _broken_chains(evidence)
    yield from _misreceived(evidence)
    if drained:
        yield from _undelivered(evidence)


def _untold_payments(evidence: Evidence) -> Iterator[str]:
    told = {(event.payment_id, event.event_type) for event in evidence.events}
    for payment_id in evidence.payments:
        if (payment_id, EventType.ACCEPTED) not in told:
            yield f"{payment_id} is without the event {EventType.ACCEPTED}"
    for operation in evidence.operations:
        outcome = _outcome(operation)
        if outcome and (operation.payment_id, outcome) not in told:
            yield f"{operation.operation_id} is {operation.status} without the event {outcome}"


def _outcome(operation: Any) -> EventType | None:
    match operation.status:
        case OperationStatus.SUCCEEDED:
            return SUCCESS_EVENTS[operation.kind]
        case OperationStatus.REJECTED:
            return REJECTION_EVENTS[operation.kind]
        case _:
            return None


def _broken_chains(evidence: Evidence) -> Iterator[str]:
    chains = defaultdict(list)
    for delivery in evidence.deliveries:
        chains[delivery.endpoint_id].append((delivery.sequence, delivery.previous_sequence))
    for endpoint_id, chain in chains.items():
        for (sequence, _), (later, previous) in pairwise(sorted(chain)):
            if previous != sequence:
                yield f"{endpoint_id}: event {later} names {previous} as the one before, not {sequence}"


def _misreceived(evidence: Evidence) -> Iterator[str]:
    deliveries = {(one.partner_id, one.event_id): one for one in evidence.deliveries}
    for row in evidence.received:
        delivery = deliveries.get((row["partner_id"], row["id"]))
        if delivery is None:
            # what an older run has left behind may still arrive in this one
            continue
        if not row["verified"]:
            yield f"the receiver could not verify webhook {row['id']}"
        told = (row["sequence"], row["previous_sequence"])
        if told != (delivery.sequence, delivery.previous_sequence):
            yield f"webhook {row['id']} arrived as {told}, not as in the feed"


def _undelivered(evidence: Evidence) -> Iterator[str]:
    delivered = {(one.endpoint_id, one.event_id): one.status for one in evidence.deliveries}
    arrived = {(row["partner_id"], row["id"]) for row in evidence.received if row["verified"]}
    partners = {partner.partner_id: partner for partner in evidence.partners}
    for event in evidence.events:
        if event.sequence is None:
            yield f"{event.event_id} has no place in the feed"
            continue
        partner = partners.get(event.partner_id)
        if partner is None or partner.status != PartnerStatus.ACTIVE:
            continue
        for endpoint in partner.webhook_endpoints:
            is_told = endpoint.endpoint_id not in evidence.disabled_endpoints
            if not is_told or not endpoint.wants(event.event_type):
                continue
            if event.sequence <= endpoint.starts_after_sequence:
                continue
            status = delivered.get((endpoint.endpoint_id, event.event_id), "missing")
            if status != "delivered":
                yield f"the delivery of {event.event_id} to {endpoint.endpoint_id} is {status}"
            if (event.partner_id, event.event_id) not in arrived:
                yield f"{event.event_id} has not arrived at the receiver of {event.partner_id}"


def _overrun(evidence: Evidence) -> Iterator[str]:
    if evidence.max_in_flight > evidence.hard_cap:
        yield f"{evidence.max_in_flight} calls were in flight in SAP at once, allowed are {evidence.hard_cap}"
