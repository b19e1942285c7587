"""Batches: each item stands alone, as if it had been sent alone; on real connections, many at once."""

import hashlib
import json
import re
from contextlib import contextmanager
from functools import partial

import pytest
import rfc8785
from accepted import scalar
from gateway_stage import ISSUER, NOTHING, GatewayStage, keys, new_payment
from joserfc import jws
from races import InBackground, at_once
from sqlalchemy import text
from waiting import wait_until

from gateway.accept_payment import AcceptPayment
from gateway.batch import AcceptBatch
from gateway.idempotency import Fingerprints
from gateway.receipts import Receipts

pytestmark = pytest.mark.integration

FULL = 500


@pytest.fixture
def stage(database):
    made = GatewayStage(database)
    yield made
    made.close()


def item(key, **changes):
    return {"idempotency_key": key} | new_payment(**changes)


def send(stage, *items, **options):
    return stage.call("POST", "/v1/payments/batch", json={"payments": list(items)}, **options)


def results(answer):
    assert answer.status_code == 207
    assert set(answer.json) == {"results"}
    return answer.json["results"]


def slug(problem):
    return problem["type"].rpartition("/")[2]


def seen(result):
    """The status, and what it stands for: an id, or the problem's slug."""
    shown = result["payment"]["id"] if result["status"] == 202 else slug(result["problem"])
    return (result["status"], shown)


def problems(answer):
    return [seen(result) for result in results(answer)]


def test_payments_are_accepted_in_one_request_and_answered_in_order(stage):
    items = [item(f"key-{9 - number}") for number in range(10)]
    answered = results(send(stage, *items))
    assert [result["status"] for result in answered] == [202] * 10
    assert [result["payment"]["external_id"] for result in answered] == [
        sent["external_id"] for sent in items
    ]
    assert [set(result) for result in answered] == [{"status", "payment"}] * 10
    for result in answered:
        body = result["payment"]
        assert stage.call("GET", f"/v1/payments/{body['id']}").json == body
    assert stage.counts() == dict.fromkeys(NOTHING, 10) | {"outbox": 20}


def test_an_item_is_the_same_payment_sent_alone(stage):
    alone, within = item("alone"), item("within")
    first = stage.pay({name: alone[name] for name in alone if name != "idempotency_key"}, key="alone").json
    answered = results(send(stage, within, alone))
    assert answered[1] == {"status": 202, "payment": first, "replayed": True}
    again = stage.pay({name: within[name] for name in within if name != "idempotency_key"}, key="within")
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (202, "true")
    assert again.json == answered[0]["payment"]


def test_the_receipt_of_an_item_is_over_its_canonical_json(stage):
    sent = item("once", remittance_information="für Ä")
    [result] = results(send(stage, sent))
    with pytest.warns(UserWarning, match="EdDSA"):
        signed = jws.deserialize_compact(
            result["payment"]["receipt"], keys().receipt.signing, algorithms=["EdDSA"]
        )
    receipt = json.loads(signed.payload)
    canonical = rfc8785.dumps({name: sent[name] for name in sent if name != "idempotency_key"})
    assert receipt["body_sha256"] == hashlib.sha256(canonical).hexdigest()
    assert receipt["iss"] == ISSUER


def test_bad_items_are_told_in_their_place_and_stop_nobody(stage):
    stage.pay(new_payment(external_id="TAKEN"), key="used")
    answer = send(
        stage,
        item("good-1"),
        item("bad-1", capture="never"),
        item("used"),
        item("taken", external_id="TAKEN"),
        new_payment(),
        item(""),
        item("not visible"),
        item(7),
        "no object",
        item("bad-2", requested_execution_date="2020-01-01"),
        item("bad-3", metadata={"deep": 2**60}),
        item("bad-4", metadata={"\ud800": "x"}),
        item("good-2"),
    )
    assert [status for status, _ in problems(answer)[::12]] == [202, 202]
    assert problems(answer)[1:-1] == [
        (422, "invalid-request"),
        (422, "idempotency-key-reused"),
        (409, "duplicate-external-id"),
        (400, "idempotency-key-missing"),
        (400, "idempotency-key-missing"),
        (400, "malformed-request"),
        (422, "invalid-request"),
        (422, "invalid-request"),
        (422, "invalid-request"),
        (422, "invalid-request"),
        (422, "invalid-request"),
    ]
    problem = results(answer)[1]["problem"]
    assert problem["type"] == f"{ISSUER}/problems/invalid-request"
    assert problem["errors"][0]["pointer"] == "/capture"
    assert len(stage.rows("payments")) == 3


def test_one_key_twice_in_a_batch_is_one_payment(stage):
    sent = item("once")
    first, same, other = results(send(stage, sent, sent, item("once")))
    assert same == first | {"replayed": True}
    assert seen(other) == (422, "idempotency-key-reused")
    assert len(stage.rows("payments")) == 1


def test_one_external_id_twice_in_a_batch_is_one_payment(stage):
    answer = send(stage, item("b", external_id="INV-1"), item("a", external_id="INV-1"), item("c"))
    assert [status for status, _ in problems(answer)] == [202, 409, 202]
    first, second, _ = results(answer)
    assert second["problem"]["payment_id"] == first["payment"]["id"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/payments"),
        ({"payments": []}, "/payments"),
        ({"payments": [{}] * (FULL + 1)}, "/payments"),
        ({"payments": {}}, "/payments"),
        ({"payments": [{}], "colour": "blue"}, "/colour"),
    ],
)
def test_what_is_no_batch_is_refused_as_a_whole(stage, body, pointer):
    answer = stage.call("POST", "/v1/payments/batch", json=body)
    assert (answer.status_code, slug(answer.json)) == (422, "invalid-request")
    assert [error["pointer"] for error in answer.json["errors"]] == [pointer]


def test_a_batch_has_its_own_limit_of_size(stage):
    large = {"payments": [item("once")], "padding": "x" * (4 * 1024 * 1024)}
    answer = stage.call("POST", "/v1/payments/batch", json=large)
    assert (answer.status_code, slug(answer.json)) == (413, "payload-too-large")
    fits = [item(f"key-{number}", metadata={"text": "x" * 200}) for number in range(200)]
    assert len(json.dumps(fits)) > 64 * 1024
    assert {result["status"] for result in results(send(stage, *fits))} == {202}


def test_it_needs_the_scope_to_write(stage):
    assert send(stage, item("once"), client_id="reader").status_code == 403
    assert stage.counts() == NOTHING


def test_each_new_payment_counts_for_the_days_quota(stage):
    def left(answer):
        return int(re.search(r'"payments";r=(\d+)', answer.headers["RateLimit"])[1])

    before = left(stage.pay())
    items = [item(f"key-{number}") for number in range(3)]
    assert left(send(stage, *items, item("bad", capture="never"))) == before - 3
    assert left(send(stage, *items)) == before - 3


def test_five_hundred_with_three_bad_ones_and_the_same_again(stage):
    items = [item(f"key-{number:03}") for number in range(FULL)]
    for number in (0, 250, 499):
        items[number]["amount"] = {"value": "0.00", "currency": "EUR"}
    first = results(send(stage, *items))
    assert [number for number, result in enumerate(first) if result["status"] != 202] == [0, 250, 499]
    assert {result["status"] for result in first} == {202, 422}
    again = results(send(stage, *reversed(items)))[::-1]
    assert again == [result | {"replayed": True} if result["status"] == 202 else result for result in first]
    assert len(stage.rows("payments")) == FULL - 3


def test_two_full_batches_with_the_same_keys_in_opposite_order(stage):
    items = [item(f"key-{number:03}") for number in range(FULL)]
    answers = at_once(partial(send, stage, *items), partial(send, stage, *reversed(items)))
    there, back = (results(answer) for answer in answers)
    for one, other in zip(there, reversed(back), strict=True):
        statuses = {one["status"], other["status"]}
        assert statuses <= {202, 409}
        if statuses == {202}:
            assert one["payment"]["id"] == other["payment"]["id"]
    assert len(stage.rows("payments")) == FULL
    assert (
        scalar(stage.owner, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
    )
    once_more = results(send(stage, *items))
    assert {(result["status"], result.get("replayed")) for result in once_more} == {(202, True)}


@contextmanager
def running(stage, key):
    """Another request in the middle of taking the key."""
    stage.pay(key="other")
    with stage.owner.connect() as connection:
        connection.execute(
            text("""
            INSERT INTO idempotency_keys (partner_id, idempotency_key, fingerprint, payment_id, created_at)
            SELECT partner_id, :key, fingerprint, payment_id, created_at FROM idempotency_keys
            """),
            {"key": key},
        )
        yield connection
        connection.rollback()


def test_a_batch_waits_longer_than_a_single_request_for_one_that_has_its_keys(database):
    stage = GatewayStage(database, lock_timeout_milliseconds=100)
    waits = """
        SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
            AND wait_event_type = 'Lock' AND clock_timestamp() - query_start > interval '400 ms'
    """
    with running(stage, "held") as first:
        batch = InBackground(stage.owner, partial(send, stage, item("free"), item("held")))
        wait_until(lambda: scalar(stage.owner, waits), what="a batch that waits")
        first.commit()
        answer = batch.result()
    stage.close()
    assert [status for status, _ in problems(answer)] == [202, 422]


def test_one_item_that_does_not_get_its_turn_stops_no_other(stage):
    with running(stage, "a"):
        answer = send(stage, item("z"), item("a"), item("b"))
    assert [status for status, _ in problems(answer)] == [202, 409, 202]
    assert problems(answer)[1] == (409, "idempotency-key-in-progress")


def fail_at(stage, times, sqlstate):
    with stage.owner.begin() as connection:
        connection.execute(text("CREATE SEQUENCE faults"))
        connection.execute(text("GRANT USAGE ON SEQUENCE faults TO gateway"))
        connection.execute(
            text(f"""
            CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF nextval('faults') IN ({times}) THEN
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
@pytest.mark.parametrize("times", ["2, 4", "1, 2, 3, 4, 5, 6"])
def test_a_deadlock_or_serialization_failure_is_repeated(stage, sqlstate, times):
    fail_at(stage, times, sqlstate)
    answered = results(send(stage, *[item(f"key-{number}") for number in range(3)]))
    assert [(result["status"], result.get("replayed")) for result in answered] == [(202, None)] * 3
    assert stage.counts() == dict.fromkeys(NOTHING, 3) | {"outbox": 6}


def test_another_error_of_the_database_is_ours_and_leaves_nothing(stage):
    fail_at(stage, "3", "22012")
    answer = send(stage, *[item(f"key-{number}") for number in range(3)])
    assert (answer.status_code, slug(answer.json)) == (500, "internal-error")
    assert stage.counts() == NOTHING


def test_a_database_that_goes_away_between_items_is_unavailable_for_the_rest(stage):
    """The transaction is undone by an external id; the second item on its own then meets a shutdown."""
    stage.pay(new_payment(external_id="TAKEN"))
    fail_at(stage, "4", "57P01")
    items = [item("1"), item("2"), item("3", external_id="TAKEN"), item("4")]
    answer = send(stage, *items)
    assert [status for status, _ in problems(answer)] == [202, 503, 503, 503]
    assert problems(answer)[1] == (503, "unavailable")
    again = send(stage, *items)
    assert [status for status, _ in problems(again)] == [202, 202, 409, 202]
    assert results(again)[0]["replayed"]


def test_what_takes_too_long_is_left_for_the_next_time(stage):
    stage.pay(new_payment(external_id="TAKEN"))
    items = [item("1"), item("2", external_id="TAKEN")]
    accept_payment = AcceptPayment(
        engine=stage.engine,
        clock=stage.clock,
        key_ring=keys().parties,
        fingerprints=Fingerprints(keys().fingerprint),
        receipts=Receipts(keys().receipt, ISSUER),
        wake=lambda: None,
    )
    left = AcceptBatch(accept_payment, max_seconds=-1.0)(stage.partner, items, None)
    assert [(problem.status, problem.slug) for problem in left] == [(503, "unavailable")] * 2
    assert len(stage.rows("payments")) == 1
    assert [status for status, _ in problems(send(stage, *items))] == [202, 409]
