"""Captures, refunds and reversals, handed over while SAP is down: done in their order once it is back."""

import itertools
from decimal import Decimal

import pytest
from partner_run import PartnerRun
from waiting import wait_until

from devstack.layout import CLEARING_ACCOUNT

pytestmark = pytest.mark.e2e

UNFINISHED = {"scheduled", "accepted", "processing", "unknown", "parked"}
NEVER = {"captures": "invalid-state", "reversals": "invalid-state", "refunds": "invalid-state"}


class Partner:
    """Hands over steps under keys of their own."""

    def __init__(self, stack, run):
        self.stack, self.token, self.run = stack, stack.token(), run
        self._numbers = itertools.count(1)

    def pay(self, capture):
        body = self.run.instructions.body("steps", next(self._numbers))
        body |= {"capture": capture, "amount": {"value": "1250.00", "currency": "EUR"}}
        answer = self.stack.pay(self.token, f"{body['external_id']}-key", body)
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    def post(self, payment_id, name, value=None):
        body = {} if value is None else {"amount": {"value": value, "currency": "EUR"}}
        key = {"Idempotency-Key": f"step-{self.run.instructions.run}-{next(self._numbers)}"}
        path = f"/v1/payments/{payment_id}/{name}"
        return self.stack.request("POST", path, self.token, json=body, headers=key)

    def hand_over(self, payment_id, name, value=None):
        answer = self.post(payment_id, name, value)
        assert answer.status_code == 202, answer.text

    def refused(self, payment_id):
        """Which steps the payment does not allow now."""
        answers = {name: self.post(payment_id, name) for name in NEVER}
        assert {answer.status_code for answer in answers.values()} == {409}
        return {name: answer.json()["type"].rpartition("/")[2] for name, answer in answers.items()}

    def payment(self, payment_id):
        return self.stack.payment(self.token, payment_id)

    def is_done(self, payment_id):
        return not UNFINISHED & {operation["status"] for operation in self.payment(payment_id)["operations"]}

    def events(self, payment_id):
        timeline = self.stack.request("GET", f"/v1/payments/{payment_id}/events", self.token).json()["data"]
        return [event["type"].removeprefix("payment.") for event in timeline]


@pytest.fixture
def run(stack):
    yield PartnerRun.on(stack)
    stack.sap("PUT", "/_control/faults", json={})


def documents_of(stack, payment):
    """What SAP has booked for the payment, in order of its steps."""
    booked = {one["number"]: one for one in stack.sap("GET", "/_control/documents")}
    return [booked[operation["sap_document"]["number"]] for operation in payment["operations"]]


def clearing_account(documents):
    return sum(
        Decimal(item["amount"])
        for document in documents
        for item in document["items"]
        if item["account"] == CLEARING_ACCOUNT
    )


def test_steps_handed_over_while_sap_is_down_are_booked_in_their_order(stack, run):
    partner = Partner(stack, run)
    stack.sap("PUT", "/_control/faults", json={"mode": "down"})
    booked_before = len(stack.sap("GET", "/_control/documents"))

    captured, reversed_, paid = (partner.pay(capture) for capture in ("manual", "manual", "automatic"))
    assert partner.post(captured, "refunds").status_code == 409, "nothing is captured yet"
    assert partner.post(captured, "captures", "1250.01").status_code == 409, "more than was authorized"
    partner.hand_over(captured, "captures", "1000.00")
    assert partner.post(captured, "captures", "250.00").status_code == 409, (
        "a partial capture releases the rest"
    )
    assert partner.post(captured, "refunds", "1000.01").status_code == 409
    partner.hand_over(captured, "refunds", "300.00")
    partner.hand_over(captured, "refunds", "700.00")
    partner.hand_over(reversed_, "reversals")
    for name in ("captures", "reversals"):
        assert partner.post(paid, name).status_code == 409, "it was captured in one step"
    partner.hand_over(paid, "refunds", "0.01")
    assert partner.refused(captured) == NEVER
    assert partner.refused(reversed_) == NEVER
    assert len(stack.sap("GET", "/_control/documents")) == booked_before

    stack.sap("PUT", "/_control/faults", json={})
    for payment_id in (captured, reversed_, paid):
        wait_until(lambda one=payment_id: partner.is_done(one), poll_seconds=0.3, what="done")

    expected = {
        captured: ("refunded", "1000.00", "1000.00", ["authorize", "capture", "refund", "refund"]),
        reversed_: ("reversed", "0.00", "0.00", ["authorize", "reverse"]),
        paid: ("partially_refunded", "1250.00", "0.01", ["payment", "refund"]),
    }
    for payment_id, (status, captured_value, refunded_value, kinds) in expected.items():
        payment = partner.payment(payment_id)
        assert payment["status"] == status
        assert (payment["captured"]["value"], payment["refunded"]["value"]) == (
            captured_value,
            refunded_value,
        )
        documents = documents_of(stack, payment)
        assert [document["kind"] for document in documents] == kinds
        amounts = [operation["amount"]["value"] for operation in payment["operations"]]
        assert [document["amount"] for document in documents] == amounts
        assert clearing_account(documents) == Decimal(captured_value) - Decimal(refunded_value)
    told = [event for event in partner.events(captured) if event != "delayed"]
    assert told == ["accepted", "authorized", "paid", "refunded", "refunded"]
    run.wait_until_drained()
    assert run.check() == []


def test_a_later_step_that_sap_refuses_leaves_the_payment_as_it_was(stack, run):
    """The customer is refused for the capture only; the reversal that follows finds the authorisation."""
    partner = Partner(stack, run)
    body = run.instructions.body("SBX-CAPTURE-CUSTOMER-UNKNOWN", 1)
    body |= {"capture": "manual", "external_id": f"SBX-CAPTURE-CUSTOMER-UNKNOWN-{run.instructions.run}"[:35]}
    # so that the refund is handed over before the capture is refused
    stack.sap("PUT", "/_control/faults", json={"mode": "down"})
    payment_id = stack.pay(partner.token, f"{run.instructions.run}-refused", body).json()["id"]
    partner.hand_over(payment_id, "captures")
    partner.hand_over(payment_id, "refunds")
    stack.sap("PUT", "/_control/faults", json={})
    wait_until(lambda: partner.is_done(payment_id), poll_seconds=0.3, what="it is done")
    payment = partner.payment(payment_id)
    assert payment["status"] == "authorized"
    assert [(one["status"], one["failure"] and one["failure"]["code"]) for one in payment["operations"]] == [
        ("succeeded", None),
        ("rejected", "debtor-unknown"),
        ("rejected", "predecessor-rejected"),
    ]
    told = [event for event in partner.events(payment_id) if event != "delayed"]
    assert told == ["accepted", "authorized", "capture_rejected", "refund_rejected"]
    partner.hand_over(payment_id, "reversals")
    wait_until(lambda: partner.is_done(payment_id), poll_seconds=0.3, what="reversed")
    assert partner.payment(payment_id)["status"] == "reversed"
