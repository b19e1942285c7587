"""A permit covers the call, not what is written down after it: it is free as soon as SAP has answered."""

import threading
from datetime import timedelta

import pytest
from posting_stage import make_bridge
from sqlalchemy import event, text
from waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.integration

ROLE = "sap_adapter"

WAITS = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = :name")


@pytest.fixture
def bridge(database, engine):
    return make_bridge(database.engine, engine)


@pytest.fixture
def called(bridge):
    """An operation whose call is under way, and what ends it."""
    operation_id = bridge.accept()
    bridge.sap.script.append("wait")
    thread = threading.Thread(target=bridge.step, args=(operation_id,))
    thread.start()
    wait_until(lambda: bridge.sap.sendings, what="the call")

    def answer():
        bridge.sap.gate.set()
        return thread

    yield operation_id, answer
    bridge.sap.gate.set()
    thread.join(DEADLINE_SECONDS)


def slots(bridge):
    with bridge.engine.connect() as connection:
        return connection.execute(text("SELECT * FROM sap_slots ORDER BY slot_number")).all()


def test_a_permit_was_kept_until_the_answer_was_recorded(bridge, called):
    operation_id, answer = called
    with bridge.engine.begin() as other:
        other.execute(
            text("SELECT FROM operations WHERE operation_id = :id FOR UPDATE"), {"id": operation_id}
        )
        thread = answer()
        wait_until(lambda: bridge.busy_slots() == 0, what="the permit")
        assert bridge.row(operation_id).status == "processing", "its record waits for our lock"
    thread.join(DEADLINE_SECONDS)
    assert bridge.row(operation_id).status == "succeeded"
    assert sum(slot.answers for slot in slots(bridge)) == 1, "counted once"
    assert bridge.events(operation_id)[-1] == "payment.paid"


def test_a_late_answer_takes_no_permit_from_who_took_the_operation_over(bridge, called):
    """The same operation, the same permit, another claim: the question about the first call."""
    operation_id, answer = called
    theirs = bridge.clock.now() + timedelta(hours=1)
    with bridge.engine.begin() as other:
        other.execute(
            text("UPDATE operations SET dispatch_number = dispatch_number + 2, lease_until = :theirs"),
            {"theirs": theirs},
        )
        taken = other.execute(
            text("UPDATE sap_slots SET lease_until = :theirs WHERE operation_id = :id"),
            {"theirs": theirs, "id": operation_id},
        )
        assert taken.rowcount == 1
    answer().join(DEADLINE_SECONDS)
    [held] = [slot for slot in slots(bridge) if slot.operation_id is not None]
    assert (held.operation_id, held.lease_until) == (operation_id, theirs)
    assert bridge.row(operation_id).status == "processing"
    assert sum(slot.answers for slot in slots(bridge)) == 0


def test_a_permit_that_could_not_be_given_back_at_once_is_given_back_with_the_record(
    bridge, called, engine, database
):
    operation_id, answer = called

    @event.listens_for(engine, "checkout")
    def wait_no_longer(driver, _record, _proxied):
        cursor = driver.cursor()
        cursor.execute("SET lock_timeout = '200ms'")
        cursor.close()
        driver.commit()

    with bridge.engine.connect() as other:
        other.execute(text("SELECT FROM sap_slots FOR UPDATE"))
        answer()
        name = {"name": bridge.engine.url.database}
        with bridge.engine.connect() as watching:
            wait_until(lambda: watching.execute(WAITS, name).scalar() == 1, what="waiting for the permit")
            wait_until(lambda: watching.execute(WAITS, name).scalar() == 0, what="giving up")
        other.rollback()
    wait_until(lambda: bridge.row(operation_id).status == "succeeded", what="the record")
    assert bridge.busy_slots() == 0
    assert sum(slot.answers for slot in slots(bridge)) == 1
