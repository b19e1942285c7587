"""Schemathesis on the gateway in this process: whatever is sent, it answers as the OpenAPI document says."""

import pytest
import schemathesis
from api_fuzzing import PAY, configuration, fuzz, register_formats, strict
from booking import book
from gateway_stage import NOW, GatewayStage, new_payment

pytestmark = pytest.mark.contract

EXAMPLES = 12
PAYMENT_EXAMPLES = 120
SEED = 7
STATES = ("accepted", "paid", "authorized")


def payment_in(stage, state):
    capture = "manual" if state == "authorized" else "automatic"
    payment_id = stage.pay(new_payment(capture=capture)).json["id"]
    if state != "accepted":
        book(stage, payment_id)
    return payment_id


def test_whatever_is_sent_it_answers_as_described(database):
    stage = GatewayStage(database)
    register_formats(NOW.date())
    document = strict(stage.app.test_client().get("/openapi.json").json)
    settings = configuration(EXAMPLES, PAYMENT_EXAMPLES, seed=SEED)
    schema = schemathesis.openapi.from_dict(document, config=settings)
    schema.app = stage.app
    report = fuzz(schema, [payment_in(stage, state) for _ in range(10) for state in STATES], stage.token)
    stage.close()
    print(report)  # noqa: T201 - what was tried
    assert report.failures == []
    assert report.cases >= 500
    assert report.share(PAY, 202) >= 0.3
