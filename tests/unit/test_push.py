"""The push envelope, and what a push is answered."""

import base64
import json

import pytest
import structlog
from flask import Flask
from sqlalchemy.exc import OperationalError

from bridge.errors import RejectedError, TransientError
from bridge.messages import UnreadableMessageError
from bridge.web.push import PushedMessage, read_envelope, register_push

pytestmark = pytest.mark.unit

SUBSCRIPTION = "projects/p/subscriptions/s"


def envelope(data=b"{}", **changes):
    message = {"data": base64.b64encode(data).decode(), "attributes": {"a": "1"}, "messageId": "7"}
    return {"message": message, "subscription": SUBSCRIPTION} | changes


def client_for(handler, authenticator=lambda _header: None):
    app = Flask("test")
    register_push(app, "/push", handler, authenticator)
    return app.test_client()


def raiser(error):
    def handle(_message):
        raise error

    return handle


def test_a_push_is_read_and_acked_with_204_the_only_ack_the_emulator_knows():
    received = []
    answer = client_for(received.append).post("/push", json=envelope(b"payload", deliveryAttempt=3))
    assert answer.status_code == 204
    assert received == [PushedMessage(b"payload", {"a": "1"}, "7", SUBSCRIPTION, 3)]


def test_a_message_without_data_or_attributes_is_an_empty_one():
    message = read_envelope({"message": {"message_id": "7"}, "subscription": SUBSCRIPTION})
    assert (message.data, message.attributes, message.delivery_attempt) == (b"", {}, None)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UnreadableMessageError("x"), 400),
        (RejectedError("unauthenticated", 401, "x"), 401),
        (TransientError("x"), 503),
        (OperationalError("SELECT 1", {}, Exception("gone")), 503),
        (KeyError("x"), 500),
    ],
)
def test_every_error_is_a_nack(error, status):
    assert client_for(raiser(error)).post("/push", json=envelope()).status_code == status


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[]",
        b'"text"',
        json.dumps({"subscription": SUBSCRIPTION}).encode(),
        json.dumps(envelope() | {"subscription": 7}).encode(),
        json.dumps({"message": {"messageId": "1", "data": "***"}, "subscription": SUBSCRIPTION}).encode(),
        json.dumps({"message": {"messageId": "1", "data": 7}, "subscription": SUBSCRIPTION}).encode(),
        json.dumps(
            {"message": {"messageId": "1", "attributes": {"a": 1}}, "subscription": SUBSCRIPTION}
        ).encode(),
    ],
)
def test_an_unreadable_envelope_is_nacked_and_never_reaches_the_handler(body):
    received = []
    assert client_for(received.append).post("/push", data=body).status_code == 400
    assert received == []


def test_a_caller_that_is_not_known_never_reaches_the_handler():
    received = []

    def refuse(header):
        assert header == "Bearer x"
        raise RejectedError("unauthenticated", 401, "no")

    client = client_for(received.append, refuse)
    assert client.post("/push", json=envelope(), headers={"Authorization": "Bearer x"}).status_code == 401
    assert received == []


def test_a_foreign_errors_text_is_not_logged_because_it_may_quote_contents():
    with structlog.testing.capture_logs() as logs:
        client_for(raiser(ValueError("Muster GmbH"))).post("/push", json=envelope())
    assert [entry["reason"] for entry in logs] == ["ValueError"]
    assert "Muster" not in repr(logs)
