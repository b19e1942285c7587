"""A request that was accepted is replayed by a release that would not accept it any more."""

import pytest
from gateway_stage import GatewayStage, new_payment

from gateway import operation_routes, payment_request, webhook_routes
from gateway.payment_request import invalid_request

pytestmark = pytest.mark.integration


@pytest.fixture
def stage(database):
    made = GatewayStage(database)
    yield made
    made.close()


@pytest.fixture
def stricter(monkeypatch):
    """From now on nothing that was valid is."""

    def refuse(*_):
        raise invalid_request([])

    def turn_on():
        monkeypatch.setattr(payment_request, "validate", refuse)
        monkeypatch.setattr(operation_routes, "read_nothing", refuse)
        monkeypatch.setattr(webhook_routes, "validate", refuse)

    return turn_on


def test_a_payment_is_replayed(stage, stricter):
    """Validation came before the key: the retry of an accepted payment was 422 after a deploy."""
    body = new_payment()
    first = stage.pay(body, key="k-1")
    stricter()
    again = stage.pay(body, key="k-1")
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (202, "true")
    assert again.json == first.json
    other = stage.pay(body | {"external_id": "another"}, key="k-1")
    assert (other.status_code, other.json["type"].rpartition("/")[2]) == (422, "idempotency-key-reused")
    assert stage.pay(body, key="k-2").status_code == 422


def test_a_cancellation_is_replayed(stage, stricter):
    payment_id = stage.pay().json["id"]
    first = stage.operate(payment_id, "cancellations", key="k-1")
    assert first.status_code == 202
    stricter()
    again = stage.operate(payment_id, "cancellations", key="k-1")
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (202, "true")
    assert stage.operate(payment_id, "cancellations", key="k-2").status_code == 422


def test_a_webhook_endpoint_is_replayed(stage, stricter):
    def register(key):
        headers = {"Idempotency-Key": key}
        body = {"url": "https://partner.example/hook"}
        return stage.call("POST", "/v1/webhook-endpoints", headers=headers, json=body)

    first = register("k-1")
    assert first.status_code == 201, first.text
    stricter()
    again = register("k-1")
    assert (again.status_code, again.json) == (201, first.json)
    assert register("k-2").status_code == 422
