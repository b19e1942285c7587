"""Fan-out on real transactions: each event once per endpoint, in an unbroken chain, whoever does it."""

import threading
from collections import Counter

import pytest
from partner_documents import changed, new_partner
from sqlalchemy import event, text
from waiting import DEADLINE_SECONDS, wait_until
from webhook_stage import Stage, endpoint

from bridge.errors import TransientError
from bridge.storage import partner_configs, webhook_sweeps
from bridge.storage import webhooks as cursors
from webhooks.fan_out import FanOut

pytestmark = pytest.mark.integration

PAID = "payment.paid"
ACCEPTED = "payment.accepted"


@pytest.fixture
def stage(database, tmp_path):
    made = Stage(database, tmp_path)
    yield made
    made.close()


def chain(deliveries):
    return [(delivery.previous_sequence, delivery.sequence) for delivery in deliveries]


def in_threads(*works):
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    return threads


def join(threads):
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
        assert not thread.is_alive()


def test_a_doorbell_leaves_a_due_delivery_and_its_task_per_event(stage):
    stage.set_endpoints(endpoint(stage.receiver.url))
    event_ids = stage.publish(ACCEPTED, PAID)
    assert stage.ring() == 204
    assert [delivery.event_id for delivery in stage.deliveries()] == event_ids
    assert chain(stage.deliveries()) == [(0, 1), (1, 2)]
    assert {delivery.next_attempt_at for delivery in stage.deliveries()} == {stage.now()}
    assert len(stage.queue.waiting) == 2
    assert {task.url for task in stage.queue.waiting} == {stage.settings.tasks.target_url}


def test_a_doorbell_that_rings_again_changes_nothing(stage):
    stage.set_endpoints(endpoint(stage.receiver.url))
    stage.publish(PAID)
    assert [stage.ring(), stage.ring(1), stage.ring(99)] == [204] * 3
    assert len(stage.deliveries()) == 1
    assert len(stage.queue.waiting) == 1


def test_an_endpoint_with_a_filter_has_a_chain_of_its_own_stream(stage):
    stage.set_endpoints(endpoint(stage.receiver.url, event_types=(PAID,)))
    stage.publish(ACCEPTED, PAID, ACCEPTED, ACCEPTED, PAID)
    stage.ring()
    stage.publish(ACCEPTED, PAID)
    stage.ring()
    assert chain(stage.deliveries()) == [(0, 2), (2, 5), (5, 7)]


def test_a_page_that_holds_nothing_for_the_endpoint_does_not_break_the_chain(stage):
    stage.set_endpoints(endpoint(stage.receiver.url, event_types=(PAID,)))
    stage.publish(PAID, *[ACCEPTED] * 7, PAID)
    small_pages(stage).fan_out(stage.partner_id)
    assert chain(stage.deliveries()) == [(0, 1), (1, 9)]


def small_pages(stage):
    ready = stage.instance.fan_out
    return FanOut(stage.engine, ready._directory, ready._tasks, ready._turns, stage.clock, page_events=2)


def test_two_fan_outs_at_once_leave_each_event_once_and_an_unbroken_chain(stage):
    stage.set_endpoints(endpoint(stage.receiver.url))
    stage.publish(PAID)
    stage.ring()
    stage.publish(*[PAID] * 6)
    with stage.owner.connect() as holder:
        holder.execute(text("SELECT FROM webhooks.cursors FOR UPDATE"))
        threads = in_threads(*[lambda: small_pages(stage).fan_out(stage.partner_id)] * 3)
        wait_until(lambda: stage.waiting_for_a_lock() == 3)
        holder.rollback()
    join(threads)
    assert chain(stage.deliveries()) == [(n - 1, n) for n in range(1, 8)]
    assert len(stage.queue.waiting) == 7


def test_two_fan_outs_that_both_meet_a_new_endpoint_make_one_cursor(stage):
    stage.set_endpoints(endpoint(stage.receiver.url))
    stage.publish(*[PAID] * 5)
    barrier = threading.Barrier(4)

    def run():
        barrier.wait(DEADLINE_SECONDS)
        stage.new_instance().fan_out.fan_out(stage.partner_id)

    join(in_threads(*[run] * 4))
    assert chain(stage.deliveries()) == [(n - 1, n) for n in range(1, 6)]


def test_an_event_that_is_sequenced_while_a_fan_out_runs_is_not_missed(stage):
    stage.set_endpoints(endpoint(stage.receiver.url))
    stage.publish(PAID, PAID)
    threads = []

    def sequence_and_ring(_connection, _cursor, statement, *_rest):
        # the first fan-out has read its page and still holds the cursor
        if "a page of the feed" in statement and not threads:
            threads.append(None)
            stage.publish(PAID)
            threads[:] = in_threads(lambda: stage.ring(3))
            wait_until(lambda: stage.waiting_for_a_lock() == 1)

    event.listen(stage.engine, "after_cursor_execute", sequence_and_ring)
    stage.ring(2)
    join(threads)
    assert chain(stage.deliveries()) == [(0, 1), (1, 2), (2, 3)]


def test_a_fan_out_that_dies_before_its_commit_leaves_nothing_and_is_done_again(stage):
    stage.set_endpoints(endpoint(stage.receiver.url))
    stage.publish(PAID, PAID)

    def die(_connection, _cursor, statement, *_rest):
        if "everything up to here" in statement:
            raise KeyboardInterrupt

    event.listen(stage.engine, "before_cursor_execute", die)
    with pytest.raises(KeyboardInterrupt):
        stage.instance.fan_out.fan_out(stage.partner_id)
    event.remove(stage.engine, "before_cursor_execute", die)
    assert (stage.deliveries(), stage.queue.waiting) == ([], [])
    stage.instance.sweeper.sweep()
    assert chain(stage.deliveries()) == [(0, 1), (1, 2)]


def test_a_disabled_endpoints_events_are_held(stage):
    made = endpoint(stage.receiver.url)
    stage.set_endpoints(made)
    stage.ring()
    stage.disable(made)
    stage.publish(PAID)
    stage.ring()
    (delivery,) = stage.deliveries()
    assert (delivery.status, delivery.next_attempt_at) == ("held", None)
    assert stage.queue.waiting == []


def test_an_endpoint_learnt_late_starts_where_it_was_made_and_misses_nothing(stage):
    first = endpoint(stage.receiver.url)
    stage.set_endpoints(first)
    stage.publish(PAID, PAID)
    stage.ring()
    # made when the feed stood at 2; this process still has the old configuration for a while
    second = endpoint(stage.receiver.url, starts_after_sequence=2)
    stage.set_endpoints(first, second)
    stage.publish(PAID, PAID)
    stage.ring()
    assert Counter(delivery.endpoint_id for delivery in stage.deliveries()) == {first.endpoint_id: 4}
    stage.outlive_the_cache()
    stage.instance.sweeper.sweep()
    late = [delivery for delivery in stage.deliveries() if delivery.endpoint_id == second.endpoint_id]
    assert chain(late) == [(0, 3), (3, 4)]


def test_a_partner_that_nobody_has_rung_for_is_found_by_the_mirror(stage):
    stage.set_endpoints(endpoint(stage.receiver.url))
    stage.publish(PAID)
    with stage.engine.begin() as connection:
        partner_configs.upsert(
            connection,
            partner_id=stage.partner_id,
            version=stage.partner.version,
            document=stage.partner.model_dump(mode="json"),
            seen_at=stage.now(),
        )
        assert webhook_sweeps.partners_behind(connection, after="", limit=5) == [stage.partner_id]
        assert webhook_sweeps.partners_behind(connection, after=stage.partner_id, limit=5) == []
    stage.instance.sweeper.sweep()
    assert len(stage.deliveries()) == 1
    with stage.engine.begin() as connection:
        assert webhook_sweeps.partners_behind(connection, after="", limit=5) == []


def test_a_lost_doorbell_is_made_up_for_by_the_sweeper(stage):
    stage.set_endpoints(endpoint(stage.receiver.url))
    stage.publish(PAID)
    stage.instance.sweeper.sweep()
    stage.publish(PAID)  # nobody rings
    stage.instance.sweeper.sweep()
    assert chain(stage.deliveries()) == [(0, 1), (1, 2)]
    assert stage.run_tasks() == 2
    assert len(stage.receiver.requests) == 2


def test_a_feed_longer_than_one_run_is_finished_by_the_next(stage, monkeypatch):
    monkeypatch.setattr("webhooks.fan_out.MAX_PAGES", 2)
    stage.set_endpoints(endpoint(stage.receiver.url))
    stage.publish(*[PAID] * 7)
    small_pages(stage).fan_out(stage.partner_id)
    assert len(stage.deliveries()) == 4
    stage.instance.sweeper.sweep()
    assert chain(stage.deliveries()) == [(n - 1, n) for n in range(1, 8)]


def test_another_partners_endpoint_id_is_left_alone(stage):
    stolen = endpoint(stage.receiver.url)
    with stage.engine.begin() as connection:
        owner = {"endpoint_id": stolen.endpoint_id, "partner_id": "par_other"}
        cursors.insert_cursor(
            connection, **owner, starts_after_sequence=0, configuration_version=1, now=stage.now()
        )
    stage.set_endpoints(stolen)
    stage.publish(PAID)
    assert stage.ring() == 204
    assert stage.deliveries() == []


def test_a_doorbell_of_an_unknown_partner_is_acked(stage):
    stage.partner = new_partner()
    assert stage.ring() == 204


def test_a_doorbell_is_nacked_while_no_configuration_can_be_had(stage):
    stage.partner = changed(new_partner())
    stage.store.failure = TransientError("away")
    assert stage.ring() == 503


def test_a_message_that_is_no_event_is_refused_for_the_dead_letters(stage):
    answer = stage.client.post("/pubsub/events", json={"message": {"messageId": "1"}, "subscription": "s"})
    assert answer.status_code == 400
