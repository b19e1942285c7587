"""Between a restore and the end of its recovery nobody decides on what the restore has taken away."""

import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from fakes.accepted import PARTNER_ID
from restore_stage import SETTLING_SECONDS
from sqlalchemy import create_engine, text
from waiting import DEADLINE_SECONDS

from bridge.errors import RecoveryDueError, RejectedError
from bridge.money import Money
from bridge.payment import SapDocument
from bridge.storage.delays import tell_delay
from bridge.storage.feed import feed_head, feed_page, sequence_events
from bridge.storage.recovered import FEED_JUMP
from bridge.storage.restores import (
    IS_RECOVERED,
    hold_lanes_of_a_restored_database,
    require_recovered,
)
from bridge.web.problems import problem_of
from dispatcher.sequencer import Sequencer

pytestmark = pytest.mark.integration

ALL_OPERATOR_DECISIONS = [
    ("park", {}), ("redrive", {}), ("redrive", {"remap": True}), ("reject", {})
]  # fmt: skip


@pytest.fixture
def lost(restorable, bridge):
    """A payment that SAP has booked, in a database that does not know it."""
    operation_id = bridge.accept()
    restorable.back_up()
    bridge.step(operation_id)
    restorable.restore()
    restorable.lose_home()
    return bridge.row(operation_id)


def number_events(restorable):
    Sequencer(restorable.dispatcher, lambda: None).go_round()


def test_a_cancellation_ended_what_sap_had_booked(restorable, bridge, lost):
    with pytest.raises(RecoveryDueError):
        restorable.cancel(lost.payment_id)
    restorable.recover()
    restorable.let_all_go_on()
    assert bridge.row(lost.operation_id).payment_status == "paid"
    with pytest.raises(RejectedError) as refused:
        restorable.cancel(lost.payment_id)
    assert refused.value.status == 409


@pytest.mark.parametrize(("action", "body"), ALL_OPERATOR_DECISIONS)
def test_an_operator_decided_about_what_sap_had_booked(restorable, bridge, lost, action, body):
    answer = restorable.stage.post(f"/admin/payments/{lost.operation_id}/{action}", body)
    assert (answer.status_code, answer.json["reason"]) == (503, "recovery-due")
    assert int(answer.headers["Retry-After"]) > 0
    restorable.recover()
    restorable.let_all_go_on()
    assert bridge.row(lost.operation_id).payment_status == "paid"


def test_a_later_step_was_accepted_by_amounts_that_are_no_longer_true(restorable, bridge):
    first = bridge.accept()
    bridge.step(first)
    with bridge.engine.begin() as connection:
        connection.execute(text("UPDATE payments SET receipt = 'signed'"))
    restorable.back_up()
    bridge.step(bridge.queue(first, "refund", 100000))
    restorable.restore()
    restorable.lose_home()
    payment_id = bridge.row(first).payment_id
    with pytest.raises(RecoveryDueError):
        restorable.operate(payment_id, "refund", Money(50000, "EUR"))
    restorable.recover()
    # the lost refund counts as soon as it is known, before SAP has confirmed it
    with pytest.raises(RejectedError) as refused:
        restorable.operate(payment_id, "refund", Money(50000, "EUR"))
    assert refused.value.status == 409
    restorable.operate(payment_id, "refund", Money(25000, "EUR"))
    restorable.let_all_go_on()
    assert bridge.row(first).refunded_minor == 125000


def test_a_payment_that_was_lost_was_said_not_to_exist(restorable, bridge):
    restorable.back_up()
    payment_id = bridge.row(bridge.accept()).payment_id
    restorable.restore()
    with pytest.raises(RejectedError) as refused:
        restorable.cancel(payment_id)
    assert refused.value.status == 404
    restorable.lose_home()
    with pytest.raises(RecoveryDueError):
        restorable.cancel(payment_id)


def test_the_partner_is_told_when_to_repeat_and_why():
    problem = problem_of(RecoveryDueError())
    assert (problem.slug, problem.status, problem.members["reason"]) == ("unavailable", 503, "recovery-due")
    assert int(problem.headers["Retry-After"]) >= 30


@pytest.mark.parametrize("sign", ["another cluster", "tripped", "recovery runs"])
def test_every_service_sees_every_sign(restorable, bridge, sign):
    restorable.back_up()
    if sign == "another cluster":
        restorable.lose_home()
    elif sign == "tripped":
        with bridge.engine.begin() as connection:
            connection.execute(
                text("UPDATE database_identity SET suspected_at = :now"), {"now": bridge.clock.now()}
            )
    else:
        restorable.begin()
    services = (
        restorable.gateway, restorable.stage.engine, restorable.dispatcher,
        restorable.webhooks, bridge.service_engine,
    )  # fmt: skip
    for engine in services:
        with engine.begin() as connection, pytest.raises(RecoveryDueError):
            require_recovered(connection)
    if sign != "recovery runs":
        assert restorable.begin().status_code == 201
    assert restorable.job().run()
    for engine in services:
        with engine.begin() as connection:
            require_recovered(connection)


def test_a_recovery_begins_after_what_is_being_decided_and_before_what_comes_next(restorable, bridge):
    """On a database that nobody has noticed to be restored, begun by an operator."""
    restorable.back_up()
    begun = threading.Event()

    def begin():
        restorable.begin()
        begun.set()

    thread = threading.Thread(target=begin)
    with restorable.stage.engine.begin() as deciding:
        require_recovered(deciding)
        thread.start()
        assert not begun.wait(0.3)
    assert begun.wait(DEADLINE_SECONDS)
    thread.join()
    with bridge.engine.begin() as connection, pytest.raises(RecoveryDueError):
        require_recovered(connection)


def test_feed_numbers_were_given_twice_before_the_recovery_had_begun(restorable, bridge):
    bridge.step(bridge.accept())
    number_events(restorable)
    restorable.back_up()
    for _ in range(3):
        bridge.step(bridge.accept())
    number_events(restorable)
    with bridge.engine.begin() as connection:
        seen = {
            event.sequence: event.event_id for event in feed_page(connection, PARTNER_ID, after=0, limit=100)
        }
    restorable.restore()
    restorable.lose_home()
    hold_lanes_of_a_restored_database(restorable.dispatcher)
    # a delay is told while nobody has begun the recovery
    waiting = bridge.accept()
    with bridge.engine.begin() as connection:
        tell_delay(connection, waiting, now=bridge.clock.now())
    number_events(restorable)
    restorable.recover()
    restorable.let_all_go_on()
    number_events(restorable)
    with bridge.engine.begin() as connection:
        after = feed_page(connection, PARTNER_ID, after=max(seen), limit=1000)
        everything = feed_page(connection, PARTNER_ID, after=0, limit=1000)
    assert [one for one in everything if seen.get(one.sequence, one.event_id) != one.event_id] == []
    fresh = {one.event_id for one in everything} - set(seen.values())
    assert fresh
    assert fresh <= {one.event_id for one in after}


def test_a_second_restore_gave_the_numbers_of_the_first_recovery_again(restorable, bridge):
    """The wrong backup was put back first: its recovery has told events above its jump already."""
    bridge.step(bridge.accept())
    number_events(restorable)
    restorable.back_up()
    heads = []
    for _ in range(2):
        restorable.restore()
        restorable.recover()
        bridge.step(bridge.accept())
        number_events(restorable)
        with bridge.engine.begin() as connection:
            heads.append(feed_head(connection, PARTNER_ID))
    first, second = heads
    assert second.epoch > first.epoch > 1
    assert second.jumped_to > first.last_sequence > first.jumped_to > FEED_JUMP


def test_a_partner_that_the_backup_did_not_know_began_at_one_again(restorable, bridge):
    restorable.back_up()
    restorable.restore()
    restorable.recover()
    with bridge.engine.begin() as connection:
        connection.execute(text("UPDATE partner_configs SET partner_id = 'par_other'"))
        connection.execute(text("DELETE FROM feed_counters"))
    bridge.step(bridge.accept())
    with restorable.dispatcher.begin() as connection:
        sequence_events(connection, PARTNER_ID, limit=100)
    with bridge.engine.begin() as connection:
        head = feed_head(connection, PARTNER_ID)
    assert head.epoch > 1
    assert head.last_sequence > head.jumped_to > FEED_JUMP


def test_a_held_lane_s_operation_is_put_back_and_not_judged(restorable, bridge):
    """It would have been parked because of a state that the restore has made out of date."""
    first = bridge.accept()
    bridge.step(first)
    refund = bridge.queue(first, "refund", 200000)
    restorable.stage.post("/admin/lanes/s4-main/hold")
    bridge.step(refund)
    row = bridge.row(refund)
    assert (row.status, row.parked_reason) == ("accepted", None)
    assert row.not_before is not None


@pytest.mark.parametrize("end", ["cancelled", "rejected"])
def test_a_document_of_an_operation_that_had_ended_was_passed_over(restorable, bridge, end):
    """The restore was not noticed: a plain copy of the data files, started where it was."""
    operation_id = bridge.accept()
    restorable.back_up()
    bridge.step(operation_id)
    restorable.restore()
    if end == "cancelled":
        restorable.cancel(bridge.row(operation_id).payment_id)
    else:
        assert restorable.stage.act(operation_id, "reject") == "rejected"
    restorable.recover()
    (document,) = restorable.unplaced()
    assert (document["number"], document["reason"]) == ("1400000001", "booked-though-ended")
    assert document["sap_reference"] == bridge.row(operation_id).sap_reference


def test_a_second_document_of_one_operation_was_passed_over(restorable, bridge):
    restorable.back_up()
    bridge.step(bridge.accept())
    restorable.restore()
    posted = bridge.sap.posted
    restorable.recover()
    restorable.let_all_go_on()
    found = replace(posted[0].found, document=SapDocument("1000", "2026", "1400009999"))
    posted.append(replace(posted[0], found=found))
    restorable.back_up()
    restorable.restore()
    restorable.recover()
    assert [(one["number"], one["reason"]) for one in restorable.unplaced()] == [
        ("1400009999", "second-document")
    ]


def test_lanes_stayed_held_when_the_recovery_ended_while_a_connection_was_made(restorable, bridge):
    """The new connection had looked whether one was due, and held the lanes after they were released."""
    restorable.back_up()
    restorable.begin()
    ends = [lambda: restorable.job().run()]
    fairy = restorable.dispatcher.raw_connection()
    driver_connection = fairy.driver_connection
    fairy.detach()
    url = restorable.dispatcher.url
    engine = create_engine(url, creator=lambda: Interrupted(driver_connection, ends))
    hold_lanes_of_a_restored_database(engine)
    with engine.connect():
        pass
    engine.dispose()
    assert ends == []
    assert (bridge.lane().held, bridge.lane().held_by) == (False, None)


class Interrupted:
    """A connection of the driver: something happens after it has looked whether a recovery is due."""

    def __init__(self, driver_connection, steps):
        self._it, self._steps = driver_connection, steps

    def cursor(self):
        return InterruptedCursor(self._it.cursor(), self._steps)

    def __getattr__(self, name):
        return getattr(self._it, name)


class InterruptedCursor:
    def __init__(self, cursor, steps):
        self._it, self._steps, self._looked = cursor, steps, False

    def execute(self, statement, *arguments):
        self._looked = statement == IS_RECOVERED
        return self._it.execute(statement, *arguments)

    def fetchone(self):
        row = self._it.fetchone()
        if self._looked:
            self._steps.pop()()
        return row

    def __getattr__(self, name):
        return getattr(self._it, name)


def test_a_call_that_ran_when_the_recovery_began_settled_too_early(restorable, bridge):
    """SAP may book it for the settling time after the call, not after the beginning of the recovery."""
    operation_id = bridge.accept()
    restorable.back_up()
    post, seen = bridge.sap.post, []

    def recovered_meanwhile(sending):
        restorable.begin()
        seen.append(bridge.row(operation_id).lease_until)
        assert restorable.job().run()
        return post(sending)

    bridge.sap.post = recovered_meanwhile
    bridge.sap.script.append("drop")
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.sent_unresolved) == ("unknown", True)
    assert row.settled_at == seen[0] + timedelta(seconds=SETTLING_SECONDS)
