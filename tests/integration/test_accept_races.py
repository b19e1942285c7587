"""Bad interleavings of accepting, on real connections: nothing twice, and a true answer for everybody."""

import json
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from gateway_stage import ISSUER, NOTHING, ONE_PAYMENT, GatewayStage, keys, new_payment
from sqlalchemy import text
from waiting import DEADLINE_SECONDS, wait_until

from bridge.storage.accept import accept
from gateway.accept_payment import AcceptPayment, Submission
from gateway.idempotency import Fingerprints
from gateway.receipts import Receipts

pytestmark = pytest.mark.integration

TOGETHER = 50
WAITING = text("""
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'gateway' AND wait_event_type = 'Lock'
""")


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


def slug(answer):
    return answer.json["type"].rpartition("/")[2]


def prepared(stage, sent, key):
    """What the gateway would write for this request."""
    use_case = AcceptPayment(
        engine=stage.engine,
        clock=stage.clock,
        key_ring=keys().parties,
        fingerprints=Fingerprints(keys().fingerprint),
        receipts=Receipts(keys().receipt, ISSUER),
        wake=lambda: None,
    )
    submission = Submission("POST", "/v1/payments", key, json.dumps(sent).encode(), sent, None)
    return use_case.prepare(stage.partner, submission)


@contextmanager
def running(stage, sent, key):
    """Another instance in the middle of its accept statement: written, not committed."""
    with stage.owner.connect() as connection:
        new = prepared(stage, sent, key)
        assert accept(connection, new) is True
        yield First(new.payment.payment_id, connection.commit, connection.rollback)
        connection.rollback()


@dataclass(frozen=True)
class First:
    payment_id: str
    commit: Callable[[], None]
    rollback: Callable[[], None]


class Posting:
    """A POST in a thread of its own."""

    def __init__(self, stage, sent, key):
        self._stage = stage
        self._pool = ThreadPoolExecutor(1)
        self._future = self._pool.submit(stage.pay, sent, key=key)

    def wait_until_blocked(self):
        def blocked():
            with self._stage.owner.connect() as connection:
                return connection.execute(WAITING).scalars().all()

        return wait_until(blocked, what="the POST waiting for a lock")[0]

    def answer(self):
        answer = self._future.result(DEADLINE_SECONDS)
        self._pool.shutdown()
        return answer


def test_the_loser_of_a_race_gets_the_winners_payment(patient):
    sent = new_payment()
    with running(patient, sent, "once") as first:
        second = Posting(patient, sent, "once")
        second.wait_until_blocked()
        first.commit()
        answer = second.answer()
    assert answer.status_code == 202
    assert answer.headers["Idempotency-Replayed"] == "true"
    assert answer.json["id"] == first.payment_id
    assert patient.counts() == ONE_PAYMENT


def test_the_loser_with_another_body_is_told_so(patient):
    with running(patient, new_payment(), "once") as first:
        second = Posting(patient, new_payment(), "once")
        second.wait_until_blocked()
        first.commit()
        answer = second.answer()
    assert (answer.status_code, slug(answer)) == (422, "idempotency-key-reused")
    assert patient.counts() == ONE_PAYMENT


def test_who_waits_longer_than_a_second_for_the_first_request_is_told_that_it_runs(stage):
    sent = new_payment()
    with running(stage, sent, "once") as first:
        answer = stage.pay(sent, key="once")
        assert (answer.status_code, slug(answer)) == (409, "idempotency-key-in-progress")
        assert answer.headers["Retry-After"] == "1"
        first.commit()
    assert stage.counts() == ONE_PAYMENT
    assert stage.pay(sent, key="once").json["id"] == first.payment_id


def test_when_the_first_request_is_rolled_back_the_second_is_the_first(patient):
    sent = new_payment()
    with running(patient, sent, "once") as first:
        second = Posting(patient, sent, "once")
        second.wait_until_blocked()
        first.rollback()
        answer = second.answer()
    assert answer.status_code == 202
    assert "Idempotency-Replayed" not in answer.headers
    assert answer.json["id"] != first.payment_id
    assert patient.counts() == ONE_PAYMENT


def test_the_same_external_id_under_two_keys_names_the_winner(patient):
    with running(patient, new_payment(external_id="INV-1"), "one") as first:
        second = Posting(patient, new_payment(external_id="INV-1"), "two")
        second.wait_until_blocked()
        first.commit()
        answer = second.answer()
    assert (answer.status_code, slug(answer)) == (409, "duplicate-external-id")
    assert answer.json["payment_id"] == first.payment_id
    assert patient.counts() == ONE_PAYMENT


def test_the_same_external_id_whose_first_is_rolled_back_is_accepted(patient):
    with running(patient, new_payment(external_id="INV-1"), "one") as first:
        second = Posting(patient, new_payment(external_id="INV-1"), "two")
        second.wait_until_blocked()
        first.rollback()
        answer = second.answer()
    assert answer.status_code == 202
    assert patient.counts() == ONE_PAYMENT


def test_an_external_id_that_stays_undecided_is_unavailable_and_leaves_the_key_free(stage):
    sent = new_payment(external_id="INV-1")
    with running(stage, new_payment(external_id="INV-1"), "one"):
        answer = stage.pay(sent, key="two")
        assert (answer.status_code, slug(answer)) == (503, "unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
    assert stage.counts() == NOTHING
    assert stage.pay(sent, key="two").status_code == 202


def test_a_connection_that_dies_in_the_middle_is_unavailable_and_the_repetition_is_safe(patient):
    sent = new_payment()
    with running(patient, sent, "once") as first:
        second = Posting(patient, sent, "once")
        pid = second.wait_until_blocked()
        with patient.owner.connect() as connection:
            connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        answer = second.answer()
        assert (answer.status_code, slug(answer)) == (503, "unavailable")
        first.rollback()
    assert patient.pay(sent, key="once").status_code == 202
    assert patient.counts() == ONE_PAYMENT


def undo_the_first(patient, times, sqlstate):
    """The server undoes that many accept statements; a sequence survives their rollback."""
    with patient.owner.begin() as connection:
        connection.execute(text("CREATE SEQUENCE faults"))
        connection.execute(text("GRANT USAGE ON SEQUENCE faults TO gateway"))
        connection.execute(
            text(f"""
            CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF nextval('faults') <= {times} THEN
                    RAISE EXCEPTION 'undone' USING ERRCODE = '{sqlstate}';
                END IF;
                RETURN NEW;
            END $$
            """)
        )
        connection.execute(
            text("CREATE TRIGGER fail BEFORE INSERT ON operations FOR EACH ROW EXECUTE FUNCTION fail()")
        )


@pytest.mark.parametrize("sqlstate", ["40P01", "40001"])
def test_a_deadlock_or_serialization_failure_is_repeated(stage, sqlstate):
    undo_the_first(stage, 2, sqlstate)
    assert stage.pay().status_code == 202
    assert stage.counts() == ONE_PAYMENT


def test_it_is_not_repeated_for_ever(stage):
    undo_the_first(stage, 1000, "40P01")
    answer = stage.pay()
    assert (answer.status_code, slug(answer)) == (503, "unavailable")
    assert stage.counts() == NOTHING


def test_another_error_of_the_database_is_ours_and_tells_nothing(stage):
    undo_the_first(stage, 1, "22012")
    answer = stage.pay(new_payment(external_id="INV-SECRET"))
    assert (answer.status_code, slug(answer)) == (500, "internal-error")
    assert "undone" not in answer.text
    assert stage.counts() == NOTHING


def at_once(count, call):
    barrier = threading.Barrier(count)

    def one(number):
        barrier.wait(DEADLINE_SECONDS)
        return call(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_fifty_identical_posts_make_one_payment(stage):
    sent = new_payment()
    answers = at_once(TOGETHER, lambda _: stage.pay(sent, key="once"))
    accepted = [answer for answer in answers if answer.status_code == 202]
    rest = [answer for answer in answers if answer.status_code != 202]
    assert {slug(answer) for answer in rest} <= {"idempotency-key-in-progress"}
    assert len({answer.json["id"] for answer in accepted}) == 1
    assert len({answer.json["receipt"] for answer in accepted}) == 1
    assert Counter("Idempotency-Replayed" in answer.headers for answer in accepted)[False] == 1
    assert stage.counts() == ONE_PAYMENT


def test_fifty_keys_for_one_external_id_make_one_payment(stage):
    answers = at_once(
        TOGETHER, lambda number: stage.pay(new_payment(external_id="INV-1"), key=f"race-{number}")
    )
    (winner,) = [answer for answer in answers if answer.status_code == 202]
    rest = [answer for answer in answers if answer is not winner]
    assert {slug(answer) for answer in rest} == {"duplicate-external-id"}
    assert {answer.json["payment_id"] for answer in rest} == {winner.json["id"]}
    assert stage.counts() == ONE_PAYMENT
