"""A message that finds no permit waits a moment, holding nothing, and takes the next that comes free."""

import threading
from datetime import timedelta

import pytest
from posting_stage import make_bridge
from sqlalchemy import text
from waiting import DEADLINE_SECONDS, wait_until

from sap_adapter.permits import PAUSE_SECONDS, PermitQueue

pytestmark = pytest.mark.integration

LANE = "s4-main"


class WaitingPermits(PermitQueue):
    """Tells when somebody waits, and waits for as long as the test likes."""

    def __init__(self, max_waiting=1):
        super().__init__(max_waiting)
        self.waiting = threading.Event()
        self.go_on = threading.Event()

    def wait(self):
        self.waiting.set()
        assert self.go_on.wait(DEADLINE_SECONDS)
        return True

    def freed(self):
        super().freed()
        self.go_on.set()


@pytest.fixture
def bridge(database):
    made = make_bridge(database.engine)
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE sap_systems SET call_window = 1"))
    return made


def handle(bridge, operation_id):
    thread = threading.Thread(target=bridge.posting.handle, args=(bridge.dispatch(operation_id),))
    thread.start()
    return thread


def test_the_next_message_takes_the_permit_as_soon_as_it_is_free_and_never_beside_the_first(bridge):
    permits = bridge.permits[LANE] = WaitingPermits()
    first, second = bridge.accept(), bridge.accept()
    bridge.sap.script.append("wait")
    calls = [handle(bridge, first)]
    wait_until(lambda: bridge.busy_slots() == 1, what="the first call")
    calls.append(handle(bridge, second))
    assert permits.waiting.wait(DEADLINE_SECONDS)
    assert bridge.row(second).dispatch_number == 1, "nothing is claimed while it waits"
    bridge.sap.gate.set()
    for call in calls:
        call.join(DEADLINE_SECONDS)
    assert [bridge.row(each).status for each in (first, second)] == ["succeeded"] * 2
    assert bridge.sap.max_in_flight == 1


def test_who_waited_in_vain_goes_back_to_the_lane(bridge):
    permits = bridge.permits[LANE] = WaitingPermits()
    permits.go_on.set()
    first, second = bridge.accept(), bridge.accept()
    bridge.sap.script.append("wait")
    call = handle(bridge, first)
    wait_until(lambda: bridge.busy_slots() == 1, what="the first call")
    bridge.step(second)
    assert bridge.row(second).status == "accepted"
    assert bridge.row(second).not_before is not None
    bridge.sap.gate.set()
    call.join(DEADLINE_SECONDS)


def test_what_was_dispatched_anew_during_the_wait_is_left_to_the_newer_message(bridge):
    permits = bridge.permits[LANE] = WaitingPermits()
    first, second = bridge.accept(), bridge.accept()
    bridge.sap.script.append("wait")
    calls = [handle(bridge, first)]
    wait_until(lambda: bridge.busy_slots() == 1, what="the first call")
    calls.append(handle(bridge, second))
    assert permits.waiting.wait(DEADLINE_SECONDS)
    newer = bridge.dispatch(second)
    bridge.sap.gate.set()
    for call in calls:
        call.join(DEADLINE_SECONDS)
    assert bridge.row(second).status == "accepted"
    bridge.posting.handle(newer)
    assert bridge.row(second).status == "succeeded"
    assert len(bridge.sap.sendings) == 2


def test_no_more_wait_than_there_are_places_for():
    permits = PermitQueue(1)
    inside = threading.Thread(target=permits.wait)
    with permits._freed:
        inside.start()
        wait_until(lambda: permits._places._value == 0, what="one who waits")
        assert permits.wait() is False
    permits.freed()
    inside.join(DEADLINE_SECONDS)


def test_while_sap_hung_what_found_no_permit_came_back_four_times_a_second(bridge):
    """Each time was two claims, a publish and a push: it kept the others of the process waiting."""
    bridge.permits[LANE] = PermitQueue(1)
    first, second = bridge.accept(), bridge.accept()
    bridge.sap.script.append("wait")
    call = handle(bridge, first)
    wait_until(lambda: bridge.busy_slots() == 1, what="the first call")
    pauses = []
    for _ in range(6):
        bridge.step(second)
        pause_seconds = (bridge.row(second).not_before - bridge.clock.now()).total_seconds()
        pauses.append(pause_seconds)
        bridge.clock.advance(pause_seconds)
    assert pauses == [0.25, 0.25, 0.5, 1.0, 2.0, 2.0]
    bridge.sap.gate.set()
    call.join(DEADLINE_SECONDS)
    bridge.step(second)
    assert bridge.row(second).status == "succeeded"


def test_a_lane_that_had_nothing_to_do_for_an_hour_was_taken_for_one_that_hangs(bridge):
    bridge.permits[LANE] = PermitQueue(1)
    first, second = bridge.accept(), bridge.accept()
    bridge.step(first)
    bridge.clock.advance(3600)
    elsewhere = {"lease_until": bridge.clock.now() + timedelta(minutes=1)}
    with bridge.engine.begin() as connection:
        connection.execute(
            text("UPDATE sap_slots SET operation_id = 'op_elsewhere', lease_until = :lease_until"), elsewhere
        )
    bridge.step(second)
    assert bridge.row(second).not_before == bridge.clock.now() + timedelta(seconds=PAUSE_SECONDS)
