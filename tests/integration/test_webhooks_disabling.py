"""An endpoint is disabled, its events are held, it is enabled again: each is sent once. And it is deleted."""

import threading
from collections import Counter
from datetime import timedelta

import pytest
from partner_documents import changed
from sqlalchemy import event, text
from standardwebhooks import Webhook
from waiting import DEADLINE_SECONDS, wait_until
from webhook_stage import SECRET, Stage, endpoint

from bridge.storage import webhook_attempts, webhook_endpoints, webhook_sweeps, webhooks

pytestmark = pytest.mark.integration

PAID = "payment.paid"
HOUR = 3600.0


@pytest.fixture
def stage(database, tmp_path):
    made = Stage(database, tmp_path)
    yield made
    made.close()


@pytest.fixture
def made(stage):
    """The partner's endpoint, which has taken one event already."""
    only_one = endpoint(stage.receiver.url)
    stage.set_endpoints(only_one)
    stage.publish(PAID)
    stage.ring()
    stage.run_tasks()
    return only_one


def statuses(stage):
    return [delivery.status for delivery in stage.deliveries()]


def sent(stage):
    return [request.headers["webhook-id"] for request in stage.receiver.requests]


def operator_events(stage):
    return stage.rows("SELECT action, subject, reason FROM audit WHERE actor = 'webhooks'")


def test_what_was_held_is_sent_on_enabling_each_once_with_its_first_chain(stage, made):
    stage.disable(made)
    held = stage.publish(*[PAID] * 5)
    stage.ring()
    assert statuses(stage) == ["delivered", *["held"] * 5]
    stage.enable(made)
    stage.instance.sweeper.sweep_wanted()
    stage.instance.sweeper.sweep_wanted()
    stage.run_tasks()
    assert sent(stage)[1:] == held
    assert statuses(stage) == ["delivered"] * 6
    assert [(row.previous_sequence, row.sequence) for row in stage.deliveries()] == [
        (n - 1, n) for n in range(1, 7)
    ]
    Webhook(SECRET).verify(stage.receiver.requests[-1].body, stage.receiver.requests[-1].headers)


def test_several_sweepers_release_each_event_once(stage, made):
    stage.disable(made)
    held = stage.publish(*[PAID] * 30)
    stage.ring()
    stage.enable(made)
    instances = [stage.new_instance() for _ in range(4)]
    barrier = threading.Barrier(4)

    def sweep(instance):
        barrier.wait(DEADLINE_SECONDS)
        instance.sweeper.sweep_wanted()

    threads = [threading.Thread(target=sweep, args=(instance,)) for instance in instances]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    while stage.run_tasks():
        pass
    assert Counter(sent(stage)[1:]) == Counter(held)


def test_a_fan_out_that_met_the_endpoint_disabled_left_its_events_held_for_ever(stage, made):
    """Its copy of the state was older than the enabling, whose release had already looked."""
    stage.disable(made)
    stage.publish(PAID)
    threads = []

    def enable_meanwhile(_connection, _cursor, statement, *_rest):
        # the fan-out knows the endpoint as disabled, and has written nothing yet
        if "a page of the feed" in statement and not threads:
            threads.append(threading.Thread(target=lambda: stage.enable(made)))
            threads[0].start()
            wait_until(lambda: stage.waiting_for_a_lock() == 1)

    event.listen(stage.engine, "after_cursor_execute", enable_meanwhile)
    stage.ring()
    threads[0].join(DEADLINE_SECONDS)
    assert statuses(stage) == ["delivered", "held"]
    stage.instance.sweeper.sweep_wanted()
    stage.run_tasks()
    assert statuses(stage) == ["delivered", "delivered"]


def test_a_delivery_that_is_held_while_the_endpoint_is_enabled_is_held_before_or_not_at_all(stage, made):
    stage.publish(PAID)
    stage.ring()
    stage.disable(made)
    late = stage.deliveries()[1]
    with stage.engine.connect() as holding:
        holding.begin()
        assert webhook_attempts.hold_delivery(holding, made.endpoint_id, late.delivery_id, 1, now=stage.now())
        thread = threading.Thread(target=lambda: stage.enable(made))
        thread.start()
        wait_until(lambda: stage.waiting_for_a_lock() == 1)
        holding.commit()
    thread.join(DEADLINE_SECONDS)
    with stage.engine.begin() as connection:
        assert not webhook_attempts.hold_delivery(
            connection, made.endpoint_id, late.delivery_id, 1, now=stage.now()
        )
    stage.instance.sweeper.sweep_wanted()
    stage.run_tasks()
    assert statuses(stage) == ["delivered", "delivered"]
    assert len(sent(stage)) == 2


def test_410_disables_at_once_and_holds_the_event(stage, made):
    stage.receiver.statuses[:] = [410]
    (gone,) = stage.publish(PAID)
    stage.ring()
    stage.run_tasks()
    cursor = stage.cursor(made)
    assert (cursor.status, cursor.disabled_reason) == ("disabled", "gone")
    assert statuses(stage) == ["delivered", "held"]
    assert operator_events(stage) == [("webhook_endpoint.disable", made.endpoint_id, "gone")]
    stage.enable(made)
    stage.instance.sweeper.sweep_wanted()
    stage.run_tasks()
    assert sent(stage)[1:] == [gone, gone]
    assert statuses(stage) == ["delivered", "delivered"]


def test_120_hours_of_failures_disable_with_one_event_for_the_operators(stage, made):
    stage.receiver.statuses[:] = [500] * 1000
    first_failure = stage.now()

    def fail_at(hours):
        stage.clock.advance((first_failure - stage.now()) / timedelta(seconds=1) + hours * HOUR)
        stage.publish(PAID)
        stage.ring()
        stage.run_tasks()
        return stage.cursor(made).status

    assert [fail_at(hours) for hours in (0, 1, 24, 60, 119.9)] == ["enabled"] * 5
    assert stage.cursor(made).failing_since == first_failure
    assert operator_events(stage) == []
    assert fail_at(120) == "disabled"
    assert stage.cursor(made).disabled_reason == "failing"
    requests = len(stage.receiver.requests)
    for hours in (121, 150, 200):
        assert fail_at(hours) == "disabled"
    assert len(stage.receiver.requests) == requests, "a disabled endpoint is left in peace"
    assert operator_events(stage) == [("webhook_endpoint.disable", made.endpoint_id, "failing")]


def test_many_failures_at_the_hour_of_disabling_are_one_event(stage, made):
    stage.receiver.statuses[:] = [500] * 1000
    stage.publish(*[PAID] * 2)
    stage.ring()
    stage.run_tasks()
    stage.clock.advance(120 * HOUR)
    stage.publish(*[PAID] * 10)
    stage.ring()
    barrier = threading.Barrier(4)
    instances = [stage.new_instance() for _ in range(4)]
    tasks = [task for task in stage.queue.waiting if task.at <= stage.now()]

    def attempt(instance, mine):
        barrier.wait(DEADLINE_SECONDS)
        for task in mine:
            delivery = next(row for row in stage.deliveries() if row.delivery_id in task.payload.decode())
            instance.deliver.attempt(delivery.delivery_id, delivery.attempts + 1)

    threads = [
        threading.Thread(target=attempt, args=(instance, tasks[number::4]))
        for number, instance in enumerate(instances)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert stage.cursor(made).status == "disabled"
    assert len(operator_events(stage)) == 1


def test_a_success_in_between_starts_the_120_hours_anew(stage, made):
    stage.receiver.statuses[:] = [500]
    stage.publish(PAID)
    stage.ring()
    stage.run_tasks()
    stage.clock.advance(100 * HOUR)
    stage.instance.sweeper.sweep()
    stage.run_tasks()
    assert stage.cursor(made).failing_since is None
    stage.receiver.statuses[:] = [500]
    stage.publish(PAID)
    stage.ring()
    stage.run_tasks()
    assert stage.cursor(made).failing_since == stage.now()
    stage.clock.advance(30 * HOUR)
    stage.receiver.statuses[:] = [500]
    stage.instance.sweeper.sweep()
    stage.run_tasks()
    assert stage.cursor(made).status == "enabled"


def test_a_released_event_has_the_whole_schedule_before_it_again(stage, made):
    stage.receiver.statuses[:] = [500] * 3 + [410]
    stage.publish(PAID)
    stage.ring()
    for delay in (0, 5, 300, 1800):
        stage.clock.advance(delay)
        stage.run_tasks()
    late = stage.deliveries()[1]
    assert (late.status, late.attempts) == ("held", 4)
    stage.receiver.statuses[:] = [500] * 100
    stage.enable(made)
    stage.instance.sweeper.sweep_wanted()
    for delay in (0, *stage.settings.delays_seconds):
        stage.clock.advance(delay)
        assert stage.run_tasks() == 1
    late = stage.deliveries()[1]
    assert (late.status, late.attempts) == ("exhausted", 4 + len(stage.settings.delays_seconds) + 1)


def test_a_deleted_endpoint_gets_nothing_more_and_is_behind_no_more(stage, made):
    stage.receiver.statuses[:] = [500]
    stage.publish(PAID)
    stage.ring()
    stage.run_tasks()
    with stage.engine.begin() as connection:
        assert webhook_endpoints.end(connection, endpoint_id=made.endpoint_id, partner_id=stage.partner_id)
    stage.publish(PAID)
    stage.ring()
    with stage.engine.begin() as connection:
        assert webhook_sweeps.partners_behind(connection, after="", limit=9) == []
        assert webhooks.cursor_positions(connection, stage.partner_id) == {}
    stage.clock.advance(5)
    stage.run_tasks()
    stage.instance.sweeper.sweep()
    assert statuses(stage) == ["delivered", "cancelled"]
    assert len(sent(stage)) == 2


def test_an_endpoint_that_its_partners_document_has_lost_is_ended_by_the_sweeper(stage, made):
    stage.set_endpoints()
    stage.outlive_the_cache()
    stage.publish(PAID)
    stage.ring()  # the service has read the newer document, and mirrored it
    stage.instance.sweeper.sweep()
    assert stage.cursor(made).status == "deleted"
    assert statuses(stage) == ["delivered"]


def test_an_endpoint_learnt_by_its_cursor_is_served_by_a_cache_that_has_never_heard_of_it(stage, made):
    """The gateway has made it a moment ago; the cache of this process is good for another half minute."""
    new = endpoint(stage.receiver.url, starts_after_sequence=1)
    before = stage.partner
    after = changed(before, webhook_endpoints=[each.model_dump() for each in (made, new)])
    with stage.engine.begin() as connection:
        connection.execute(
            text("UPDATE partner_configs SET version = :version, document = CAST(:document AS jsonb)"),
            {"version": after.version, "document": after.model_dump_json()},
        )
        webhooks.insert_cursor(
            connection,
            endpoint_id=new.endpoint_id,
            partner_id=stage.partner_id,
            starts_after_sequence=1,
            configuration_version=after.version,
            now=stage.now(),
        )
    stage.publish(PAID)
    stage.ring()
    stage.run_tasks()
    assert len(sent(stage)) == 3
    assert Counter(row.endpoint_id for row in stage.deliveries()) == {
        made.endpoint_id: 2,
        new.endpoint_id: 1,
    }
