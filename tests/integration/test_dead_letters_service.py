"""The dead-letter service over HTTP, with its own database rights: recorded once, parked or returned."""

import base64
import json
from datetime import timedelta

import pytest
from accepted import LANE, NOW, add_payments, change, operation, outbox_rows, scalar
from sqlalchemy import text

from bridge.clock import ManualClock
from bridge.gcp.identity import CallerSettings
from bridge.messages import EventMessage, OperationMessage, encode
from bridge.storage.engine import DatabaseSettings
from dispatcher.dead_letters.app import create_app
from dispatcher.dead_letters.settings import Settings

pytestmark = pytest.mark.integration

SUBSCRIPTION = "projects/p/subscriptions/payment-operations-s4-main-dead-letters-push"
SOURCE = "payment-operations-s4-main-push"


@pytest.fixture
def client(database, owner):
    settings = Settings(
        host="127.0.0.1",
        port=1,
        threads=2,
        database=DatabaseSettings(database.url_for("dead_letters"), None, None, None),
        caller=CallerSettings("emulator", "", frozenset()),
    )
    return create_app(settings, ManualClock(NOW)).test_client()


def push(client, data, attributes, message_id="1"):
    message = {
        "data": base64.b64encode(data).decode(),
        "attributes": attributes | {"CloudPubSubDeadLetterSourceSubscription": SOURCE},
        "messageId": message_id,
    }
    return client.post("/pubsub/dead-letters", json={"message": message, "subscription": SUBSCRIPTION})


def push_operation(client, owner, operation_id, dispatch_number, message_id="1"):
    row = operation(owner, operation_id)
    message = OperationMessage(operation_id, row.payment_id, row.partner_id, row.sap_system, dispatch_number)
    assert push(client, *encode(message), message_id).status_code == 204


def letters(owner):
    with owner.begin() as connection:
        return connection.execute(text("SELECT * FROM dead_letters ORDER BY identity")).all()


def dispatched(owner, **columns):
    """An operation whose message went out and is now dead."""
    [operation_id] = add_payments(owner, 1, row=False)
    change(owner, operation_id, dispatch_number=5, dispatched_at=NOW, **columns)
    return operation_id


def test_an_unreadable_message_is_recorded_without_its_contents(client, owner):
    assert push(client, b'{"name": "Muster GmbH"}', {"ce-type": "nonsense"}).status_code == 204
    [letter] = letters(owner)
    assert (letter.subscription, letter.message_id, letter.reason, letter.status) == (
        SOURCE, "1", "unreadable", "open",
    )  # fmt: skip
    assert letter.attributes["ce-type"] == "nonsense"
    assert letter.attributes["data-bytes"] == "23"
    assert len(letter.attributes["data-sha256"]) == 64
    assert "Muster" not in str(letter)


@pytest.mark.parametrize("value", ["\x00", "\ud800", "é\x00\udfff"])
def test_what_the_database_could_not_store_does_not_stop_the_recording(client, owner, value):
    message = {"data": "", "attributes": {"odd": value}, "messageId": "1"}
    body = json.dumps({"message": message, "subscription": SUBSCRIPTION})
    assert client.post("/pubsub/dead-letters", data=body).status_code == 204
    assert len(letters(owner)) == 1


@pytest.mark.parametrize("character", ["\x00", "\ud800"])
def test_an_id_that_the_database_could_not_store_came_again_for_ever(client, owner, character):
    data, attributes = encode(OperationMessage("op_x", "pay_x", "par_x", LANE, 1))
    escaped = json.dumps(f"op_{character}").encode()
    assert push(client, data.replace(b'"op_x"', escaped), attributes).status_code == 204
    [letter] = letters(owner)
    assert (letter.reason, letter.operation_id) == ("unreadable", None)


def test_the_same_letter_twice_is_recorded_and_acted_on_once(client, owner):
    operation_id = dispatched(owner)
    push_operation(client, owner, operation_id, 5)
    with owner.begin() as connection:
        connection.execute(text("DELETE FROM outbox"))
    push_operation(client, owner, operation_id, 5)
    assert len(letters(owner)) == 1
    assert outbox_rows(owner) == {}


def test_an_operation_that_was_only_not_delivered_returns_to_its_lane(client, owner):
    operation_id = dispatched(owner)
    push_operation(client, owner, operation_id, 5)
    [letter] = letters(owner)
    assert (letter.operation_id, letter.reason, letter.status) == (operation_id, "undelivered", "returned")
    assert list(outbox_rows(owner)) == [operation_id]
    assert operation(owner, operation_id).dispatched_at is None


def test_a_letter_that_is_out_of_date_moves_nothing(client, owner):
    operation_id = dispatched(owner)
    push_operation(client, owner, operation_id, 4)
    [letter] = letters(owner)
    assert (letter.reason, letter.status) == ("stale", "returned")
    assert outbox_rows(owner) == {}
    assert operation(owner, operation_id).dispatched_at == NOW


def test_an_operation_started_three_times_and_never_finished_is_parked_and_told(client, owner):
    operation_id = dispatched(owner, claims_started=7, claims_finished=4, status="unknown")
    push_operation(client, owner, operation_id, 5)
    [letter] = letters(owner)
    assert (letter.reason, letter.status) == ("poison", "open")
    row = operation(owner, operation_id)
    assert (row.status, row.parked_reason) == ("parked", "poison")
    assert outbox_rows(owner) == {}
    statement = "SELECT count(*) FROM events WHERE operation_id = :id AND event_type = 'payment.delayed'"
    assert scalar(owner, statement, id=operation_id) == 1


def test_an_operation_with_a_lease_is_left_to_who_holds_it(client, owner):
    operation_id = dispatched(
        owner, claims_started=3, status="processing", lease_until=NOW + timedelta(minutes=1)
    )
    push_operation(client, owner, operation_id, 5)
    assert [letter.reason for letter in letters(owner)] == ["in-progress"]
    assert operation(owner, operation_id).status == "processing"
    assert outbox_rows(owner) == {}


@pytest.mark.parametrize(
    ("status", "columns"),
    [
        ("rejected", {"completed_at": NOW}),
        ("cancelled", {"completed_at": NOW}),
        ("parked", {"parked_reason": "operator"}),
    ],
)
def test_a_letter_about_what_is_over_is_discarded(client, owner, status, columns):
    operation_id = dispatched(owner, status=status, **columns)
    push_operation(client, owner, operation_id, 5)
    assert [letter.status for letter in letters(owner)] == ["discarded"]
    assert outbox_rows(owner) == {}


def test_an_operation_that_nobody_knows_is_kept_for_an_operator(client, owner):
    message = OperationMessage("op_x", "pay_x", "par_a", "s4-main", 1)
    assert push(client, *encode(message)).status_code == 204
    [letter] = letters(owner)
    assert (letter.operation_id, letter.reason, letter.status) == ("op_x", "unknown-operation", "open")


def test_an_event_is_recorded_and_the_sweeper_follows_the_feed(client, owner):
    assert push(client, *encode(EventMessage("evt_x", "par_a", 7))).status_code == 204
    [letter] = letters(owner)
    assert (letter.event_id, letter.status) == ("evt_x", "returned")


def test_without_the_database_the_letter_comes_again():
    settings = Settings(
        host="127.0.0.1",
        port=1,
        threads=1,
        database=DatabaseSettings("postgresql+pg8000://nobody@127.0.0.1:1/nothing", None, None, None),
        caller=CallerSettings("emulator", "", frozenset()),
    )
    client = create_app(settings, ManualClock(NOW)).test_client()
    assert push(client, b"", {}).status_code == 503
    assert client.get("/readyz").status_code == 503
    assert client.get("/livez").status_code == 200


def test_ready_when_the_database_is_there(client):
    assert client.get("/readyz").status_code == 200
