"""Schemathesis on the gateway in this process: whatever is sent, it answers as the OpenAPI document says."""

import pytest
from api_fuzzing import PAY, Report, fuzz, register_formats, schemas, strict
from booking import book
from gateway_stage import NOW, GatewayStage, new_payment

pytestmark = pytest.mark.contract

EXAMPLES = 12
PAYMENT_EXAMPLES = 100
SEED = 7
WEBHOOK_URL = "https://partner.example/hooks"
STATES = ("accepted", "paid", "authorized")


def payment_in(stage, state):
    capture = "manual" if state == "authorized" else "automatic"
    payment_id = stage.pay(new_payment(capture=capture)).json["id"]
    if state != "accepted":
        book(stage, payment_id)
    return payment_id


def webhooks_of(stage):
    """Endpoints to work on, and their deliveries."""
    call = stage.call
    endpoints = [
        call("POST", "/v1/webhook-endpoints", json={"url": WEBHOOK_URL}).json["id"] for _ in range(10)
    ]
    deliveries = [call("POST", f"/v1/webhook-endpoints/{each}/test").json["id"] for each in endpoints]
    return {"endpoint_id": endpoints, "delivery_id": deliveries}


def test_whatever_is_sent_it_answers_as_described(database):
    stage = GatewayStage(database)
    register_formats(NOW.date(), WEBHOOK_URL)
    document = strict(stage.app.test_client().get("/openapi.json").json)
    ids = {
        "payment_id": [payment_in(stage, state) for _ in range(10) for state in STATES],
        **webhooks_of(stage),
    }
    report = Report()
    for schema in schemas(document, EXAMPLES, PAYMENT_EXAMPLES, seed=SEED):
        schema.app = stage.app
        fuzz(schema, ids, stage.token, report)
    stage.close()
    print(report)  # noqa: T201 - what was tried
    assert report.failures == []
    assert report.cases >= 500
    assert report.share(PAY, 202) >= 0.3
