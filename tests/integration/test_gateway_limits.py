"""What a partner and a client may ask for: counted per window, told in headers, refused for a time."""

import threading
from dataclasses import replace

import pytest
from gateway_stage import NOW, SECRET, GatewayStage, basic, new_payment
from limits.storage import storage_from_string
from partner_documents import changed
from waiting import DEADLINE_SECONDS

from bridge.clock import ManualClock
from bridge.errors import TransientError
from bridge.partner import PartnerLimits
from gateway.client_secrets import MAX_AT_ONCE, MAX_WAITING, SecretVerifier
from gateway.counters import AWAY_SECONDS, ProcessCounters, SharedCounters, make_counters
from gateway.limits import Limits, Policy

pytestmark = pytest.mark.integration
# 12:00:00.123: the window of ten seconds has just begun, the day is half over
SECONDS_LEFT = 43_200


@pytest.fixture
def stage(database):
    made = GatewayStage(database)
    yield made
    made.close()


@pytest.fixture
def door():
    """Without a database."""
    made = GatewayStage()
    yield made
    made.close()


def limit(stage, **limits):
    standing = stage.store.get(stage.partner.partner_id)
    stage.store.put(changed(standing, limits=PartnerLimits(**limits)), standing.version)


def slug(answer):
    return answer.json["type"].rpartition("/")[2]


def batch(*keys):
    return {"payments": [new_payment() | {"idempotency_key": key} for key in keys]}


def test_each_answer_tells_the_policy_and_what_is_left(door):
    limit(door, requests_per_second=5)
    for left in (49, 48):
        answer = door.call("GET", "/v1/payments?limit=0")
        assert answer.headers["RateLimit-Policy"] == '"requests";q=50;w=10'
        assert answer.headers["RateLimit"] == f'"requests";r={left};t=10'
    door.clock.advance(4)
    assert door.call("GET", "/v1/events?limit=0").headers["RateLimit"] == '"requests";r=47;t=6'
    # nobody's requests are counted for nobody
    assert "RateLimit" not in door.app.test_client().get("/v1/payments").headers


def test_a_partner_that_is_too_fast_waits_and_nobody_else_does(door):
    limit(door, requests_per_second=1)
    path = "/v1/payments?limit=0"
    assert [door.call("GET", path).status_code for _ in range(10)] == [400] * 10
    for client_id in ("acme", "reader"):  # of one partner
        answer = door.call("GET", path, client_id)
        assert (answer.status_code, slug(answer)) == (429, "too-many-requests")
        assert answer.headers["Retry-After"] == "10"
        assert answer.headers["RateLimit"] == '"requests";r=0;t=10'
    assert door.call("GET", path, "other").status_code == 400
    door.clock.advance(10)
    assert door.call("GET", path).status_code == 400


def test_the_days_payments_come_to_an_end(stage):
    limit(stage, payments_per_day=2)
    first = stage.pay(new_payment(external_id="INV-A"), key="a")
    assert first.headers["RateLimit-Policy"].endswith(', "payments";q=2;w=86400')
    assert first.headers["RateLimit"].endswith(f', "payments";r=1;t={SECONDS_LEFT}')
    # what was not accepted now counts for nothing
    assert stage.pay(new_payment(external_id="INV-A"), key="a").headers["Idempotency-Replayed"] == "true"
    assert stage.pay({"nothing": 1}).status_code == 422
    second = stage.pay(key="b")
    assert second.headers["RateLimit"].endswith(f', "payments";r=0;t={SECONDS_LEFT}')

    refused = stage.pay(key="c")
    assert (refused.status_code, slug(refused)) == (429, "quota-exceeded")
    assert refused.headers["Retry-After"] == str(SECONDS_LEFT)
    assert len(stage.rows("payments")) == 2
    # everything else goes on: reading, the other partner, and what was accepted is told again
    assert stage.call("GET", "/v1/payments").status_code == 200
    assert stage.pay(client_id="other").status_code == 202
    again = stage.pay(new_payment(external_id="INV-A"), key="a")
    assert (again.status_code, again.json["id"]) == (202, first.json["id"])

    stage.clock.advance(SECONDS_LEFT)
    assert stage.pay(key="c").status_code == 202


def test_a_batch_counts_each_payment_it_has_made(stage):
    limit(stage, payments_per_day=3)
    answer = stage.call("POST", "/v1/payments/batch", json=batch("a", "b"))
    assert [result["status"] for result in answer.json["results"]] == [202, 202]
    assert answer.headers["RateLimit"].endswith(f', "payments";r=1;t={SECONDS_LEFT}')
    assert stage.pay(key="c").status_code == 202
    refused = stage.call("POST", "/v1/payments/batch", json=batch("d"))
    assert (refused.status_code, slug(refused)) == (429, "quota-exceeded")
    assert len(stage.rows("payments")) == 3


def test_a_batch_is_told_again_when_the_days_payments_are_used_up(stage):
    limit(stage, payments_per_day=3)
    sent = batch("a", "b", "c")
    first = stage.call("POST", "/v1/payments/batch", json=sent).json["results"]
    again = stage.call("POST", "/v1/payments/batch", json=sent)
    assert again.status_code == 207
    assert again.json["results"] == [result | {"replayed": True} for result in first]
    assert again.headers["RateLimit"].endswith(f', "payments";r=0;t={SECONDS_LEFT}')
    assert len(stage.rows("payments")) == 3


def test_of_a_mixed_batch_only_what_would_be_new_is_over_the_quota(stage):
    limit(stage, payments_per_day=1)
    known, new = batch("a")["payments"][0], batch("b")["payments"][0]
    stage.call("POST", "/v1/payments/batch", json={"payments": [known]})
    reused = known | {"external_id": "OTHER"}
    mixed = {"payments": [new, known, "no payment", reused, new]}
    answer = stage.call("POST", "/v1/payments/batch", json=mixed)
    assert [result["status"] for result in answer.json["results"]] == [429, 202, 422, 422, 429]
    problem = answer.json["results"][0]["problem"]
    assert problem["type"].endswith("/problems/quota-exceeded")
    assert len(stage.rows("payments")) == 1
    stage.clock.advance(SECONDS_LEFT)
    answer = stage.call("POST", "/v1/payments/batch", json=mixed)
    assert [result["status"] for result in answer.json["results"]] == [202, 202, 422, 422, 202]


def test_a_known_key_in_the_header_opens_no_batch(stage):
    limit(stage, payments_per_day=1)
    assert stage.pay(key="known").status_code == 202
    headers = {"Idempotency-Key": "known"}
    answer = stage.call("POST", "/v1/payments/batch", json=batch("new"), headers=headers)
    assert (answer.status_code, slug(answer)) == (429, "quota-exceeded")
    assert len(stage.rows("payments")) == 1


# The token endpoint


def few_tokens(**settings):
    """A door whose token endpoint has small limits."""
    stage = GatewayStage()
    stage.settings = replace(stage.settings, **settings)
    stage.app = stage.new_app()
    return stage


def ask(stage, client_id="acme", secret=SECRET, address="198.51.100.7"):
    headers = basic(client_id, secret) | {"X-Forwarded-For": address}
    form = {"grant_type": "client_credentials"}
    return stage.app.test_client().post("/oauth2/token", data=form, headers=headers)


def test_an_address_asks_so_often_whoever_it_says_it_is():
    stage = few_tokens(token_requests_per_minute=3)
    answers = [ask(stage, name).status_code for name in ("acme", "reader", "other", "acme")]
    assert answers == [200, 200, 200, 429]
    refused = ask(stage)
    assert slug(refused) == "too-many-requests"
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    assert ask(stage, address="198.51.100.8").status_code == 200
    # what the caller writes before our proxy's entry changes nothing
    assert ask(stage, address="203.0.113.9, 198.51.100.7").status_code == 429
    stage.clock.advance(60)
    assert ask(stage).status_code == 200
    stage.close()


def test_a_guesser_is_stopped_before_its_guesses_are_hashed_and_locks_nobody_out():
    stage = few_tokens(tokens_per_minute=3)
    assert ask(stage).status_code == 200  # its secret is known from now on
    guesses = [ask(stage, secret=f"guess {number}", address="192.0.2.1").status_code for number in range(5)]
    assert guesses == [401, 401, 401, 429, 429]
    assert ask(stage).status_code == 200
    assert ask(stage, address="192.0.2.1").status_code == 200
    stage.close()


def test_a_client_gets_so_many_tokens_wherever_it_asks():
    stage = few_tokens(tokens_per_minute=2)
    answers = [ask(stage, address=f"192.0.2.{number}").status_code for number in range(3)]
    assert answers == [200, 200, 429]
    assert ask(stage, "other").status_code == 200
    stage.close()


def test_only_a_few_secrets_are_hashed_at_once_and_few_wait():
    verifier = SecretVerifier()
    inside, leave = threading.Semaphore(0), threading.Event()
    at_once, most = [0], [0]
    lock = threading.Lock()

    def slow(_hash, _secret):
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        inside.release()
        leave.wait(DEADLINE_SECONDS)
        with lock:
            at_once[0] -= 1
        return False

    verifier._matches = slow
    outcomes = []

    def guess(number):
        try:
            outcomes.append(verifier.verify("acme", "hash", f"guess {number}"))
        except TransientError as error:
            outcomes.append(error.retry_after_seconds)

    callers = [threading.Thread(target=guess, args=(number,)) for number in range(16)]
    for caller in callers:
        caller.start()
    for _ in range(MAX_AT_ONCE):
        assert inside.acquire(timeout=10)
    # the others are told to come again at once, none of them holds a thread
    for caller in callers:
        caller.join(0.1)
    assert outcomes.count(1) == 16 - MAX_AT_ONCE - MAX_WAITING
    leave.set()
    for caller in callers:
        caller.join(DEADLINE_SECONDS)
    assert most[0] == MAX_AT_ONCE
    assert outcomes.count(False) == MAX_AT_ONCE + MAX_WAITING


# Counters


@pytest.fixture(params=["process", "shared"])
def counters(request):
    clock = ManualClock(NOW)
    if request.param == "process":
        return ProcessCounters(clock)
    return SharedCounters(storage_from_string("memory://"), clock)


def test_counters_add_up_by_key(counters):
    assert [counters.add("a", 1, keep_seconds=60) for _ in range(3)] == [1, 2, 3]
    assert counters.add("b", 5, keep_seconds=60) == 5
    assert counters.add("a", 0, keep_seconds=60) == 3


def test_counters_lose_nothing_between_threads(counters):
    def count():
        for _ in range(500):
            counters.add("a", 1, keep_seconds=600)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters.add("a", 0, keep_seconds=600) == 4000


def test_counters_of_a_process_end_and_are_bounded():
    clock = ManualClock(NOW)
    counters = ProcessCounters(clock, max_counters=100)
    counters.add("old", 7, keep_seconds=60)
    clock.advance(60)
    assert counters.add("old", 1, keep_seconds=60) == 1
    for number in range(1000):
        counters.add(f"caller {number}", 1, keep_seconds=60)
    assert len(counters._counts) <= 100
    assert counters.add("caller 999", 1, keep_seconds=60) == 2


def test_a_shared_store_that_is_away_is_left_alone_and_each_counts_for_itself():
    clock = ManualClock(NOW)
    counters = make_counters("redis://127.0.0.1:1/0", clock)
    limits, policy = Limits(counters, clock), Policy("requests", 2, 10)
    assert [limits.take(policy, "somebody").exceeded for _ in range(3)] == [False, False, True]
    assert not limits.take(policy, "somebody else").exceeded
    counters._storage = None  # asking it now would raise
    assert counters.add("a", 1, keep_seconds=60) == 1
    clock.advance(AWAY_SECONDS)
    with pytest.raises(AttributeError):
        counters.add("a", 1, keep_seconds=60)


def test_windows_are_aligned_so_that_instances_agree():
    clock = ManualClock(NOW)
    counters = ProcessCounters(clock)
    first, second = Limits(counters, clock), Limits(counters, clock)
    policy = Policy("requests", 2, 10)
    assert [one.take(policy, "somebody").exceeded for one in (first, second, first)] == [False, False, True]
    clock.advance(9)
    assert second.take(policy, "somebody").resets_in_seconds == 1
    clock.advance(1)
    assert not second.take(policy, "somebody").exceeded
