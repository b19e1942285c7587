"""An endpoint's rate: what comes above it is sent later, once each, in order, and without a loop of tasks."""

import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from partner_documents import changed
from sqlalchemy import text
from waiting import DEADLINE_SECONDS
from webhook_stage import Stage, endpoint

from bridge.ids import new_id
from bridge.partner import PartnerLimits
from bridge.storage import webhook_claims, webhook_deliveries, webhook_sweeps
from bridge.storage.transactions import single_statements
from bridge.storage.webhook_claims import ClaimedEvent, Pace, PutOff
from webhooks.deliver import PACE_AHEAD_SECONDS

pytestmark = pytest.mark.integration

PAID = "payment.paid"
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
STEP_SECONDS = 0.125


@pytest.fixture
def stage(database, tmp_path):
    made = Stage(database, tmp_path, now=START)
    yield made
    made.close()


@pytest.fixture
def made_tasks(stage):
    """How many tasks have been made for each delivery."""
    counted = Counter()
    schedule = stage.queue.schedule

    def counting(name, url, payload, at):
        counted[payload] += 1
        return schedule(name, url, payload, at)

    stage.queue.schedule = counting
    return counted


def set_rate(stage, per_second):
    before = stage.partner
    stage.partner = changed(before, limits=PartnerLimits(deliveries_per_second=per_second).model_dump())
    stage.store.put(stage.partner, before.version)


def told_to(stage, per_second, events, path=""):
    set_rate(stage, per_second)
    stage.set_endpoints(endpoint(f"{stage.receiver.url}{path}"))
    published = stage.publish(*[PAID] * events)
    assert stage.ring() == 204
    return published


def run_until_idle(stage):
    """Run the tasks as their time comes; return when each event was sent, in seconds from the start."""
    sent = {}
    while stage.queue.waiting:
        stage.run_tasks()
        for request in stage.receiver.requests:
            moment = (stage.now() - START).total_seconds()
            assert sent.setdefault(request.headers["webhook-id"], moment) is not None
        stage.clock.advance(STEP_SECONDS)
    return sent


def test_a_seconds_worth_goes_at_once_and_the_rest_at_the_rate_in_the_order_of_the_feed(stage, made_tasks):
    published = told_to(stage, per_second=2, events=10)
    sent = run_until_idle(stage)
    assert list(sent.values()) == [0, 0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4]
    assert list(sent) == published
    assert len(stage.receiver.requests) == 10, "each once"
    assert {row.status for row in stage.deliveries()} == {"delivered"}
    assert max(made_tasks.values()) == 2, "put off once, to its place"


def test_the_bucket_is_full_again_after_a_pause(stage):
    told_to(stage, per_second=2, events=2)
    run_until_idle(stage)
    stage.clock.advance(10)
    stage.publish(PAID, PAID, PAID)
    stage.ring()
    assert stage.run_tasks() == 3
    assert len(stage.receiver.requests) == 4, "two at once, the third later"


def test_each_endpoint_has_its_own_rate(stage):
    set_rate(stage, 1)
    stage.set_endpoints(endpoint(f"{stage.receiver.url}/a"), endpoint(f"{stage.receiver.url}/b"))
    stage.publish(PAID, PAID)
    stage.ring()
    stage.run_tasks()
    assert sorted(request.path for request in stage.receiver.requests) == ["/a", "/b"]


def test_what_was_late_together_is_not_sent_together(stage):
    told_to(stage, per_second=2, events=12)
    stage.run_tasks()
    stage.clock.advance(60)  # nobody has run tasks for a minute: every place is long over
    stage.receiver.requests.clear()
    stage.run_tasks()
    assert len(stage.receiver.requests) == 2
    sent = run_until_idle(stage)
    assert len(sent) == 10
    assert {row.status for row in stage.deliveries()} == {"delivered"}


def test_a_backlog_beyond_the_places_waits_without_tasks_and_is_sent_at_the_rate(stage, made_tasks):
    events = int(PACE_AHEAD_SECONDS) + 40
    published = told_to(stage, per_second=1, events=events)
    stage.run_tasks()
    assert len(stage.queue.waiting) <= PACE_AHEAD_SECONDS + 1
    waiting = [row for row in stage.deliveries() if row.task == "waiting"]
    assert len(waiting) == events - 1 - len(stage.queue.waiting)
    sent = run_until_idle(stage)
    assert set(sent) == set(published)
    assert len(stage.receiver.requests) == events, "each once"
    seconds = sorted(sent.values())
    assert all(later - sooner >= 1 - STEP_SECONDS for sooner, later in pairwise(seconds))
    assert seconds[-1] <= events + 5, "at the rate, not below it"
    assert max(made_tasks.values()) <= 4, "its first, the call, its place; one more if a sweep came between"


def test_a_rate_that_is_raised_holds_once_the_places_are_over(stage):
    events = int(PACE_AHEAD_SECONDS) + 100
    told_to(stage, per_second=1, events=events)
    stage.run_tasks()
    set_rate(stage, 100)
    stage.outlive_the_cache()
    sent = run_until_idle(stage)
    assert len(sent) == events
    assert max(sent.values()) <= 2 * PACE_AHEAD_SECONDS + 10


def test_a_retry_takes_a_place_like_any_other(stage):
    told_to(stage, per_second=1, events=1)
    stage.receiver.statuses[:] = [500]
    stage.run_tasks()
    stage.clock.advance(5)
    stage.publish(PAID)
    stage.ring()
    stage.run_tasks()
    assert len(stage.receiver.requests) == 2, "the retry or the new event, not both"
    run_until_idle(stage)
    assert {row.status for row in stage.deliveries()} == {"delivered"}


def test_what_is_put_off_is_held_if_its_endpoint_is_disabled_meanwhile(stage):
    told_to(stage, per_second=1, events=3)
    stage.run_tasks()
    (which,) = stage.partner.webhook_endpoints
    stage.disable(which)
    stage.clock.advance(3)
    stage.run_tasks()
    assert sorted(row.status for row in stage.deliveries()) == ["delivered", "held", "held"]


def test_what_waits_for_a_place_is_held_by_a_sweep_and_sent_once_when_the_endpoint_is_enabled(stage):
    """It had no task that could find the endpoint disabled, and was shown as pending."""
    events = int(PACE_AHEAD_SECONDS) + 10
    published = told_to(stage, per_second=1, events=events)
    stage.run_tasks()
    (which,) = stage.partner.webhook_endpoints
    test_id = new_id("dlv", stage.now())
    with stage.owner.begin() as connection:
        webhook_deliveries.insert_test(
            connection,
            delivery_id=test_id,
            endpoint_id=which.endpoint_id,
            partner_id=stage.partner_id,
            now=stage.now(),
        )
        connection.execute(text("UPDATE webhooks.deliveries SET task = 'waiting' WHERE event_id IS NULL"))
    stage.disable(which)
    with stage.owner.connect() as other:  # somebody has the endpoint in hand: it may be enabled in a moment
        other.execute(text("SELECT FROM webhooks.cursors FOR NO KEY UPDATE"))
        with stage.engine.begin() as connection:
            assert webhook_sweeps.hold_waiting(connection, now=stage.now(), after="", limit=events) == []
    stage.instance.sweeper.sweep()
    (tested,) = [row for row in stage.deliveries() if row.delivery_id == test_id]
    assert tested.status == "pending", "a test is for a disabled endpoint, too"
    stage.clock.advance(PACE_AHEAD_SECONDS + 1)
    stage.run_tasks()
    told = Counter(row.status for row in stage.deliveries() if row.event_id is not None)
    assert told == {"delivered": 1, "held": events - 1}
    stage.enable(which)
    stage.instance.sweeper.sweep()
    run_until_idle(stage)
    sent = [request.headers["webhook-id"] for request in stage.receiver.requests]
    assert sorted(each for each in sent if each in published) == sorted(published)
    assert len(sent) == events + 1, "each once, and the test"


def test_a_task_that_vanished_while_its_attempt_was_put_off_is_made_again(stage):
    told_to(stage, per_second=1, events=2)
    stage.run_tasks()
    stage.queue.waiting.clear()
    stage.clock.advance(1)
    for _ in range(2):  # its second task: the sweeper waits twice as long
        stage.outlive_the_grace()
        stage.instance.sweeper.sweep()
    run_until_idle(stage)
    assert {row.status for row in stage.deliveries()} == {"delivered"}


def test_processes_that_race_for_the_last_place_get_one_each(stage):
    """The bad interleaving: both have seen the bucket before either has taken from it."""
    told_to(stage, per_second=1, events=2)
    deliveries = stage.deliveries()
    pace = Pace(per_second=1, ahead_seconds=30, late_seconds=2)
    barrier = threading.Barrier(len(deliveries))
    got = []

    def claim(row):
        with single_statements(stage.engine) as connection:
            barrier.wait(DEADLINE_SECONDS)
            got.append(
                webhook_claims.claim_attempt(
                    connection,
                    row.endpoint_id,
                    row.delivery_id,
                    1,
                    pace=pace,
                    now=START,
                    due_by=START,
                    lease_until=START + timedelta(seconds=30),
                )
            )

    threads = [threading.Thread(target=claim, args=(row,)) for row in deliveries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    (claimed,) = [each for each in got if isinstance(each, ClaimedEvent)]
    (put_off,) = [each for each in got if isinstance(each, PutOff)]
    assert not claimed.was_put_off
    assert put_off.slot_at == START + timedelta(seconds=1)


def test_two_claims_of_one_attempt_that_wait_for_the_same_cursor_are_one(stage):
    told_to(stage, per_second=5, events=1)
    (row,) = stage.deliveries()
    got = []

    def claim():
        with single_statements(stage.engine) as connection:
            got.append(
                webhook_claims.claim_attempt(
                    connection,
                    row.endpoint_id,
                    row.delivery_id,
                    1,
                    pace=Pace(per_second=5, ahead_seconds=30, late_seconds=2),
                    now=START,
                    due_by=START,
                    lease_until=START + timedelta(seconds=30),
                )
            )

    threads = [threading.Thread(target=claim) for _ in range(2)]
    with stage.owner.begin() as holder:
        holder.exec_driver_sql("SELECT FROM webhooks.cursors FOR UPDATE")
        for thread in threads:
            thread.start()
        assert not got
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert sorted(each is None for each in got) == [False, True]


@pytest.mark.parametrize("ahead_seconds", [90, 600])
def test_a_place_far_ahead_left_by_a_wrong_clock_keeps_the_endpoint_from_nobody(stage, ahead_seconds):
    told_to(stage, 100, 3)
    pace = Pace(per_second=100, ahead_seconds=30, late_seconds=2)

    def claim(row, now):
        with single_statements(stage.engine) as connection:
            return webhook_claims.claim_attempt(
                connection,
                row.endpoint_id,
                row.delivery_id,
                1,
                pace=pace,
                now=now,
                due_by=now,
                lease_until=now + timedelta(seconds=30),
            )

    first, second, third = stage.deliveries()
    assert isinstance(claim(first, START + timedelta(seconds=ahead_seconds)), ClaimedEvent)
    assert isinstance(claim(second, START), ClaimedEvent)
    assert isinstance(claim(third, START), ClaimedEvent)
