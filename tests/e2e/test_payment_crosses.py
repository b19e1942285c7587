"""One payment from the partner's call to SAP and back as a webhook, and what must not come of others."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from local_stack import CALL_TIMEOUT_SECONDS
from partner_run import PartnerRun
from sqlalchemy import text
from waiting import wait_until

from devstack.evidence import Before, open_database
from devstack.running_stack import RunningStack

pytestmark = pytest.mark.e2e

COUNTS = text("""
    SELECT (SELECT count(*) FROM payments), (SELECT count(*) FROM idempotency_keys),
           (SELECT count(*) FROM operations), (SELECT count(*) FROM events)
""")


@pytest.fixture
def run(stack):
    return PartnerRun.on(stack)


def test_a_payment_is_paid_in_sap_and_told_by_a_verified_webhook(stack, run):
    token = stack.token()
    body = run.instructions.body("one", 1)
    answer = stack.pay(token, f"{body['external_id']}-key", body)
    assert answer.status_code == 202
    accepted = answer.json()
    assert answer.headers["Location"] == f"/v1/payments/{accepted['id']}"
    assert accepted["status"] == "accepted"

    paid = wait_until(lambda: is_paid(stack, token, accepted["id"]), what="it is paid")

    (operation,) = paid["operations"]
    (document,) = documents_since(stack, run.before)
    assert operation["sap_document"] == {
        name: document[name] for name in ("company_code", "fiscal_year", "number")
    }
    assert (document["amount"], document["currency"]) == (body["amount"]["value"], "EUR")
    assert paid["captured"] == body["amount"]
    assert paid["receipt"] == accepted["receipt"]
    assert not any(planted in json.dumps(paid) for planted in run.instructions.planted)

    timeline = stack.request("GET", f"/v1/payments/{accepted['id']}/events", token).json()["data"]
    assert [event["type"] for event in timeline] == ["payment.accepted", "payment.paid"]
    wait_until(lambda: len(webhooks_of(stack, accepted["id"])) == 2, what="both webhooks")
    webhooks = webhooks_of(stack, accepted["id"])
    assert {webhook["id"] for webhook in webhooks} == {event["id"] for event in timeline}
    assert all(webhook["verified"] for webhook in webhooks)
    feed = stack.request("GET", f"/v1/events?after={timeline[0]['sequence'] - 1}&limit=500", token).json()
    assert [event["id"] for event in feed["data"]] == [event["id"] for event in timeline]
    run.wait_until_drained()
    assert run.check() == []


def test_50_concurrent_identical_posts_make_one_payment_and_one_document(stack, run):
    token = stack.token()
    body = run.instructions.body("same", 1)
    with ThreadPoolExecutor(50) as pool:
        answers = list(
            pool.map(lambda _: stack.pay(token, "same-key-" + run.instructions.run, body), range(50))
        )

    accepted = [answer.json()["id"] for answer in answers if answer.status_code == 202]
    others = [answer for answer in answers if answer.status_code != 202]
    assert accepted
    assert len(set(accepted)) == 1
    assert all(answer.status_code == 409 for answer in others), {answer.status_code for answer in others}
    assert all(answer.json()["type"].endswith("/idempotency-key-in-progress") for answer in others)

    wait_until(lambda: is_paid(stack, token, accepted[0]), what="it is paid")
    assert len(documents_since(stack, run.before)) == 1
    run.wait_until_drained()
    assert run.check() == []


MALFORMED = b'{"external_id": "INV-1", '
REFUSED = {
    "not JSON": (MALFORMED, 400, "malformed-request"),
    "an array": ([1], 422, "invalid-request"),
    "wrong types": ({"external_id": 7}, 422, "invalid-request"),
    "unknown currency": ({"amount": {"value": "1.00", "currency": "ZZZ"}}, 422, "invalid-request"),
    "too many decimals": ({"amount": {"value": "1.005", "currency": "EUR"}}, 422, "invalid-request"),
    "decimals of a currency without": (
        {"amount": {"value": "1.5", "currency": "JPY"}},
        422,
        "invalid-request",
    ),
    "a number as amount": ({"amount": {"value": 1.5, "currency": "EUR"}}, 422, "invalid-request"),
    "zero": ({"amount": {"value": "0.00", "currency": "EUR"}}, 422, "invalid-request"),
    "IBAN with a wrong check digit": (
        {"debtor": {"name": "A", "account": {"iban": "DE88370400440532013000"}}},
        422,
        "invalid-request",
    ),
    "unknown member": ({"surprise": True}, 422, "invalid-request"),
    "a date that is past": ({"requested_execution_date": "2020-01-01"}, 422, "invalid-request"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_payment_is_refused_and_nothing_is_stored(stack, run, name):
    change, status, slug = REFUSED[name]
    body = {**run.instructions.body("bad", 1), **change} if isinstance(change, dict) else change
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    before = counts(run.running)
    answer = stack.request(
        "POST",
        "/v1/payments",
        stack.token(),
        data=data,
        headers={"Idempotency-Key": "bad", "Content-Type": "application/json"},
    )
    assert_problem(answer, status, slug)
    assert counts(run.running) == before


def test_without_a_token_of_ours_or_a_key_nothing_is_stored(stack, run):
    body = run.instructions.body("bad", 1)
    before = counts(run.running)
    foreign = {"Authorization": "Bearer eyJhbGciOiJSUzI1NiIsInR5cCI6ImF0K2p3dCJ9.e30.c2ln"}
    for headers in ({}, foreign):
        assert stack.request("POST", "/v1/payments", json=body, headers=headers).status_code == 401
        # the gateway itself does not rely on the edge
        gateway = stack.layout.url("gateway") + "/v1/payments"
        direct = requests.post(gateway, json=body, headers=headers, timeout=CALL_TIMEOUT_SECONDS)
        assert_problem(direct, 401, "unauthenticated")
    unkeyed = stack.request("POST", "/v1/payments", stack.token(), json=body)
    assert_problem(unkeyed, 400, "idempotency-key-missing")
    reader = stack.token(scope="payments:read")
    assert_problem(stack.pay(reader, "key", body), 403, "insufficient-scope")
    assert counts(run.running) == before


def test_another_partners_payment_is_not_found(stack, run):
    body = run.instructions.body("mine", 1)
    mine = stack.pay(stack.token(), f"{body['external_id']}-key", body).json()["id"]
    assert_problem(
        stack.request("GET", f"/v1/payments/{mine}", stack.token("second_partner")), 404, "not-found"
    )
    run.wait_until_drained()


def test_while_sap_is_down_payments_are_accepted_and_paid_when_it_is_back(stack, run):
    stack.sap("PUT", "/_control/faults", json={"mode": "down"})
    try:
        run.sender.send("down", 20)
        # the circuit opens by itself
        wait_until(lambda: call_window(run.running) == 0, what="an open circuit")
        assert documents_since(stack, run.before) == []
    finally:
        stack.sap("PUT", "/_control/faults", json={"mode": "up"})
    run.wait_until_drained()
    assert run.check() == []
    assert len(documents_since(stack, run.before)) == 20


def is_paid(stack, token, payment_id):
    payment = stack.payment(token, payment_id)
    return payment if payment["status"] == "paid" else None


def documents_since(stack, before: Before):
    return [
        document
        for document in stack.sap("GET", "/_control/documents")
        if document["reference"] not in before.references
    ]


def webhooks_of(stack, payment_id):
    return [webhook for webhook in stack.received() if webhook["payment_id"] == payment_id]


def counts(running: RunningStack):
    with open_database(running).connect() as connection:
        return tuple(connection.execute(COUNTS).one())


def call_window(running: RunningStack):
    with open_database(running).connect() as connection:
        statement = text("SELECT call_window FROM sap_systems WHERE sap_system = 's4-main'")
        return connection.execute(statement).scalar_one()


def assert_problem(answer, status, slug):
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["type"].endswith(f"/problems/{slug}")
