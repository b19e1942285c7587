"""The partner's mapping and route change while SAP has not said what became of two payments.

Still one document each, by the old mapping, where they were accepted to go.
"""

import json
import os
import secrets
import signal
import subprocess
import sys

import pytest
from waiting import DEADLINE_SECONDS, wait_until

from devstack.layout import REPOSITORY

pytestmark = [pytest.mark.e2e, pytest.mark.plants_faults]


def bridge_partners(stack, *arguments, given=None):
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "partners", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "BRIDGE_PARTNERS_URL": stack.layout.url("partners"), "USER": "olga"},
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def partner_id(stack):
    """The second demo partner; SAP is well and its document as it was when the test has ended."""
    partner_id = stack.document["second_partner"]["id"]
    before = json.loads(bridge_partners(stack, "show", partner_id))
    yield partner_id
    stack.sap("PUT", "/_control/faults", json={})
    change(
        stack,
        partner_id,
        lambda document: document.update(targets=before["targets"], routing=before["routing"]),
    )


def change(stack, partner_id, edit):
    document = json.loads(bridge_partners(stack, "show", partner_id))
    edit(document)
    bridge_partners(stack, "update", partner_id, "-", "--reason", "test", given=json.dumps(document))


def send_elsewhere_with_other_accounts(document):
    targets = document["targets"]
    for mapping in targets["main"]["mappings"].values():
        mapping.update(customer="19999999", document_type="AB")
    targets["second"] = {**targets["main"], "sap_system": "s4-second", "company_code": "2000"}
    document["routing"] = {"default": "second"}


def pay(stack, token):
    body = {
        "external_id": f"CHG-{secrets.token_hex(6)}",
        "amount": {"value": "77.70", "currency": "EUR"},
        "capture": "automatic",
    }
    answer = stack.pay(token, secrets.token_hex(8), body)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def operation(stack, token, payment_id):
    return stack.payment(token, payment_id)["operations"][0]


def is_unknown(stack, token, payment_id):
    return operation(stack, token, payment_id)["status"] == "unknown"


def in_system(stack, system):
    return stack.sap("GET", f"/systems/{system}/_control/documents")


def restart_the_adapter(stack):
    """A cold start reads the partner's document anew."""
    pid = stack.pid("sap_adapter")
    os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: (
            stack.layout.stack_file.exists()
            and stack.document["processes"].get("sap_adapter") not in (None, pid)
        ),
        what="the adapter's restart",
        poll_seconds=0.2,
    )


def test_a_change_while_outcomes_are_unknown_still_makes_one_document_each(stack, partner_id):
    token = stack.token("second_partner")
    before, duplicates = len(in_system(stack, "s4-main")), stack.sap("GET", "/_control/stats")["duplicates"]
    # one that SAP has booked without saying so, one that it has not
    stack.sap("PUT", "/_control/faults", json={"commit_then_drop_rate": 1.0})
    booked = pay(stack, token)
    wait_until(lambda: len(in_system(stack, "s4-main")) > before, what="the booking")
    stack.sap("PUT", "/_control/faults", json={"mode": "down"})
    lost = pay(stack, token)
    for payment_id in (booked, lost):
        wait_until(lambda one=payment_id: is_unknown(stack, token, one), what="unknown")

    change(stack, partner_id, send_elsewhere_with_other_accounts)
    restart_the_adapter(stack)
    stack.sap("PUT", "/_control/faults", json={})
    for payment_id in (booked, lost):
        wait_until(
            lambda one=payment_id: stack.payment(token, one)["status"] == "paid",
            what="paid",
            poll_seconds=0.5,
        )
    documents = [operation(stack, token, payment_id)["sap_document"] for payment_id in (booked, lost)]
    assert [document["company_code"] for document in documents] == ["1000", "1000"]
    # DZ, the old document type's number range
    assert all(document["number"].startswith("14") for document in documents)
    assert len(in_system(stack, "s4-main")) == before + 2
    assert stack.sap("GET", "/_control/stats")["duplicates"] == duplicates

    # and the change is in force: the gateway's copy of the document is 30 s old at most
    def goes_to_the_second_system():
        payment_id = pay(stack, token)
        wait_until(
            lambda: stack.payment(token, payment_id)["status"] == "paid",
            what="paid",
        )
        return operation(stack, token, payment_id)["sap_document"]["company_code"] == "2000"

    wait_until(goes_to_the_second_system, what="the new route", poll_seconds=3)
    assert in_system(stack, "s4-second")
