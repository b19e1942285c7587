"""Partners take turns: few tasks of each stand in the queue, and nothing that waits is forgotten."""

import json
import threading
from contextlib import contextmanager

import pytest
from partner_documents import new_partner
from waiting import wait_until
from webhook_stage import Stage, endpoint

from bridge.storage import webhook_deliveries, webhook_turns
from bridge.storage.webhook_deliveries import Range
from bridge.storage.webhook_turns import MAX_QUEUED_PER_PARTNER

pytestmark = pytest.mark.integration

PAID = "payment.paid"
BACKLOG = 5 * MAX_QUEUED_PER_PARTNER


@pytest.fixture
def stage(database, tmp_path):
    made = Stage(database, tmp_path)
    yield made
    made.close()


@pytest.fixture
def other(stage):
    """Another partner, with an endpoint at /other."""
    made = new_partner()
    stage.store.put(made, None)
    with acting_for(stage, made):
        stage.set_endpoints(endpoint(f"{stage.receiver.url}/other"))
        return stage.partner


@contextmanager
def acting_for(stage, partner):
    before, stage.partner = stage.partner, partner
    try:
        yield
    finally:
        stage.partner = before


def tell(stage, events=1):
    event_ids = stage.publish(*[PAID] * events)
    assert stage.ring() == 204
    return event_ids


def queued(stage):
    """Whose the tasks in the queue are that are due, in their order."""
    partners = {row.delivery_id: row.partner_id for row in stage.deliveries()}
    return [
        partners[json.loads(task.payload)["delivery_id"]]
        for task in stage.queue.waiting
        if task.at <= stage.now()
    ]


def run_all(stage):
    while any(task.at <= stage.now() for task in stage.queue.waiting):
        stage.run_tasks()
        assert len(queued(stage)) <= 3 * MAX_QUEUED_PER_PARTNER


def sent(stage, path="/"):
    return [each.headers["webhook-id"] for each in stage.receiver.requests if each.path == path]


def test_an_event_waited_behind_all_the_tasks_of_another_partners_backlog(stage, other):
    stage.set_endpoints(endpoint(stage.receiver.url))
    backlog = tell(stage, BACKLOG)
    with acting_for(stage, other):
        tell(stage)
    assert queued(stage) == [stage.partner_id] * MAX_QUEUED_PER_PARTNER + [other.partner_id]
    run_all(stage)
    assert sent(stage) == backlog, "each once, in the order of the feed"
    assert len(sent(stage, "/other")) == 1


def test_a_replay_filled_the_queue_before_another_partners_redelivery(stage, other):
    stage.set_endpoints(endpoint(stage.receiver.url))
    backlog = tell(stage, BACKLOG)
    run_all(stage)
    with acting_for(stage, other):
        tell(stage)
        run_all(stage)
        (row,) = [each for each in stage.deliveries() if each.partner_id == other.partner_id]
    (which,) = stage.partner.webhook_endpoints
    with stage.engine.begin() as connection:
        everything = Range("", "z")
        webhook_deliveries.replay(connection, which.endpoint_id, "all", everything, now=stage.now())
        webhook_deliveries.send_again(connection, row.delivery_id, now=stage.now())
    stage.instance.sweeper.sweep_wanted()
    assert sorted(queued(stage)) == sorted([*[stage.partner_id] * MAX_QUEUED_PER_PARTNER, other.partner_id])
    run_all(stage)
    assert sorted(sent(stage)) == sorted(2 * backlog)
    assert len(sent(stage, "/other")) == 2


def test_more_wanted_than_a_page_of_one_partner_kept_another_partner_waiting(stage, other, monkeypatch):
    monkeypatch.setattr("webhooks.sweeper.MAX_WANTED", 10)
    monkeypatch.setattr("webhooks.sweeper.MAX_WANTED_ROUNDS", 2)
    stage.set_endpoints(endpoint(stage.receiver.url))
    tell(stage, BACKLOG)
    with acting_for(stage, other):
        tell(stage)
    run_all(stage)
    with stage.owner.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE webhooks.deliveries SET status = 'pending', task = 'wanted', next_attempt_at = created_at"
        )
    stage.instance.sweeper.sweep_wanted()
    assert other.partner_id in queued(stage)


def test_an_endpoint_waited_behind_the_backlog_of_another_endpoint_of_its_partner(stage):
    busy = endpoint(stage.receiver.url, event_types=(PAID,))
    quiet = endpoint(f"{stage.receiver.url}/quiet", event_types=("payment.refunded",))
    stage.set_endpoints(busy, quiet)
    tell(stage, BACKLOG)
    stage.publish("payment.refunded")
    stage.ring()
    while not sent(stage, "/quiet"):
        assert stage.run_tasks()
    assert len(sent(stage)) <= 3 * MAX_QUEUED_PER_PARTNER
    run_all(stage)
    assert len(sent(stage)) == BACKLOG


def test_what_came_to_wait_while_the_last_tasks_of_its_partner_ended_was_forgotten(stage, monkeypatch):
    """They have called the next before anybody could see it."""
    stage.set_endpoints(endpoint(stage.receiver.url))
    tell(stage, MAX_QUEUED_PER_PARTNER)
    count = webhook_turns.free_places

    def count_and_then_all_end(*arguments, **moment):
        places = count(*arguments, **moment)
        monkeypatch.undo()
        run_all(stage)
        return places

    monkeypatch.setattr(webhook_turns, "free_places", count_and_then_all_end)
    tell(stage)
    run_all(stage)
    assert {row.status for row in stage.deliveries()} == {"delivered"}


def test_the_tasks_of_a_deleted_endpoint_hold_no_places(stage):
    gone, kept = endpoint(stage.receiver.url), endpoint(f"{stage.receiver.url}/kept")
    stage.set_endpoints(gone, kept)
    tell(stage, MAX_QUEUED_PER_PARTNER)
    with stage.owner.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE webhooks.cursors SET status = 'deleted' WHERE endpoint_id = %s", (gone.endpoint_id,)
        )
    stage.set_endpoints(kept)
    stage.outlive_the_cache()
    run_all(stage)
    assert (len(sent(stage)), len(sent(stage, "/kept"))) == (0, MAX_QUEUED_PER_PARTNER)


def test_an_endpoint_that_is_disabled_with_a_backlog_lets_the_others_of_its_partner_go_on(stage):
    gone, kept = endpoint(stage.receiver.url), endpoint(f"{stage.receiver.url}/kept")
    stage.set_endpoints(gone, kept)
    tell(stage, BACKLOG)
    stage.disable(gone)
    run_all(stage)
    assert len(sent(stage, "/kept")) == BACKLOG


def test_lost_tasks_hold_their_partners_places_for_the_grace_only(stage):
    stage.set_endpoints(endpoint(stage.receiver.url))
    backlog = tell(stage, BACKLOG)
    stage.queue.waiting.clear()
    stage.outlive_the_grace()
    later = tell(stage)
    assert queued(stage), "the places are free again"
    stage.instance.sweeper.sweep()
    run_all(stage)
    assert set(sent(stage)) == {*backlog, *later}
    assert {row.status for row in stage.deliveries()} == {"delivered"}


def test_a_partner_goes_on_when_the_process_died_that_should_have_called_its_next(stage, monkeypatch):
    stage.set_endpoints(endpoint(stage.receiver.url))
    tell(stage, BACKLOG)
    monkeypatch.setattr(stage.instance.deliver, "_go_on", lambda *_arguments: None)
    run_all(stage)
    monkeypatch.undo()
    assert not queued(stage)
    assert len(sent(stage)) == MAX_QUEUED_PER_PARTNER
    stage.outlive_the_grace()
    stage.instance.sweeper.sweep()
    run_all(stage)
    assert len(sent(stage)) == BACKLOG


def test_an_endpoint_at_its_rate_takes_no_place_from_the_others_of_its_partner(stage):
    limits = stage.partner.limits.model_copy(update={"deliveries_per_second": 1})
    stage.partner = stage.partner.model_copy(update={"limits": limits})
    slow = endpoint(stage.receiver.url, event_types=(PAID,))
    other = endpoint(f"{stage.receiver.url}/other", event_types=("payment.refunded",))
    stage.set_endpoints(slow, other)
    tell(stage, BACKLOG)
    run_all(stage)
    assert len(sent(stage)) == 1
    stage.publish("payment.refunded")
    stage.ring()
    run_all(stage)
    assert len(sent(stage, "/other")) == 1


def test_fan_out_made_tasks_for_an_endpoint_without_room_that_came_for_nothing(stage):
    """While endpoints hang, each event of their partner made as many tasks as fit the queue."""
    stage.set_endpoints(endpoint(stage.receiver.url))
    tell(stage, 2)
    stage.receiver.gate.clear()
    attempt = threading.Thread(target=stage.take, args=(stage.queue.waiting[0],))
    attempt.start()
    wait_until(lambda: sent(stage))
    stage.queue.waiting.clear()
    with stage.owner.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE webhooks.deliveries SET task = 'waiting' WHERE lease_until IS NULL"
        )
    tell(stage, 5)
    assert queued(stage) == []
    stage.receiver.gate.set()
    attempt.join()
    run_all(stage)
    assert len(sent(stage)) == 7


@contextmanager
def slow_workers_taken(stage):
    """Other partners' endpoints hang: they have all workers that slow endpoints share."""
    shares = stage.instance.deliver._shares
    names = [(f"whe_{number}", f"par_{number % 2}") for number in range(stage.settings.threads // 4)]
    taken = [(name, shares.begin(name, partner, is_failing=True)) for name, partner in names]
    assert None not in [started for _, started in taken]
    yield
    for name, started in taken:
        shares.end(name, started, is_success=None)


def test_a_probe_that_found_no_worker_waited_for_the_sweeper(stage, other):
    failing = endpoint(stage.receiver.url)
    stage.set_endpoints(failing)
    stage.receiver.statuses[:] = [500] * 3
    tell(stage, 3)
    run_all(stage)
    stage.clock.advance((stage.cursor(failing).probe_at - stage.now()).total_seconds())
    with slow_workers_taken(stage):
        run_all(stage)
    assert len(stage.attempts()) == 3
    with acting_for(stage, other):
        tell(stage)
        run_all(stage)
    assert stage.cursor(failing).probe_at is None
    assert {row.status for row in stage.deliveries()} == {"delivered"}


def test_what_found_no_room_where_its_task_came_went_behind_the_whole_backlog(stage):
    """Shares are per process: whoever calls does not know of the room where the task comes."""
    which = endpoint(stage.receiver.url)
    stage.set_endpoints(which)
    backlog = tell(stage, 2 * MAX_QUEUED_PER_PARTNER)
    stage.clock.advance(1)
    backlog += tell(stage, BACKLOG)
    stage.clock.advance(1)
    for _ in range(MAX_QUEUED_PER_PARTNER):
        stage.take(stage.queue.waiting.pop(0))
    shares, taken = stage.instance.deliver._shares, []
    while (started := shares.begin(which.endpoint_id, stage.partner_id, is_failing=False)) is not None:
        taken.append(started)
    stage.take(stage.queue.waiting.pop(0))
    for started in taken:
        shares.end(which.endpoint_id, started, is_success=None)
    run_all(stage)
    assert sorted(sent(stage)) == sorted(backlog)
    # behind those whose tasks stood in the queue already
    assert sent(stage).index(backlog[MAX_QUEUED_PER_PARTNER]) < 4 * MAX_QUEUED_PER_PARTNER
