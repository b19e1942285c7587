"""One payment through the stack: one line for each request, call and attempt, with the ids it was about."""

import json
import secrets

import pytest
from waiting import wait_until

pytestmark = pytest.mark.e2e

PAYMENT = {
    "external_id": f"LINES-{secrets.token_hex(4)}",
    "amount": {"value": "9.00", "currency": "EUR"},
    "capture": "automatic",
    "debtor": {"name": "Theodora Wiesengrund", "account": {"iban": "DE89370400440532013000"}},
}


def lines(stack, service):
    for line in stack.layout.log(service).read_text(encoding="utf-8").splitlines():
        if line.startswith("{") and line.endswith("}"):
            yield json.loads(line)


def lines_about(stack, service, message, **wanted):
    return [
        line
        for line in lines(stack, service)
        if line["message"] == message and wanted.items() <= line.items()
    ]


def test_each_service_leaves_one_line_for_what_it_has_done(stack):
    accepted = stack.pay(stack.token(), secrets.token_hex(8), PAYMENT)
    assert accepted.status_code == 202, accepted.text
    payment_id = accepted.json()["id"]

    def told():
        return [webhook for webhook in stack.received() if webhook["payment_id"] == payment_id]

    wait_until(lambda: len(told()) == 2, what="both webhooks")
    [operation] = stack.payment(stack.token(), payment_id)["operations"]

    [request] = lines_about(stack, "gateway", "request", payment_id=payment_id, status=202)
    assert (request["method"], request["route"]) == ("POST", "/v1/payments")

    about = {"payment_id": payment_id, "operation_id": operation["id"]}
    wait_until(lambda: lines_about(stack, "sap_adapter", "request", **about), what="the adapter's line")
    [push] = lines_about(stack, "sap_adapter", "request", **about)
    [call] = lines_about(stack, "sap_adapter", "sap call", **about)
    assert push["status"] == 204
    assert push["message_id"] == call["message_id"]
    assert (call["call"], call["outcome"], call["sap_system"]) == ("post", "posted", "s4-main")
    assert push["duration_ms"] >= call["duration_ms"] > 0

    events = {webhook["id"] for webhook in told()}
    every_attempt = lines_about(stack, "webhooks", "webhook attempt")
    attempts = [line for line in every_attempt if line["event_id"] in events]
    assert [line["response_status"] for line in attempts] == [200, 200]
    for attempt in attempts:
        wait_until(
            lambda attempt=attempt: lines_about(
                stack, "webhooks", "request", delivery_id=attempt["delivery_id"], status=204
            ),
            what="the task's line",
        )
    assert lines_about(stack, "dispatcher", "published", topic="payment-operations-s4-main")
