"""A failing endpoint is probed by one delivery; the others wait in their rows, and none is lost."""

import json
import threading
from datetime import timedelta

import pytest
from stand_ins import free_port
from waiting import wait_until
from webhook_stage import Stage, endpoint, is_probe

from bridge.ids import new_id
from bridge.storage import webhook_deliveries, webhook_endpoints, webhook_probes
from bridge.storage.webhook_deliveries import Range
from bridge.storage.webhook_probes import FAILURES_BEFORE_PROBING, MAX_PROBE_PAUSE_SECONDS

pytestmark = pytest.mark.integration

PAID = "payment.paid"
FIRST_PAUSE_SECONDS = 5
REFUSE = [500] * 1000


@pytest.fixture
def stage(database, tmp_path):
    made = Stage(database, tmp_path)
    yield made
    made.close()


@pytest.fixture
def failing(stage):
    """An endpoint whose gate has just closed: three attempts have failed, each at another event."""
    made = endpoint(stage.receiver.url)
    stage.set_endpoints(made)
    stage.receiver.statuses[:] = REFUSE
    stage.publish(*[PAID] * FAILURES_BEFORE_PROBING)
    stage.ring()
    assert stage.run_tasks() == FAILURES_BEFORE_PROBING
    assert len(stage.receiver.requests) == FAILURES_BEFORE_PROBING
    return made


def recover(stage):
    stage.receiver.statuses[:] = []


def attempts_made(stage):
    return len(stage.attempts())


def run_all(stage):
    """Let tasks come until none is due."""
    while any(task.at <= stage.now() for task in stage.queue.waiting):
        stage.run_tasks()


def reach_probe(stage, which):
    stage.clock.advance((stage.cursor(which).probe_at - stage.now()).total_seconds())


def waiting(stage):
    return [row for row in stage.deliveries() if row.task == "waiting"]


def test_seventeen_endpoints_that_refuse_at_once_filled_the_queue_before_the_healthy_one(stage):
    refusing = [endpoint(f"http://127.0.0.1:{free_port()}/{number}") for number in range(17)]
    healthy = endpoint(stage.receiver.url)
    stage.set_endpoints(*refusing, healthy)
    stage.publish(*[PAID] * 20)
    stage.ring()
    run_all(stage)
    before = attempts_made(stage)
    event_ids = stage.publish(*[PAID] * 20)
    stage.ring()
    tasks = [task for task in stage.queue.waiting if task.at <= stage.now() and not is_probe(task)]
    made_for = {json.loads(task.payload)["delivery_id"] for task in tasks}
    mine = {
        row.delivery_id
        for row in stage.deliveries()
        if row.endpoint_id == healthy.endpoint_id and row.event_id in event_ids
    }
    assert made_for <= mine
    run_all(stage)
    assert attempts_made(stage) - before == 20
    assert {row.status for row in stage.deliveries() if row.delivery_id in mine} == {"delivered"}


def test_between_two_probes_nothing_else_is_sent(stage, failing):
    stage.publish(*[PAID] * 10)
    stage.instance.sweeper.sweep()
    pause_seconds = FIRST_PAUSE_SECONDS
    for _ in range(6):
        before = attempts_made(stage)
        probe_at = stage.cursor(failing).probe_at
        assert stage.seconds_until(probe_at) == pause_seconds
        stage.clock.advance(pause_seconds - 3)
        stage.instance.sweeper.sweep()
        run_all(stage)
        assert attempts_made(stage) == before, "before its time"
        stage.clock.advance(3)
        stage.instance.sweeper.sweep()
        run_all(stage)
        assert attempts_made(stage) == before + 1
        pause_seconds = min(pause_seconds * 2, MAX_PROBE_PAUSE_SECONDS)
    # each probe took the delivery that had waited longest
    assert max(row.attempts for row in stage.deliveries()) == 2
    assert {row.status for row in stage.deliveries()} == {"pending"}


def test_all_that_waited_is_sent_once_when_the_probe_is_taken(stage, failing):
    stage.publish(*[PAID] * 30)
    stage.instance.sweeper.sweep()
    assert len(waiting(stage)) == 30
    recover(stage)
    stage.receiver.requests.clear()
    reach_probe(stage, failing)
    run_all(stage)
    cursor = stage.cursor(failing)
    assert (cursor.probe_at, cursor.failing_since, cursor.failed_attempts) == (None, None, 0)
    ids = [request.headers["webhook-id"] for request in stage.receiver.requests]
    assert len(ids) == len(set(ids)) == 33
    assert {row.status for row in stage.deliveries()} == {"delivered"}


def test_one_event_that_its_receiver_refuses_stops_no_other(stage):
    made = endpoint(stage.receiver.url)
    stage.set_endpoints(made)
    (poison,) = stage.publish(PAID)
    stage.ring()
    stage.receiver.statuses[:] = REFUSE
    for delay in (0, *stage.settings.delays_seconds[:2]):
        stage.clock.advance(delay)
        run_all(stage)
    assert stage.cursor(made).probe_at is not None
    recover(stage)
    others = stage.publish(*[PAID] * 5)
    stage.instance.sweeper.sweep()
    reach_probe(stage, made)
    run_all(stage)
    status = {row.event_id: row.status for row in stage.deliveries()}
    assert {status[each] for each in others} == {"delivered"}
    assert status[poison] == "pending"


def test_an_event_that_happens_after_the_pause_is_the_probe_at_once(stage, failing):
    stage.clock.advance(MAX_PROBE_PAUSE_SECONDS)
    recover(stage)
    stage.run_tasks()
    (event_id,) = stage.publish(PAID)
    stage.ring()
    run_all(stage)
    assert {row.event_id: row.status for row in stage.deliveries()}[event_id] == "delivered"


def test_a_retry_after_lengthens_the_pause_of_the_endpoint(stage, failing):
    stage.receiver.answer_headers["Retry-After"] = "40"
    stage.publish(PAID)
    stage.instance.sweeper.sweep()
    reach_probe(stage, failing)
    run_all(stage)
    assert stage.seconds_until(stage.cursor(failing).probe_at) == 40


def test_what_was_under_way_when_the_gate_closed_does_not_lengthen_the_pause(stage):
    made = endpoint(stage.receiver.url)
    stage.set_endpoints(made)
    stage.publish(*[PAID] * 8)
    stage.ring()
    with stage.engine.begin() as connection:
        for _ in range(8):
            failure = webhook_probes.Failure(made.endpoint_id, stage.now(), False, 5.0, None)
            webhook_probes.note_failure(connection, failure, now=stage.now())
    assert stage.seconds_until(stage.cursor(made).probe_at) == FIRST_PAUSE_SECONDS


def test_a_test_is_sent_at_once_and_says_nothing_of_the_events(stage, failing):
    recover(stage)
    delivery_id = new_id("dlv", stage.now())
    with stage.engine.begin() as connection:
        webhook_deliveries.insert_test(
            connection,
            delivery_id=delivery_id,
            endpoint_id=failing.endpoint_id,
            partner_id=stage.partner_id,
            now=stage.now(),
        )
    before = stage.cursor(failing).probe_at
    stage.instance.sweeper.sweep_wanted()
    run_all(stage)
    assert {row.delivery_id: row.status for row in stage.deliveries()}[delivery_id] == "delivered"
    assert stage.cursor(failing).probe_at == before


def test_a_replay_to_a_failing_endpoint_waits_like_the_rest(stage):
    made = endpoint(stage.receiver.url)
    stage.set_endpoints(made)
    stage.publish(*[PAID] * 6)
    stage.ring()
    run_all(stage)
    stage.receiver.statuses[:] = REFUSE
    stage.publish(*[PAID] * FAILURES_BEFORE_PROBING)
    stage.ring()
    run_all(stage)
    before = attempts_made(stage)
    with stage.engine.begin() as connection:
        assert webhook_deliveries.replay(connection, made.endpoint_id, "all", Range("", "z"), now=stage.now())
    stage.instance.sweeper.sweep_wanted()
    assert len(waiting(stage)) == 6
    run_all(stage)
    assert attempts_made(stage) == before
    recover(stage)
    reach_probe(stage, made)
    run_all(stage)
    assert waiting(stage) == []


def test_a_probe_whose_process_died_is_followed_by_another_when_its_lease_has_ended(
    stage, failing, monkeypatch
):
    stage.publish(*[PAID] * 3)
    stage.instance.sweeper.sweep()
    reach_probe(stage, failing)
    monkeypatch.setattr(
        stage.instance.deliver, "_record", lambda _attempted: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        stage.instance.deliver.probe(failing.endpoint_id)
    monkeypatch.undo()
    stage.queue.waiting.clear()
    before = attempts_made(stage)
    stage.instance.sweeper.sweep()
    run_all(stage)
    assert attempts_made(stage) == before, "its lease has not ended"
    recover(stage)
    stage.outlive_the_lease()
    stage.outlive_the_grace()
    stage.instance.sweeper.sweep()
    run_all(stage)
    assert {row.status for row in stage.deliveries() if row.attempts_before == 0} <= {"delivered", "pending"}
    assert stage.cursor(failing).probe_at is None
    assert waiting(stage) == []


def test_a_probe_task_that_was_lost_is_made_up_for_by_the_sweeper(stage, failing):
    stage.publish(*[PAID] * 3)
    stage.instance.sweeper.sweep()
    stage.queue.waiting.clear()
    recover(stage)
    reach_probe(stage, failing)
    stage.outlive_the_grace()
    stage.instance.sweeper.sweep()
    run_all(stage)
    assert waiting(stage) == []
    assert stage.cursor(failing).probe_at is None


def test_a_sweep_does_not_call_what_waits_before_the_probe_is_due(stage, failing):
    """Each sweep would give the longest waiting a task that finds the gate closed."""
    stage.publish(*[PAID] * 3)
    stage.instance.sweeper.sweep()
    with stage.engine.begin() as connection:
        later = stage.now() + timedelta(seconds=MAX_PROBE_PAUSE_SECONDS)
        connection.exec_driver_sql("UPDATE webhooks.cursors SET probe_at = %s", (later,))
    stage.queue.waiting.clear()
    stage.outlive_the_grace()
    stage.instance.sweeper.sweep()
    assert len(waiting(stage)) == 3


def test_a_probe_that_a_wrong_clock_has_put_far_ahead_is_due(stage, failing):
    stage.publish(*[PAID] * 3)
    stage.instance.sweeper.sweep()
    with stage.engine.begin() as connection:
        later = stage.now() + timedelta(hours=1)
        connection.exec_driver_sql("UPDATE webhooks.cursors SET probe_at = %s", (later,))
    stage.queue.waiting.clear()
    recover(stage)
    stage.outlive_the_grace()
    stage.instance.sweeper.sweep()
    run_all(stage)
    assert waiting(stage) == []


def test_a_probe_that_this_process_could_not_send_leaves_the_next_one_due(stage, failing, monkeypatch):
    stage.publish(PAID)
    stage.instance.sweeper.sweep()
    reach_probe(stage, failing)

    def no_descriptor(*_arguments):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(stage.instance.deliver._sender, "post", no_descriptor)
    with pytest.raises(OSError, match="Too many"):
        stage.instance.deliver.probe(failing.endpoint_id)
    assert stage.cursor(failing).probe_at <= stage.now()
    assert all(row.lease_until is None for row in stage.deliveries())


def test_two_instances_that_are_called_at_once_send_one_probe(stage, failing):
    stage.publish(*[PAID] * 4)
    stage.instance.sweeper.sweep()
    reach_probe(stage, failing)
    before = len(stage.receiver.requests)
    stage.receiver.gate.clear()
    instances = [stage.instance, stage.new_instance()]
    threads = [threading.Thread(target=each.deliver.probe, args=(failing.endpoint_id,)) for each in instances]
    for thread in threads:
        thread.start()
    wait_until(lambda: sum(not thread.is_alive() for thread in threads) == 1)
    wait_until(lambda: len(stage.receiver.requests) == before + 1)
    stage.receiver.gate.set()
    for thread in threads:
        thread.join()
    assert attempts_made(stage) == before + 1


def test_a_redelivery_while_a_probe_was_under_way_made_a_second_attempt_beside_it(stage, failing):
    stage.publish(PAID)
    stage.instance.sweeper.sweep()
    reach_probe(stage, failing)
    run_all(stage)  # the tasks of the first attempts: they come to wait
    reach_probe(stage, failing)
    stage.receiver.gate.clear()
    before = len(stage.receiver.requests)
    probe = threading.Thread(target=stage.instance.deliver.probe, args=(failing.endpoint_id,))
    probe.start()
    wait_until(lambda: len(stage.receiver.requests) == before + 1)
    under_way = stage.cursor(failing).probe_at
    (asked, *_) = [row for row in stage.deliveries() if row.lease_until is None]
    with stage.owner.begin() as connection:
        assert webhook_deliveries.send_again(connection, asked.delivery_id, now=stage.now())
        webhook_probes.allow_probe(connection, failing.endpoint_id, now=stage.now())
    stage.instance.sweeper.sweep_wanted()
    assert stage.cursor(failing).probe_at == under_way
    assert asked.delivery_id in {row.delivery_id for row in waiting(stage)}
    stage.receiver.gate.set()
    probe.join()
    assert len(stage.receiver.requests) == before + 1


def test_a_delivery_that_came_to_wait_while_the_gate_was_opened_was_forgotten(stage, failing):
    """Either it waits before the gate opens, and is called, or it sees the gate open and is sent."""
    (event_id,) = stage.publish(PAID)
    stage.instance.sweeper.sweep()
    (row,) = [each for each in stage.deliveries() if each.event_id == event_id]
    arguments = (failing.endpoint_id, row.delivery_id, 1)
    moment = {"now": stage.now(), "due_by": stage.now()}
    answers = []

    def wait():
        with stage.engine.begin() as connection:
            answers.append(webhook_probes.wait_for_probe(connection, *arguments, **moment))

    with stage.engine.begin() as opener:
        webhook_probes.open_gate(opener, failing.endpoint_id)
        waiter = threading.Thread(target=wait)
        waiter.start()
        wait_until(lambda: stage.waiting_for_a_lock() == 1)
    waiter.join()
    assert answers == [False]


@pytest.mark.parametrize("change", ["url", "disabled-and-enabled"])
def test_a_partner_that_mends_its_endpoint_is_not_kept_waiting(stage, failing, change):
    stage.publish(*[PAID] * 3)
    stage.instance.sweeper.sweep()
    recover(stage)
    if change == "url":
        newer = stage.cursor(failing).configuration_version + 1
        with stage.engine.begin() as connection:
            webhook_endpoints.need_version(
                connection, endpoint_id=failing.endpoint_id, partner_id=stage.partner_id, version=newer
            )
        mended = failing.model_copy(update={"url": f"{stage.receiver.url}/new"})
        stage.set_endpoints(mended)
    else:
        stage.disable(failing)
        stage.instance.sweeper.sweep()
        stage.enable(failing)
    assert stage.cursor(failing).probe_at is None
    stage.receiver.requests.clear()
    stage.outlive_the_grace()
    stage.instance.sweeper.sweep()
    run_all(stage)
    assert waiting(stage) == []
    assert len(stage.receiver.requests) >= 3


def test_a_disabled_endpoint_holds_what_waits_for_its_probe(stage, failing):
    stage.publish(*[PAID] * 3)
    stage.instance.sweeper.sweep()
    stage.disable(failing)
    stage.instance.sweeper.sweep()
    reach_probe(stage, failing)
    run_all(stage)
    assert [row.status for row in stage.deliveries()].count("held") >= 3
    assert waiting(stage) == []


def test_a_delivery_that_was_asked_for_again_between_look_and_claim_was_exhausted_early(stage):
    made = endpoint(stage.receiver.url)
    stage.set_endpoints(made)
    stage.publish(PAID)
    stage.ring()
    stage.receiver.statuses[:] = REFUSE
    (row,) = stage.deliveries()
    with stage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE webhooks.deliveries SET attempts = 9")
    looked = stage.instance.deliver._told

    def look_then_ask_again(*arguments):
        told = looked(*arguments)
        with stage.engine.begin() as connection:
            assert webhook_deliveries.send_again(connection, row.delivery_id, now=stage.now())
        return told

    stage.instance.deliver._told = look_then_ask_again
    stage.instance.deliver.attempt(row.delivery_id, 10)
    (row,) = stage.deliveries()
    assert (row.status, row.attempts, row.attempts_before) == ("pending", 10, 9)
    assert stage.seconds_until(row.next_attempt_at) == FIRST_PAUSE_SECONDS


def test_an_event_type_that_is_deselected_while_its_retry_waits_is_still_delivered(stage):
    """What was in the endpoint's stream stays in it: its chain of sequences has no gap."""
    made = endpoint(stage.receiver.url, event_types=(PAID,))
    stage.set_endpoints(made)
    (before,) = stage.publish(PAID)
    stage.ring()
    stage.receiver.statuses[:] = [500]
    stage.run_tasks()
    stage.set_endpoints(made.model_copy(update={"event_types": ("payment.refunded",)}))
    stage.outlive_the_cache()
    after = stage.publish(PAID, "payment.refunded")
    stage.instance.sweeper.sweep()
    run_all(stage)
    rows = stage.deliveries()
    assert [row.event_id for row in rows] == [before, after[1]]
    assert {row.status for row in rows} == {"delivered"}
    assert rows[1].previous_sequence == rows[0].sequence


def test_a_failing_endpoint_is_walked_no_further_than_its_probes_need(stage, failing):
    """Each sweep wrote the rows of all events for all that fail, and delayed everybody meanwhile."""
    stage.publish(*[PAID] * 3)
    stage.instance.sweeper.sweep()
    walked_to = stage.cursor(failing).sequence
    assert len(waiting(stage)) == 3
    published = stage.publish(*[PAID] * 60)
    stage.ring()
    stage.instance.sweeper.sweep()
    assert stage.cursor(failing).sequence == walked_to
    recover(stage)
    stage.receiver.requests.clear()
    reach_probe(stage, failing)
    run_all(stage)
    sent = [request.headers["webhook-id"] for request in stage.receiver.requests]
    assert len(sent) == len(set(sent)) == FAILURES_BEFORE_PROBING + 3 + 60
    assert set(published) <= set(sent)


def test_a_failing_endpoint_without_a_delivery_that_could_probe_it_gets_one(stage, failing):
    with stage.owner.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE webhooks.deliveries SET status = 'exhausted', next_attempt_at = NULL"
        )
    stage.queue.waiting.clear()
    recover(stage)
    stage.clock.advance(MAX_PROBE_PAUSE_SECONDS)
    (event_id,) = stage.publish(PAID)
    stage.ring()
    run_all(stage)
    assert stage.receiver.requests[-1].headers["webhook-id"] == event_id


def test_an_endpoint_that_is_disabled_while_it_fails_has_all_its_events_held(stage, failing):
    stage.publish(*[PAID] * 3)
    stage.instance.sweeper.sweep()
    stage.publish(*[PAID] * 20)
    stage.disable(failing)
    stage.instance.sweeper.sweep()
    run_all(stage)
    assert [row.status for row in stage.deliveries()].count("held") >= 23


def test_an_endpoint_that_is_mended_while_its_events_are_in_the_feed_gets_them(stage, failing):
    stage.publish(*[PAID] * 3)
    stage.instance.sweeper.sweep()
    published = stage.publish(*[PAID] * 20)
    recover(stage)
    stage.disable(failing)
    stage.enable(failing)
    stage.instance.sweeper.sweep()
    run_all(stage)
    sent = {request.headers["webhook-id"] for request in stage.receiver.requests}
    assert set(published) <= sent
