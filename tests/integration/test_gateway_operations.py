"""Captures, reversals, refunds: accepted and queued, judged by the state that they will find."""

from datetime import timedelta

import pytest
from accepted import scalar
from booking import book, refuse
from fakes.publisher import InMemoryPublisher
from gateway_stage import GatewayStage, new_payment
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from bridge.storage.erase import erase_all
from bridge.storage.failures import sqlstate
from dispatcher.relay import OperationsRelay, RelaySettings
from dispatcher.watchdog import Watchdog, WatchdogSettings

pytestmark = pytest.mark.integration

MANY_DAYS = 400
WATCHDOG = WatchdogSettings(
    interval_seconds=5.0, first_redispatch_seconds=60.0, settling_seconds=30.0, delayed_after_seconds=900.0
)


@pytest.fixture
def stage(database):
    made = GatewayStage(database)
    yield made
    made.close()


def eur(value):
    return {"amount": {"value": value, "currency": "EUR"}}


def slug(answer):
    assert answer.content_type == "application/problem+json"
    return answer.json["type"].rpartition("/")[2]


def authorized(stage):
    payment_id = stage.pay(new_payment(capture="manual")).json["id"]
    book(stage, payment_id)
    return payment_id


def paid(stage):
    payment_id = stage.pay().json["id"]
    book(stage, payment_id)
    return payment_id


def refused(answer):
    return (answer.status_code, slug(answer))


@pytest.mark.parametrize(
    ("name", "kind", "start"),
    [("captures", "capture", authorized), ("reversals", "reverse", authorized), ("refunds", "refund", paid)],
)
def test_a_later_step_is_queued_over_all_that_there_is(stage, name, kind, start):
    payment_id = start(stage)
    before = stage.call("GET", f"/v1/payments/{payment_id}").json
    stage.clock.advance(60)
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    answer = stage.operate(payment_id, name, headers={"traceparent": trace})
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/v1/payments/{payment_id}"
    assert "Idempotency-Replayed" not in answer.headers
    body = answer.json
    added = body["operations"][1]
    assert added == {
        "id": added["id"],
        "kind": kind,
        "status": "accepted",
        "amount": {"value": "1250.00", "currency": "EUR"},
        "sap_document": None,
        "failure": None,
        "created_at": "2026-11-20T12:01:00.123Z",
        "completed_at": None,
    }
    assert body == before | {
        "operations": [*before["operations"], added],
        "updated_at": "2026-11-20T12:01:00.123Z",
    }
    assert stage.call("GET", f"/v1/payments/{payment_id}").json == body
    row = stage.operation(added["id"])
    assert (row["position"], row["sap_system"], row["traceparent"]) == (2, "s4-main", trace)
    [waiting] = [row for row in stage.rows("outbox") if row["operation_id"]]
    assert (waiting["operation_id"], waiting["lane"], waiting["not_before"], waiting["traceparent"]) == (
        added["id"], "s4-main", stage.clock.now(), trace,
    )  # fmt: skip
    keys = {row["operation_id"] for row in stage.rows("idempotency_keys")}
    assert added["id"] in keys


def test_no_event_tells_what_was_only_queued(stage):
    payment_id = paid(stage)
    before = len(stage.rows("events"))
    assert stage.operate(payment_id, "refunds").status_code == 202
    assert len(stage.rows("events")) == before


def test_a_refund_can_be_handed_over_while_sap_has_not_even_booked_the_payment(stage):
    payment_id = stage.pay().json["id"]
    assert refused(stage.operate(payment_id, "captures")) == (409, "invalid-state")
    assert stage.operate(payment_id, "refunds", eur("250.00")).status_code == 202
    assert stage.operate(payment_id, "refunds").json["operations"][2]["amount"]["value"] == "1000.00"
    answer = stage.operate(payment_id, "refunds", eur("0.01"))
    assert refused(answer) == (409, "invalid-state")
    assert answer.json["payment_status"] == "refunded"


def test_a_partial_capture_is_the_only_one_and_releases_the_rest(stage):
    payment_id = authorized(stage)
    assert stage.operate(payment_id, "captures", eur("400.00")).status_code == 202
    for name, body in (("captures", eur("1.00")), ("captures", {}), ("reversals", {})):
        assert refused(stage.operate(payment_id, name, body)) == (409, "invalid-state")
    assert refused(stage.operate(payment_id, "refunds", eur("400.01"))) == (409, "invalid-state")
    book(stage, payment_id)
    body = stage.operate(payment_id, "refunds").json
    assert (body["status"], body["captured"]["value"]) == ("paid", "400.00")
    assert body["operations"][2]["amount"]["value"] == "400.00"


def test_partial_refunds_until_nothing_is_left(stage):
    payment_id = paid(stage)
    for value in ("1000.00", "249.99"):
        assert stage.operate(payment_id, "refunds", eur(value)).status_code == 202
    assert refused(stage.operate(payment_id, "refunds", eur("0.02"))) == (409, "invalid-state")
    book(stage, payment_id, steps=2)
    assert stage.operate(payment_id, "refunds", eur("0.01")).status_code == 202
    book(stage, payment_id)
    body = stage.call("GET", f"/v1/payments/{payment_id}").json
    assert (body["status"], body["refunded"]["value"]) == ("refunded", "1250.00")
    assert refused(stage.operate(payment_id, "refunds")) == (409, "invalid-state")


def test_what_sap_refused_can_be_asked_for_again(stage):
    payment_id = paid(stage)
    stage.operate(payment_id, "refunds")
    assert refused(stage.operate(payment_id, "refunds")) == (409, "invalid-state")
    refuse(stage, payment_id)
    assert stage.operate(payment_id, "refunds").status_code == 202


@pytest.mark.parametrize("name", ["captures", "reversals", "refunds", "cancellations"])
def test_a_refused_payment_allows_nothing(stage, name):
    payment_id = stage.pay().json["id"]
    refuse(stage, payment_id)
    answer = stage.operate(payment_id, name)
    assert refused(answer) == (409, "invalid-state")
    assert answer.json["payment_status"] == "rejected"


def test_more_than_was_authorized_can_not_be_captured(stage):
    payment_id = authorized(stage)
    answer = stage.operate(payment_id, "captures", eur("1250.01"))
    assert refused(answer) == (409, "invalid-state")
    assert "1250.00 EUR" in answer.json["detail"]


def test_five_steps_may_wait(stage):
    payment_id = paid(stage)
    for _ in range(5):
        assert stage.operate(payment_id, "refunds", eur("1.00")).status_code == 202
    assert refused(stage.operate(payment_id, "refunds", eur("1.00"))) == (409, "too-many-operations")
    book(stage, payment_id)
    assert stage.operate(payment_id, "refunds", eur("1.00")).status_code == 202


def test_refunds_end_with_the_window(stage):
    payment_id = paid(stage)
    stage.clock.advance(MANY_DAYS * 86_400)
    assert stage.operate(payment_id, "refunds", eur("1.00"), key="late").status_code == 202
    stage.clock.advance(0.001)
    assert refused(stage.operate(payment_id, "refunds", eur("1.00"))) == (409, "retention-expired")
    again = stage.operate(payment_id, "refunds", eur("1.00"), key="late")
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (202, "true")


def erase(stage):
    kept = timedelta(days=MANY_DAYS + 30)
    return erase_all(stage.owner, stage.clock, keep_payments=kept, keep_feed=kept)


@pytest.mark.parametrize("name", ["captures", "reversals"])
def test_what_has_been_erased_can_not_be_captured_or_reversed(stage, name):
    payment_id = authorized(stage)
    stage.clock.advance((MANY_DAYS + 30) * 86_400 + 1)
    assert stage.operate(payment_id, "captures", eur("1250.01")).status_code == 409  # that is no retention
    erase(stage)
    assert refused(stage.operate(payment_id, name)) == (409, "retention-expired")
    assert len(stage.rows("operations")) == 1
    # what it is can still be told, and what it does not allow anyway
    assert stage.call("GET", f"/v1/payments/{payment_id}").json["receipt"] is None
    assert refused(stage.operate(payment_id, "refunds"))[0] == 409


def test_an_authorized_payment_can_be_captured_until_it_is_erased(stage):
    payment_id = authorized(stage)
    stage.clock.advance((MANY_DAYS + 30) * 86_400 - 1)
    assert erase(stage).payments == 0
    assert stage.operate(payment_id, "captures").status_code == 202
    stage.clock.advance(86_400)
    # the step that waits keeps what it needs
    assert erase(stage).payments == 0


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"amount": {"value": "1.00", "currency": "USD"}}, "/amount/currency"),
        ({"amount": {"value": "0.00", "currency": "EUR"}}, "/amount/value"),
        ({"amount": {"value": "1.001", "currency": "EUR"}}, "/amount/value"),
        ({"amount": {"value": "1.00"}}, "/amount/currency"),
        ({"amount": "1.00"}, "/amount"),
        ({"colour": "blue"}, "/colour"),
    ],
)
def test_a_bad_body_is_refused_with_a_pointer(stage, body, pointer):
    payment_id = paid(stage)
    answer = stage.operate(payment_id, "refunds", body)
    assert refused(answer) == (422, "invalid-request")
    assert pointer in {error["pointer"] for error in answer.json["errors"]}
    assert len(stage.rows("operations")) == 1


@pytest.mark.parametrize("name", ["reversals", "cancellations"])
def test_what_takes_nothing_takes_nothing(stage, name):
    payment_id = authorized(stage)
    assert refused(stage.operate(payment_id, name, eur("1.00"))) == (422, "invalid-request")
    assert refused(stage.operate(payment_id, name, [])) == (422, "invalid-request")


@pytest.mark.parametrize("name", ["captures", "reversals", "refunds", "cancellations"])
def test_another_partners_payment_is_not_found(stage, name):
    payment_id = stage.pay().json["id"]
    for path_id in (payment_id, "pay_00000000000000000000000000", "x"):
        answer = stage.operate(path_id, name, client_id="other")
        assert refused(answer) == (404, "not-found")
    assert refused(stage.operate(payment_id, name, client_id="reader")) == (403, "insufficient-scope")


def test_the_same_key_and_body_get_the_payment_as_it_stands_now(stage):
    payment_id = paid(stage)
    first = stage.operate(payment_id, "refunds", eur("1.00"), key="once")
    stage.clock.advance(60)
    book(stage, payment_id)
    again = stage.operate(payment_id, "refunds", eur("1.00"), key="once")
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json["status"] == "partially_refunded"
    assert again.json["receipt"] == first.json["receipt"]
    assert len(again.json["operations"]) == 2


def test_a_key_stands_for_one_request_of_any_kind(stage):
    first, second = paid(stage), paid(stage)
    manual = new_payment(capture="manual")
    payment_id = stage.pay(manual, key="made").json["id"]
    assert stage.operate(first, "refunds", eur("1.00"), key="once").status_code == 202
    for answer in (
        stage.operate(first, "refunds", eur("2.00"), key="once"),
        stage.operate(first, "refunds", key="once"),
        stage.operate(second, "refunds", eur("1.00"), key="once"),
        stage.operate(first, "captures", eur("1.00"), key="once"),
        stage.operate(payment_id, "captures", key="made"),
        stage.pay(key="once"),
    ):
        assert refused(answer) == (422, "idempotency-key-reused")
    assert stage.pay(manual, key="made").json["id"] == payment_id


@pytest.mark.parametrize("name", ["captures", "reversals", "refunds"])
def test_without_a_key_nothing_is_done(stage, name):
    payment_id = paid(stage)
    answer = stage.call("POST", f"/v1/payments/{payment_id}/{name}", json={})
    assert refused(answer) == (400, "idempotency-key-missing")


def test_an_error_stores_nothing_under_the_key(stage):
    payment_id = stage.pay(new_payment(capture="manual")).json["id"]
    assert refused(stage.operate(payment_id, "refunds", key="once")) == (409, "invalid-state")
    assert len(stage.rows("idempotency_keys")) == 1
    assert stage.operate(payment_id, "captures", key="once").status_code == 202


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE payments SET amount_minor = 1",
        "UPDATE payments SET captured_minor = 0",
        "UPDATE payments SET refunded_minor = 0",
        "UPDATE payments SET partner_id = 'x'",
        "DELETE FROM payments",
        "UPDATE operations SET amount_minor = 1",
        "UPDATE operations SET claims_started = 0",
        "UPDATE operations SET generation = 0",
        "UPDATE operations SET dispatch_number = 0",
        "UPDATE operations SET sap_document_number = '1'",
        "DELETE FROM operations",
        "UPDATE outbox SET not_before = created_at",
        "UPDATE events SET data = '{}'",
        "DELETE FROM events",
        "UPDATE idempotency_keys SET fingerprint = ''",
        "DELETE FROM idempotency_keys",
    ],
)
def test_the_gateway_has_no_right_to_more_than_it_does(stage, statement):
    with stage.engine.connect() as connection, pytest.raises(DBAPIError) as refusal:
        connection.execute(text(statement))
    assert sqlstate(refusal.value) == "42501"


def test_later_steps_stay_in_their_lane_and_disturb_nobody(stage, database):
    dispatcher = database.engine_for("dispatcher")
    publisher = InMemoryPublisher()
    relay = OperationsRelay("s4-main", dispatcher, publisher, stage.clock, RelaySettings(25.0, 500))
    woken = []
    watchdog = Watchdog(dispatcher, stage.clock, WATCHDOG, lambda: woken.append(1))
    try:
        payment_ids = [stage.pay(new_payment(capture=how)).json["id"] for how in ("automatic", "manual")]
        steps = {
            stage.operate(payment_id, name).json["operations"][1]["id"]
            for payment_id, name in zip(payment_ids, ("refunds", "captures"), strict=True)
        }
        first = {row["operation_id"] for row in stage.rows("operations") if row["position"] == 1}
        while relay.go_round().again:
            pass
        assert {message.operation_id for message in publisher.messages()} == first
        for _ in range(5):
            stage.clock.advance(30)
            watchdog.go_round()
            round_ = relay.go_round()
            assert round_.next_seconds is None or round_.next_seconds >= 1
        assert {message.operation_id for message in publisher.messages()} == first
        waiting = {row["operation_id"] for row in stage.rows("outbox") if row["not_before"] is None}
        assert waiting == steps
        stage.clock.advance(3600)
        for _ in range(3):
            watchdog.go_round()
        told = scalar(stage.owner, "SELECT count(*) FROM events WHERE event_type = 'payment.delayed'")
        assert told == len(steps) + len(first)
    finally:
        dispatcher.dispose()


def test_a_refund_of_a_scheduled_payment_waits_since_the_day_of_the_payment(stage):
    """It was told as delayed a quarter of an hour after it was handed over, months before its turn."""
    payment_id = stage.pay(new_payment(requested_execution_date="2026-12-01")).json["id"]
    operation_id = stage.operate(payment_id, "refunds").json["operations"][1]["id"]
    assert stage.operation(operation_id)["due_at"].isoformat() == "2026-11-30T23:00:00+00:00"
    at_once = stage.operate(stage.pay().json["id"], "refunds").json["operations"][1]["id"]
    assert stage.operation(at_once)["due_at"] is None
