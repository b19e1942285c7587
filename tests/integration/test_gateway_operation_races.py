"""Later steps at once, on real connections: never more than there is, and a true answer for everybody."""

from collections import Counter
from contextlib import contextmanager
from functools import partial

import pytest
from booking import book
from gateway_stage import GatewayStage, keys, new_payment
from races import InBackground, at_once
from sqlalchemy import text

from bridge.ids import new_id
from bridge.money import Money
from bridge.payment import Operation, OperationKind, OperationStatus
from bridge.storage.operate import lock_own_payment, queue_operation, take_key
from gateway.idempotency import Fingerprints

pytestmark = pytest.mark.integration


@pytest.fixture
def stage(database):
    made = GatewayStage(database)
    yield made
    made.close()


@pytest.fixture
def patient(database):
    """Waits for locks longer than these tests ever take."""
    made = GatewayStage(database, lock_timeout_milliseconds=30_000)
    yield made
    made.close()


def eur(value):
    return {"amount": {"value": value, "currency": "EUR"}}


def outcome(answer):
    return answer.status_code if answer.status_code == 202 else answer.json["type"].rpartition("/")[2]


def booked(stage, **changes):
    payment_id = stage.pay(new_payment(**changes)).json["id"]
    book(stage, payment_id)
    return payment_id


@contextmanager
def running(stage, payment_id, kind, minor, *, key="first"):
    """Another instance in the middle of queueing a step: written, not committed."""
    with stage.owner.connect() as connection:
        partner_id = stage.partner.partner_id
        operation_id = new_id("op", stage.clock.now())
        path = f"/v1/payments/{payment_id}/{kind}s"
        fingerprint = Fingerprints(keys().fingerprint).of("POST", path, {})
        assert take_key(
            connection, partner_id, key,
            fingerprint=fingerprint, payment_id=payment_id, operation_id=operation_id, now=stage.clock.now(),
        )  # fmt: skip
        own = lock_own_payment(connection, partner_id, payment_id)
        operation = Operation(
            operation_id,
            OperationKind(kind),
            OperationStatus.ACCEPTED,
            Money(minor, "EUR"),
            stage.clock.now(),
        )
        queue_operation(connection, own, operation, not_before=None, traceparent=None)
        yield connection
        connection.rollback()


def test_two_refunds_that_together_exceed_what_was_captured(patient):
    payment_id = booked(patient)
    with running(patient, payment_id, "refund", 80_000) as first:
        second = InBackground(patient.owner, partial(patient.operate, payment_id, "refunds", eur("450.01")))
        second.wait_until_blocked()
        first.commit()
        assert outcome(second.result()) == "invalid-state"
    assert patient.operate(payment_id, "refunds", eur("450.00")).status_code == 202


def test_a_refund_that_is_rolled_back_leaves_room_for_the_next(patient):
    payment_id = booked(patient)
    with running(patient, payment_id, "refund", 80_000) as first:
        second = InBackground(patient.owner, partial(patient.operate, payment_id, "refunds"))
        second.wait_until_blocked()
        first.rollback()
        answer = second.result()
    assert answer.json["operations"][1]["amount"]["value"] == "1250.00"


def test_a_capture_and_a_reversal(patient):
    payment_id = booked(patient, capture="manual")
    with running(patient, payment_id, "capture", 125_000) as first:
        second = InBackground(patient.owner, partial(patient.operate, payment_id, "reversals"))
        second.wait_until_blocked()
        first.commit()
        answer = second.result()
    assert (outcome(answer), answer.json["payment_status"]) == ("invalid-state", "paid")


def test_captures_and_reversals_thrown_at_many_payments(patient):
    for _ in range(5):
        payment_id = booked(patient, capture="manual")
        calls = [partial(patient.operate, payment_id, name) for name in ("captures", "reversals") * 2]
        assert Counter(map(outcome, at_once(*calls))) == {202: 1, "invalid-state": 3}
    assert len(patient.rows("operations")) == 10


def test_eight_refunds_of_a_third_leave_three(patient):
    payment_id = booked(patient)
    calls = [partial(patient.operate, payment_id, "refunds", eur("400.00")) for _ in range(8)]
    assert Counter(map(outcome, at_once(*calls))) == {202: 3, "invalid-state": 5}
    operations = sorted(patient.rows("operations"), key=lambda row: row["position"])
    assert [row["position"] for row in operations] == [1, 2, 3, 4]


def test_sixteen_identical_refunds_are_one(patient):
    payment_id = booked(patient)
    answers = at_once(*[partial(patient.operate, payment_id, "refunds", key="once") for _ in range(16)])
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json["operations"][1]["id"] for answer in answers}) == 1
    assert Counter("Idempotency-Replayed" in answer.headers for answer in answers)[False] == 1
    assert len(patient.rows("operations")) == 2


def test_the_loser_with_the_same_key_gets_the_winners_step(patient):
    payment_id = booked(patient)
    with running(patient, payment_id, "refund", 125_000, key="once") as first:
        second = InBackground(patient.owner, partial(patient.operate, payment_id, "refunds", key="once"))
        second.wait_until_blocked()
        first.commit()
        answer = second.result()
    assert (answer.status_code, answer.headers["Idempotency-Replayed"]) == (202, "true")
    assert len(answer.json["operations"]) == 2


def test_who_waits_too_long_for_the_first_request_is_told_that_it_runs(stage):
    payment_id = booked(stage)
    with running(stage, payment_id, "refund", 125_000, key="once") as first:
        answer = stage.operate(payment_id, "refunds", key="once")
        assert (answer.status_code, outcome(answer)) == (409, "idempotency-key-in-progress")
        assert answer.headers["Retry-After"] == "1"
        first.commit()
    assert stage.operate(payment_id, "refunds", key="once").status_code == 202


def test_a_payment_that_stays_locked_is_unavailable_and_leaves_the_key_free(stage):
    payment_id = booked(stage)
    with running(stage, payment_id, "refund", 125_000):
        answer = stage.operate(payment_id, "refunds", key="once")
        assert (answer.status_code, outcome(answer)) == (503, "unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
    assert stage.operate(payment_id, "refunds", key="once").status_code == 202


def test_a_connection_that_dies_in_the_middle_leaves_nothing_behind(patient):
    payment_id = booked(patient)
    with running(patient, payment_id, "refund", 125_000) as first:
        second = InBackground(patient.owner, partial(patient.operate, payment_id, "refunds", key="once"))
        pid = second.wait_until_blocked()
        with patient.owner.connect() as connection:
            connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        assert outcome(second.result()) == "unavailable"
        first.rollback()
    answer = patient.operate(payment_id, "refunds", key="once")
    assert answer.status_code == 202
    assert "Idempotency-Replayed" not in answer.headers


def test_one_key_for_a_payment_and_a_refund_at_once_is_taken_once(patient):
    payment_id = booked(patient)
    for number in range(5):
        key = f"both-{number}"
        paying, refunding = at_once(
            partial(patient.pay, key=key),
            partial(patient.operate, payment_id, "refunds", eur("1.00"), key=key),
        )
        assert sorted([paying.status_code, refunding.status_code]) == [202, 422]
