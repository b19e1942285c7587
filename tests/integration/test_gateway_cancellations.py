"""Cancelling: only what SAP has never heard of, and then SAP never hears of it."""

from functools import partial

import pytest
from booking import book
from fakes.accepted import dispatch
from fakes.in_memory_connector import InMemoryConnector
from fakes.publisher import InMemoryPublisher
from gateway_stage import GatewayStage, keys, new_payment
from races import InBackground, at_once
from sqlalchemy import text

from bridge.lane import GuardSettings
from bridge.storage import cancel
from bridge.storage.operate import lock_own_payment
from bridge.storage.operations import lock_operation, lock_payment, spend_dispatch, start_post
from dispatcher.relay import OperationsRelay, RelaySettings
from sap_adapter.classifier import Classifier
from sap_adapter.posting import Posting, PostingSettings
from sap_adapter.record import Recorder, RecordSettings

pytestmark = pytest.mark.integration


@pytest.fixture
def stage(database):
    made = GatewayStage(database, lock_timeout_milliseconds=30_000)
    yield made
    made.close()


@pytest.fixture
def sap():
    return InMemoryConnector()


class OnePartner:
    def __init__(self, partner):
        self._partner = partner

    def partner(self, partner_id):
        return self._partner if partner_id == self._partner.partner_id else None


@pytest.fixture
def adapter(database, stage, sap):
    """The adapter as it is, with its own rights in the database."""
    engine = database.engine_for("sap_adapter")
    recorder = Recorder(
        engine, keys().parties, Classifier.from_package(), stage.clock,
        RecordSettings(60.0, 5.0, 1.0, GuardSettings(3, 1.0, 5.0)), lambda: None,
    )  # fmt: skip
    yield Posting(
        engine, OnePartner(stage.partner), {"s4-main": sap}, keys().parties, recorder, stage.clock,
        PostingSettings(call_seconds=30.0, lease_margin_seconds=10.0),
    )  # fmt: skip
    engine.dispose()


def slug(answer):
    return answer.json["type"].rpartition("/")[2]


def refused(answer):
    return (answer.status_code, slug(answer))


def first_operation(stage, payment_id):
    [row] = [
        row for row in stage.rows("operations") if row["payment_id"] == payment_id and row["position"] == 1
    ]
    return row


def dispatched(stage, payment_id):
    """Send the payment's first operation out; return the message."""
    operation_id = first_operation(stage, payment_id)["operation_id"]
    with stage.owner.begin() as connection:
        return dispatch(connection, operation_id, stage.clock.now())


def events(stage, payment_id):
    rows = [row for row in stage.rows("events") if row["payment_id"] == payment_id]
    return sorted(rows, key=lambda row: row["identity"])


@pytest.mark.parametrize("day", [..., "2026-12-01"])
def test_a_payment_that_sap_has_not_heard_of_is_cancelled(stage, day):
    before = stage.pay(new_payment(requested_execution_date=day)).json
    stage.clock.advance(1)
    answer = stage.operate(before["id"], "cancellations")
    assert answer.status_code == 202
    moment = "2026-11-20T12:00:01.123Z"
    [operation] = before["operations"]
    assert answer.json == before | {
        "status": "cancelled",
        "operations": [operation | {"status": "cancelled", "completed_at": moment}],
        "updated_at": moment,
    }
    assert stage.call("GET", f"/v1/payments/{before['id']}").json == answer.json
    row = first_operation(stage, before["id"])
    assert (row["dispatched_at"], row["sent_unresolved"]) == (None, False)
    accepted, cancelled = events(stage, before["id"])
    assert (accepted["event_type"], cancelled["event_type"]) == ("payment.accepted", "payment.cancelled")
    shown = {name: value for name, value in answer.json.items() if name not in ("metadata", "receipt")}
    assert cancelled["data"] == {"payment": shown}
    assert {row["event_id"] for row in stage.rows("outbox")} == {accepted["event_id"], cancelled["event_id"]}


def test_what_was_queued_behind_it_is_rejected_with_the_reason_and_told(stage):
    payment_id = stage.pay(new_payment(capture="manual")).json["id"]
    stage.operate(payment_id, "captures")
    stage.operate(payment_id, "refunds")
    body = stage.operate(payment_id, "cancellations").json
    assert [operation["status"] for operation in body["operations"]] == ["cancelled", "rejected", "rejected"]
    assert {operation["failure"]["code"] for operation in body["operations"][1:]} == {"predecessor-cancelled"}
    assert [event["event_type"] for event in events(stage, payment_id)] == [
        "payment.accepted", "payment.cancelled", "payment.capture_rejected", "payment.refund_rejected",
    ]  # fmt: skip
    assert [row for row in stage.rows("outbox") if row["operation_id"]] == []


def test_the_external_id_is_free_again(stage):
    payment_id = stage.pay(new_payment(external_id="INV-1")).json["id"]
    assert stage.pay(new_payment(external_id="INV-1")).status_code == 409
    stage.operate(payment_id, "cancellations")
    assert stage.pay(new_payment(external_id="INV-1")).status_code == 202


def test_the_same_key_gets_the_same_answer_and_another_key_a_409(stage):
    payment_id = stage.pay().json["id"]
    first = stage.operate(payment_id, "cancellations", key="once")
    again = stage.operate(payment_id, "cancellations", key="once")
    assert (again.status_code, again.json) == (202, first.json)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert refused(stage.operate(payment_id, "cancellations")) == (409, "invalid-state")
    assert len(events(stage, payment_id)) == 2


def test_it_can_be_cancelled_without_a_key(stage):
    payment_id = stage.pay().json["id"]
    path = f"/v1/payments/{payment_id}/cancellations"
    assert stage.call("POST", path, json={}).json["status"] == "cancelled"
    answer = stage.call("POST", path, json={})
    assert (refused(answer), answer.json["payment_status"]) == ((409, "invalid-state"), "cancelled")
    assert refused(stage.call("POST", path, json={}, headers={"Idempotency-Key": ""}))[0] == 400


@pytest.mark.parametrize(
    "state",
    [
        {"status": "processing", "claims_started": 1, "sent_unresolved": True},
        {"status": "unknown", "claims_started": 1, "sent_unresolved": True},
        # tried, and not posted
        {"status": "accepted", "claims_started": 1, "sent_unresolved": False},
        # parked over a call whose outcome nobody knows; and one that SAP has refused, for an operator to mend
        {"status": "parked", "parked_reason": "poison", "claims_started": 3, "sent_unresolved": True},
        {"status": "parked", "parked_reason": "operator", "claims_started": 1, "sent_unresolved": False},
    ],
)
def test_what_sap_may_have_heard_of_is_not_cancelled(stage, state):
    payment_id = stage.pay().json["id"]
    assignments = ", ".join(f"{name} = :{name}" for name in state)
    with stage.owner.begin() as connection:
        connection.execute(text(f"UPDATE operations SET {assignments}"), state)
    assert refused(stage.operate(payment_id, "cancellations", key="once")) == (409, "invalid-state")
    assert len(stage.rows("idempotency_keys")) == 1
    assert stage.call("GET", f"/v1/payments/{payment_id}").json["status"] == "accepted"


@pytest.mark.parametrize("reason", ["partner-held", "held", "mapping"])
def test_what_was_parked_before_any_call_was_not_to_be_cancelled(stage, adapter, sap, reason):
    """SAP had heard nothing of it, and the partner was told that it had."""
    payment_id = stage.pay().json["id"]
    message = dispatched(stage, payment_id)
    with stage.owner.begin() as connection:
        connection.execute(
            text("UPDATE operations SET status = 'parked', parked_reason = :reason"), {"reason": reason}
        )
    assert stage.operate(payment_id, "cancellations").json["status"] == "cancelled"
    row = first_operation(stage, payment_id)
    assert (row["status"], row["parked_reason"], row["completed_at"]) == (
        "cancelled", None, stage.clock.now(),
    )  # fmt: skip
    adapter.handle(message)
    assert sap.sendings == []


def test_a_paid_payment_is_refunded_not_cancelled(stage):
    payment_id = stage.pay().json["id"]
    book(stage, payment_id)
    answer = stage.operate(payment_id, "cancellations")
    assert (refused(answer), answer.json["payment_status"]) == ((409, "invalid-state"), "paid")


def test_a_message_that_is_already_out_is_never_sent(stage, adapter, sap):
    payment_id = stage.pay().json["id"]
    message = dispatched(stage, payment_id)
    assert stage.operate(payment_id, "cancellations").status_code == 202
    assert first_operation(stage, payment_id)["dispatched_at"] is None, "it takes no room in its lane"
    adapter.handle(message)
    assert sap.sendings == []
    assert stage.call("GET", f"/v1/payments/{payment_id}").json["status"] == "cancelled"


def test_the_claim_comes_first(stage, database):
    payment_id = stage.pay().json["id"]
    message = dispatched(stage, payment_id)
    with stage.owner.connect() as claiming:
        lock_payment(claiming, payment_id)
        lock_operation(claiming, message.operation_id)
        spend_dispatch(claiming, message.operation_id)
        now = stage.clock.now()
        start_post(
            claiming, message.operation_id,
            lease_until=now, encrypted_document="x", document_type="DZ", posting_date=now.date(),
            next_open_day=False, now=now,
        )  # fmt: skip
        cancelling = InBackground(stage.owner, partial(stage.operate, payment_id, "cancellations"))
        cancelling.wait_until_blocked()
        claiming.commit()
        assert refused(cancelling.result()) == (409, "invalid-state")
    assert first_operation(stage, payment_id)["status"] == "processing"


def test_the_cancellation_comes_first(stage, adapter, sap):
    payment_id = stage.pay().json["id"]
    message = dispatched(stage, payment_id)
    with stage.owner.connect() as cancelling:
        lock_own_payment(cancelling, stage.partner.partner_id, payment_id)
        first = cancel.lock_unsent(cancelling, payment_id)
        cancel.cancel(cancelling, payment_id, first.operation_id, now=stage.clock.now())
        claim = InBackground(stage.owner, partial(adapter.handle, message))
        claim.wait_until_blocked()
        cancelling.commit()
        claim.result()
    assert sap.sendings == []
    assert first_operation(stage, payment_id)["status"] == "cancelled"


def test_claims_and_cancellations_at_once_end_one_way_or_the_other(stage, adapter, sap):
    ended = set()
    for _ in range(15):
        payment_id = stage.pay().json["id"]
        message = dispatched(stage, payment_id)
        before = len(sap.sendings)
        answer, _ = at_once(
            partial(stage.operate, payment_id, "cancellations"), partial(adapter.handle, message)
        )
        status = stage.call("GET", f"/v1/payments/{payment_id}").json["status"]
        sent = len(sap.sendings) - before
        assert (answer.status_code, status, sent) in {(202, "cancelled", 0), (409, "paid", 1)}
        ended.add(status)
    assert ended <= {"cancelled", "paid"}


def test_relays_and_cancellations_at_once_leave_nothing_on_its_way(stage, database):
    engine = database.engine_for("dispatcher")
    publisher = InMemoryPublisher()
    relay = OperationsRelay("s4-main", engine, publisher, stage.clock, RelaySettings(25.0, 500))

    def rounds():
        for _ in range(3):
            relay.go_round()

    try:
        for _ in range(5):
            payment_ids = [stage.pay().json["id"] for _ in range(4)]
            answers = at_once(
                rounds, *[partial(stage.operate, payment_id, "cancellations") for payment_id in payment_ids]
            )[1:]
            assert {answer.status_code for answer in answers} == {202}
            relay.go_round()
            assert [row for row in stage.rows("outbox") if row["operation_id"]] == []
            assert {row["dispatched_at"] for row in stage.rows("operations")} == {None}
    finally:
        engine.dispose()
