"""Each reason that SAP may refuse for, from the partner's payment to what the partner is told.

Each payment asks the mock for its reason by its own words (docs/sandbox.md).
"""

import json
import secrets

import pytest
import requests
from sqlalchemy import text
from waiting import DEADLINE_SECONDS, wait_until

from devstack.evidence import open_database
from devstack.running_stack import RunningStack
from sap_adapter.classifier import Classifier, LogItem, Whose
from sap_mock.refusals import NAME_IN_NOTES, REASONS

pytestmark = pytest.mark.e2e

CLASSIFIER = Classifier.from_package()
# what SAP says twice is behind two pauses of the adapter, each a generation of its own
PARKED = text("SELECT parked_reason, failure_code FROM operations WHERE payment_id = :payment_id")


def reason_of(word):
    return CLASSIFIER.classify([LogItem(REASONS[word].type_id, 3, "")])


def words_of(whose):
    return [word for word in REASONS if reason_of(word).whose == whose]


def pay_for_each(stack, words, text):
    """One payment per word, all at once; its id by word."""
    token = stack.token()
    ids = {}
    for word in words:
        body = {
            "external_id": f"RSN-{secrets.token_hex(8)}",
            "amount": {"value": "12.50", "currency": "EUR"},
            "capture": "automatic",
            "remittance_information": text.format(word),
        }
        answer = stack.pay(token, secrets.token_hex(8), body)
        assert answer.status_code == 202, answer.text
        ids[word] = answer.json()["id"]
    return ids


@pytest.fixture(scope="module")
def payments(stack):
    return pay_for_each(stack, REASONS, "SBX-{}-17")


@pytest.fixture(scope="module")
def mendable(stack):
    """Payments that are refused once for an operator's reason: as if somebody had mended it since."""
    return pay_for_each(stack, words_of(Whose.OPERATOR), "SBX-{}-ONCE-17")


def told(stack, payment_id, event_type):
    """The event as a verified webhook brought it: its body is the feed's event."""
    ids = {
        webhook["id"]
        for webhook in stack.received()
        if webhook["payment_id"] == payment_id and webhook["type"] == event_type and webhook["verified"]
    }
    timeline = stack.request("GET", f"/v1/payments/{payment_id}/events", stack.token()).json()["data"]
    return next((event for event in timeline if event["id"] in ids), None)


def wait_to_be_told(stack, payment_id, event_type):
    return wait_until(
        lambda: told(stack, payment_id, event_type),
        what=f"{event_type} of {payment_id}",
        poll_seconds=0.5,
    )


def documents_of(stack, payment_id):
    number = stack.payment(stack.token(), payment_id)["operations"][0]["sap_document"]
    return [
        one for one in stack.sap("GET", "/_control/documents") if number and one["number"] == number["number"]
    ]


def seen_by_operators(stack, payment_id):
    running = RunningStack.read(stack.layout.stack_file)
    with open_database(running).connect() as connection:
        return tuple(connection.execute(PARKED, {"payment_id": payment_id}).one())


@pytest.mark.parametrize("word", words_of(Whose.PARTNER))
def test_what_the_partner_can_mend_is_told_with_a_pointer_to_it(stack, payments, word):
    expected = reason_of(word).failure
    assert expected.pointer
    event = wait_to_be_told(stack, payments[word], "payment.rejected")
    (operation,) = event["data"]["payment"]["operations"]
    assert operation["status"] == "rejected"
    assert operation["failure"] == expected.as_json()
    assert NAME_IN_NOTES not in json.dumps(event)


@pytest.mark.parametrize("word", words_of(Whose.OPERATOR))
def test_what_an_operator_has_to_mend_is_parked_and_told_as_a_delay(stack, payments, word):
    event = wait_to_be_told(stack, payments[word], "payment.delayed")
    (operation,) = event["data"]["payment"]["operations"]
    assert operation["status"] == "parked"
    assert NAME_IN_NOTES not in json.dumps(event)
    # there is nothing for the partner to mend: why it waits is the operators' to see
    assert operation["failure"] is None
    assert seen_by_operators(stack, payments[word]) == ("operator", reason_of(word).failure.code)
    assert documents_of(stack, payments[word]) == []


@pytest.mark.parametrize("word", words_of(Whose.RETRY))
def test_what_passes_is_posted_once_without_anybody_mending_it(stack, payments, word):
    wait_to_be_told(stack, payments[word], "payment.paid")
    assert len(documents_of(stack, payments[word])) == 1


@pytest.mark.parametrize("word", words_of(Whose.OPERATOR))
def test_what_an_operator_has_mended_is_redriven_and_posted_once(stack, mendable, word):
    payment_id = mendable[word]
    wait_to_be_told(stack, payment_id, "payment.delayed")
    assert documents_of(stack, payment_id) == []
    for _ in range(2):  # repeating it changes nothing
        answer = requests.post(
            f"{stack.layout.url('backoffice')}/admin/payments/{payment_id}/redrive",
            headers={"X-Operator": "olga", "X-Reason": "mended"},
            json={},
            timeout=DEADLINE_SECONDS,
        )
        assert answer.status_code == 200, answer.text
    wait_to_be_told(stack, payment_id, "payment.paid")
    assert len(documents_of(stack, payment_id)) == 1
