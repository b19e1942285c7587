"""The check of the six invariants itself: quiet about a sound run, one line for each thing that is wrong."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from bridge.journal_mapping import JournalEntryMapping
from bridge.partner import PartnerConfiguration, PartnerStatus, SapTarget
from bridge.payment import OperationKind
from bridge.routing import Routing
from bridge.webhook_endpoint import SigningSecret, WebhookEndpoint
from devstack.evidence import Evidence
from devstack.invariants import Accepted, Expectations, judge
from devstack.layout import CLEARING_ACCOUNT

pytestmark = pytest.mark.unit

PARTNER = "par_" + "1" * 26
ENDPOINT = "whe_" + "1" * 26
SECRETS = (SigningSecret(encrypted="x"),)
MAPPING = JournalEntryMapping(document_type="DZ", customer="1", clearing_account="1")


def row(**values):
    return SimpleNamespace(**values)


def operation(number, /, **changes):
    values = {
        "operation_id": f"op_{number}",
        "payment_id": f"pay_{number}",
        "kind": "payment",
        "status": "succeeded",
        "amount_minor": 1000 + number,
        "currency": "EUR",
        "sap_reference": f"REF{number}",
        "sap_system": "s4-main",
        "sap_company_code": "1000",
        "sap_fiscal_year": "2026",
        "sap_document_number": f"140000000{number}",
        "lease_until": None,
        "dispatched_at": None,
        "in_outbox": False,
        "holds_slot": False,
    }
    return row(**(values | changes))


def document(number, /, **changes):
    values = {
        "reference": f"REF{number}",
        "company_code": "1000",
        "fiscal_year": "2026",
        "number": f"140000000{number}",
        "currency": "EUR",
        "amount": f"10.{number:02}",
        "kind": "payment",
    } | changes
    items = [
        {"kind": "Item", "account": CLEARING_ACCOUNT, "amount": values["amount"]},
        {"kind": "DebtorItem", "account": "10000001", "amount": f"-{values['amount']}"},
    ]
    return {"items": items} | values


def event(sequence, kind, payment, /, **changes):
    values = {
        "event_id": f"evt_{sequence}",
        "partner_id": PARTNER,
        "payment_id": f"pay_{payment}",
        "event_type": kind,
        "sequence": sequence,
        "in_outbox": False,
    }
    return row(**(values | changes))


def delivery(sequence, /, **changes):
    values = {
        "event_id": f"evt_{sequence}",
        "endpoint_id": ENDPOINT,
        "partner_id": PARTNER,
        "sequence": sequence,
        "previous_sequence": sequence - 1,
        "status": "delivered",
        "is_leased": None,
    }
    return row(**(values | changes))


def webhook(sequence, /, **changes):
    values = {
        "id": f"evt_{sequence}",
        "partner_id": PARTNER,
        "sequence": sequence,
        "previous_sequence": sequence - 1,
        "verified": True,
    }
    return values | changes


def payment(number, /, **changes):
    values = {
        "payment_id": f"pay_{number}",
        "partner_id": PARTNER,
        "external_id": f"INV-{number}",
        "status": "paid",
        "currency": "EUR",
        "amount_minor": 1000 + number,
        "captured_minor": 1000 + number,
        "refunded_minor": 0,
    }
    return row(**(values | changes))


SOUND = Evidence(
    payments={f"pay_{number}": payment(number) for number in (1, 2)},
    operations=[operation(1), operation(2)],
    our_references=frozenset({"REF1", "REF2"}),
    events=[
        event(1, "payment.accepted", 1),
        event(2, "payment.accepted", 2),
        event(3, "payment.paid", 1),
        event(4, "payment.paid", 2),
    ],
    feeds=[row(partner_id=PARTNER, first=1, last=4, count=4, counter=4)],
    deliveries=[delivery(sequence) for sequence in range(1, 5)],
    partners=[
        PartnerConfiguration(
            partner_id=PARTNER,
            version=1,
            name="A",
            status=PartnerStatus.ACTIVE,
            clients=(),
            targets={
                "main": SapTarget(
                    sap_system="s4-main",
                    company_code="1000",
                    time_zone="UTC",
                    mappings={OperationKind.PAYMENT: MAPPING},
                )
            },
            routing=Routing(default="main"),
            webhook_endpoints=(WebhookEndpoint(endpoint_id=ENDPOINT, url="http://a", secrets=SECRETS),),
        )
    ],
    hard_cap=8,
    documents=[document(1), document(2)],
    max_in_flight=8,
    received=[webhook(sequence) for sequence in range(1, 5)],
)
ACCEPTED = tuple(
    Accepted(f"pay_{number}", PARTNER, f"INV-{number}", f"10.{number:02}", "EUR") for number in (1, 2)
)
EXPECTED = Expectations(accepted=ACCEPTED)


def test_a_sound_run_has_no_violation():
    assert judge(SOUND, EXPECTED) == []


BROKEN = {
    "lost payment": (1, replace(SOUND, payments={"pay_1": payment(1)}, operations=[operation(1)]), "pay_2"),
    "other amount": (
        1,
        replace(SOUND, payments={**SOUND.payments, "pay_2": payment(2, amount_minor=1)}),
        "not stored as it was sent",
    ),
    "document removed": (2, replace(SOUND, documents=[document(1)]), "op_2 is succeeded and has no document"),
    "document posted twice": (
        2,
        replace(SOUND, documents=[document(1), document(2), document(2, number="1400000009")]),
        "op_2 has 2 documents",
    ),
    "duplicates counted by SAP": (2, replace(SOUND, duplicates=1), "1 duplicates"),
    "document over another amount": (
        2,
        replace(SOUND, documents=[document(1), document(2, amount="10.03")]),
        "over 10.02 EUR has a document over 10.03 EUR",
    ),
    "document in another currency": (
        2,
        replace(SOUND, documents=[document(1), document(2, currency="USD")]),
        "10.02 USD",
    ),
    "document of another number": (
        2,
        replace(SOUND, documents=[document(1), document(2, number="1400000007")]),
        "SAP has 1000/2026/1400000007",
    ),
    "document of nobody": (
        2,
        replace(SOUND, documents=[*SOUND.documents, document(3)]),
        "'REF3' without an operation",
    ),
    "document of a rejected operation": (
        2,
        replace(SOUND, operations=[operation(1), operation(2, status="rejected")]),
        "op_2 is rejected and has a document",
    ),
    "refund that SAP has not booked": (
        2,
        replace(SOUND, payments={**SOUND.payments, "pay_2": payment(2, refunded_minor=2)}),
        "pay_2 captured less refunded is 10.00 EUR, SAP's clearing account says 10.02",
    ),
    "authorisation on the clearing account": (
        2,
        replace(SOUND, payments={**SOUND.payments, "pay_2": payment(2, captured_minor=0)}),
        "pay_2 captured less refunded is 0.00 EUR, SAP's clearing account says 10.02",
    ),
    "operation left": (
        3,
        replace(SOUND, operations=[operation(1), operation(2, status="unknown", in_outbox=True)]),
        "op_2 is still unknown",
    ),
    "operation nobody works on": (
        3,
        replace(SOUND, operations=[operation(1), operation(2, status="accepted")]),
        "neither waits, is on its way nor is worked on",
    ),
    "outbox row left": (
        3,
        replace(SOUND, operations=[operation(1), operation(2, in_outbox=True)]),
        "still has an outbox row",
    ),
    "permit left": (
        3,
        replace(SOUND, operations=[operation(1), operation(2, holds_slot=True)]),
        "a call permit",
    ),
    "event not relayed": (
        3,
        replace(SOUND, events=[*SOUND.events[:3], event(4, "payment.paid", 2, in_outbox=True)]),
        "1 events are still in the outbox",
    ),
    "gap in the feed": (
        4,
        replace(SOUND, feeds=[row(partner_id=PARTNER, first=1, last=5, count=4, counter=5)]),
        "4 events from 1 to 5",
    ),
    "event without a sequence": (
        4,
        replace(SOUND, events=[*SOUND.events[:3], event(4, "payment.paid", 2, sequence=None)]),
        "evt_4 has no place in the feed",
    ),
    "outcome without an event": (
        4,
        replace(SOUND, events=SOUND.events[:3], deliveries=SOUND.deliveries[:3], received=SOUND.received[:3]),
        "op_2 is succeeded without the event payment.paid",
    ),
    "rejection without an event": (
        4,
        replace(SOUND, operations=[operation(1), operation(2, status="rejected")]),
        "op_2 is rejected without the event payment.rejected",
    ),
    "payment without its first event": (
        4,
        replace(SOUND, events=[SOUND.events[0], *SOUND.events[2:]]),
        "pay_2 is without the event payment.accepted",
    ),
    "delivery deleted": (
        4,
        replace(SOUND, deliveries=[delivery(1), delivery(2), delivery(3)]),
        "the delivery of evt_4 to",
    ),
    "delivery exhausted": (
        4,
        replace(SOUND, deliveries=[*SOUND.deliveries[:3], delivery(4, status="exhausted")]),
        "is exhausted",
    ),
    "chain broken": (
        4,
        replace(SOUND, deliveries=[*SOUND.deliveries[:3], delivery(4, previous_sequence=2)]),
        "event 4 names 2 as the one before, not 3",
    ),
    "webhook not received": (4, replace(SOUND, received=SOUND.received[:3]), "evt_4 has not arrived"),
    "webhook not verified": (
        4,
        replace(SOUND, received=[*SOUND.received, webhook(4, verified=False)]),
        "could not verify webhook evt_4",
    ),
    "webhook with another sequence": (
        4,
        replace(SOUND, received=[*SOUND.received, webhook(4, sequence=7)]),
        "evt_4 arrived as (7, 3)",
    ),
    "too many calls at once": (5, replace(SOUND, max_in_flight=9), "9 calls were in flight"),
    "leak": (
        6,
        replace(SOUND, leaks=["3 rows of public.events show planted personal data"]),
        "public.events",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_fault_is_told(name):
    invariant, evidence, words = BROKEN[name]
    told = [str(violation) for violation in judge(evidence, EXPECTED)]
    assert any(line.startswith(f"invariant {invariant}:") and words in line for line in told), told


def test_one_id_answered_to_two_payments_is_told():
    expectations = Expectations(accepted=(*ACCEPTED, ACCEPTED[0]))
    assert [str(v) for v in judge(SOUND, expectations)] == ["invariant 1: pay_1 was answered to 2 payments"]


def test_a_webhook_that_arrived_twice_is_no_violation():
    assert judge(replace(SOUND, received=[*SOUND.received, webhook(4)]), EXPECTED) == []


def test_what_visibly_waits_is_no_violation_before_the_drain():
    waiting = replace(
        SOUND,
        operations=[operation(1), operation(2, status="accepted", in_outbox=True, sap_document_number=None)],
        payments={"pay_1": payment(1), "pay_2": payment(2, status="accepted", captured_minor=0)},
        documents=[document(1)],
        events=SOUND.events[:3],
        received=[],
    )
    assert judge(waiting, replace(EXPECTED, drained=False)) == []


def test_a_disabled_endpoint_need_not_receive():
    told = replace(
        SOUND,
        disabled_endpoints=frozenset({ENDPOINT}),
        deliveries=[delivery(sequence, status="held") for sequence in range(1, 5)],
        received=[],
    )
    assert judge(told, EXPECTED) == []
