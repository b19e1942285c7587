"""The sweeper: one step, one endpoint or one lost claim stops only itself, and comes back soon."""

from datetime import timedelta

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs
from webhook_stage import Stage, endpoint

from bridge.errors import TransientError
from bridge.storage import webhooks as cursors
from bridge.storage.setbacks import ALARMING_FAILURES
from webhooks import sweeper

pytestmark = pytest.mark.integration

PAID = "payment.paid"


@pytest.fixture
def stage(database, tmp_path):
    made = Stage(database, tmp_path)
    made.set_endpoints(endpoint(made.receiver.url))
    yield made
    made.close()


def lose_tasks(stage):
    stage.queue.waiting.clear()


def timed_out(stage, comment):
    """Have the statement with that comment end as one that ran into the statement timeout."""

    @event.listens_for(stage.engine, "before_cursor_execute", retval=True)
    def slow(_connection, _cursor, statement, parameters, *_rest):
        if comment in statement:
            return "DO $$ BEGIN RAISE EXCEPTION 'planted' USING ERRCODE = '57014'; END $$", ()
        return statement, parameters

    return slow


def test_a_claim_whose_answer_was_lost_waited_for_the_sweepers_doubling(stage):
    """Its lease had ended long ago, which shows that the task is gone."""
    stage.publish(PAID)
    stage.ring()
    for _ in range(4):  # several lost tasks, so that the next wait is long
        lose_tasks(stage)
        stage.clock.advance(sweeper.LONGEST_WAIT_SECONDS)
        stage.instance.sweeper.sweep()
    lease_until = stage.now() + timedelta(seconds=stage.settings.timeout_seconds * 2)
    claim = text("UPDATE webhooks.deliveries SET lease_until = :until, swept_until = NULL")
    with stage.owner.begin() as connection:  # as a claim writes it whose process then died
        connection.execute(claim, {"until": lease_until})
    lose_tasks(stage)
    stage.instance.sweeper.sweep()
    assert stage.queue.waiting == []
    stage.outlive_the_lease()
    stage.instance.sweeper.sweep()
    assert len(stage.queue.waiting) == 1


def test_a_claim_takes_a_delivery_out_of_the_sweepers_line(stage):
    stage.publish(PAID)
    stage.ring()
    lose_tasks(stage)
    stage.outlive_the_grace()
    stage.instance.sweeper.sweep()
    (before,) = stage.deliveries()
    assert before.swept_until is not None
    stage.receiver.status = 500
    stage.run_tasks()
    (after,) = stage.deliveries()
    assert (after.attempts, after.swept_until) == (1, None)


def test_while_the_queue_is_away_no_waits_grow(stage):
    stage.publish(PAID)
    stage.ring()
    lose_tasks(stage)
    stage.queue.failure = TransientError("away")
    for _ in range(100):
        stage.clock.advance(10)
        stage.instance.sweeper.sweep()
    stage.queue.failure = None
    stage.outlive_the_grace()
    stage.instance.sweeper.sweep()
    assert len(stage.queue.waiting) == 1


def test_a_purged_queue_is_filled_again_in_one_sweep(stage, monkeypatch):
    monkeypatch.setattr(sweeper, "MAX_OVERDUE", 2)
    stage.publish(*[PAID] * 7)
    stage.ring()
    lose_tasks(stage)
    stage.outlive_the_grace()
    stage.instance.sweeper.sweep()
    assert len(stage.queue.waiting) == 7


def test_a_step_that_times_out_does_not_end_the_others_and_operators_hear_of_it(stage):
    stage.publish(PAID)
    stage.ring()
    lose_tasks(stage)
    stage.outlive_the_grace()
    planted = timed_out(stage, "deliveries that somebody has asked for")
    lines = []
    for _ in range(ALARMING_FAILURES):
        with capture_logs() as said:
            stage.instance.sweeper.sweep()
        lines += [line for line in said if line.get("loop") == "sweeper"]
        stage.clock.advance(60)
    assert len(stage.queue.waiting) >= 1
    assert {line["item"] for line in lines} == {"wanted deliveries"}
    assert lines[-1]["event"] == "work keeps failing"
    event.remove(stage.engine, "before_cursor_execute", planted)
    stage.instance.sweeper.sweep()


def test_one_endpoint_whose_cursor_is_locked_does_not_keep_its_partners_others_waiting(stage, monkeypatch):
    monkeypatch.setattr(cursors, "LOCK_TIMEOUT_MILLISECONDS", 50)
    locked, well = endpoint(stage.receiver.url), endpoint(stage.receiver.url)
    stage.set_endpoints(locked, well)
    stage.publish(PAID)
    stage.ring()
    stage.publish(PAID)
    with stage.owner.connect() as holder:
        holder.execute(
            text("SELECT FROM webhooks.cursors WHERE endpoint_id = :id FOR UPDATE"),
            {"id": locked.endpoint_id},
        )
        with pytest.raises(DBAPIError):
            stage.instance.fan_out.fan_out(stage.partner_id)
        assert (stage.cursor(locked).sequence, stage.cursor(well).sequence) == (1, 2)
        holder.rollback()
    stage.instance.sweeper.sweep()
    assert stage.cursor(locked).sequence == 2


def test_the_deliveries_of_a_deleted_endpoint_are_read_once(stage, monkeypatch):
    """Each sweep read all that it had ever been sent, for ever."""
    monkeypatch.setattr(sweeper, "MAX_CANCELLED", 2)
    monkeypatch.setattr(sweeper, "MAX_CANCELLED_ROUNDS", 1)
    (gone,) = stage.partner.webhook_endpoints
    stage.publish(*[PAID] * 5)
    stage.ring()
    first, *_ = stage.deliveries()
    running = text("UPDATE webhooks.deliveries SET lease_until = :until WHERE delivery_id = :id")
    with stage.owner.begin() as connection:
        connection.execute(text("UPDATE webhooks.cursors SET status = 'deleted'"))
        connection.execute(running, {"id": first.delivery_id, "until": stage.now() + timedelta(seconds=30)})
    for _ in range(6):
        stage.instance.sweeper._sweep_deleted()
    assert stage.cursor(gone).cancelled_to == "", "an attempt runs at the first one"
    stage.clock.advance(31)
    for _ in range(12):
        stage.instance.sweeper._sweep_deleted()
    assert {delivery.status for delivery in stage.deliveries()} == {"cancelled"}
    assert stage.cursor(gone).cancelled_to is None
    reads = []
    event.listen(stage.engine, "before_cursor_execute", lambda *call: reads.append(call[2]))
    stage.instance.sweeper._sweep_deleted()
    assert not any("whatever has become of them" in statement for statement in reads)
