"""A read side that is later than configured is noticed, told, and waited for."""

import pytest
from posting_stage import LEASE_SECONDS, READ_LAG_SECONDS, SETTLING_SECONDS, make_bridge

from sap_adapter.connector import Posted
from sap_adapter.read_lag import LAGS_BETWEEN_MEASUREMENTS, MAX_LAGS, ReadLag, ReadLagSettings

pytestmark = pytest.mark.integration

LANE = "s4-main"
REFERENCE = "REFERENCE0000001"


@pytest.fixture
def bridge(database):
    engine = database.engine_for("sap_adapter")
    yield make_bridge(database.engine, engine)
    engine.dispose()


@pytest.fixture
def read_lag(bridge):
    settings = ReadLagSettings(READ_LAG_SECONDS, LEASE_SECONDS)
    return ReadLag(
        bridge.service_engine, bridge.sap, bridge.clock, LANE, settings, sleep=bridge.clock.advance
    )


def excess(bridge):
    return bridge.lane().read_lag_excess_seconds


def shown_after(bridge, seconds):
    """Have SAP's read side show everything only that much later than now."""
    visible_at = bridge.clock.monotonic() + seconds
    original = bridge.sap.find

    def find(company_code, reference):
        bridge.sap.hidden = bridge.clock.monotonic() < visible_at
        return original(company_code, reference)

    bridge.sap.find = find


def measure(bridge, read_lag):
    operation_id = bridge.accept()
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    (_, found) = bridge.sap.booked[-1]
    read_lag.measure(found.document, row.sap_reference, bridge.clock.monotonic())


def test_a_read_side_within_its_setting_costs_one_question(bridge, read_lag):
    shown_after(bridge, READ_LAG_SECONDS)
    measure(bridge, read_lag)
    assert (excess(bridge), bridge.sap.questions, bridge.busy_slots()) == (0.0, 1, 0)


def test_a_read_lag_beyond_its_setting_was_told_nobody(bridge, read_lag):
    shown_after(bridge, 3 * READ_LAG_SECONDS)
    measure(bridge, read_lag)
    assert 2 * READ_LAG_SECONDS <= excess(bridge) <= 3 * READ_LAG_SECONDS
    shown_after(bridge, 0)
    measure(bridge, read_lag)
    assert excess(bridge) == 0.0


def test_a_document_that_is_never_shown_is_given_up(bridge, read_lag):
    shown_after(bridge, 10 * MAX_LAGS * READ_LAG_SECONDS)
    measure(bridge, read_lag)
    assert excess(bridge) >= MAX_LAGS * READ_LAG_SECONDS - READ_LAG_SECONDS
    assert bridge.busy_slots() == 0


def test_a_lane_without_a_free_permit_is_not_measured(bridge, read_lag):
    shown_after(bridge, 3 * READ_LAG_SECONDS)
    operation_id = bridge.accept()
    bridge.step(operation_id)
    with bridge.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE sap_systems SET held = true")
    (reference, found) = bridge.sap.booked[-1]
    read_lag.measure(found.document, reference, bridge.clock.monotonic())
    assert (excess(bridge), bridge.sap.questions) == (0.0, 0)


def test_measurements_are_rare(bridge, read_lag, monkeypatch):
    begun = []
    monkeypatch.setattr("sap_adapter.read_lag.threading.Thread", lambda **options: Begun(begun, **options))
    document = Posted(None).document
    read_lag.confirmed(document, REFERENCE)
    read_lag.confirmed(document, REFERENCE)
    assert len(begun) == 1
    read_lag._end()
    bridge.clock.advance(LAGS_BETWEEN_MEASUREMENTS * READ_LAG_SECONDS - 1)
    read_lag.confirmed(document, REFERENCE)
    assert len(begun) == 1
    bridge.clock.advance(1)
    read_lag.confirmed(document, REFERENCE)
    assert len(begun) == 2


class Begun:
    """A thread that was started and does nothing."""

    def __init__(self, begun, **_options):
        self._begun = begun

    def start(self):
        self._begun.append(self)


def resolve(bridge, operation_id, rounds=30):
    for _ in range(rounds):
        row = bridge.row(operation_id)
        if row.status == "succeeded":
            return
        if row.not_before is not None:
            bridge.clock.advance(max((row.not_before - bridge.clock.now()).total_seconds(), 0.0))
        bridge.step(operation_id)


def test_two_nones_of_a_late_read_side_had_the_payment_posted_twice(bridge, read_lag):
    """Settling and two questions a read lag apart take 65 s here, and the document shows after 80 s."""
    late_seconds = SETTLING_SECONDS + 4 * READ_LAG_SECONDS
    shown_after(bridge, late_seconds)
    measure(bridge, read_lag)
    shown_after(bridge, late_seconds)
    operation_id = bridge.accept()
    bridge.sap.script.append("commit-then-drop")
    bridge.step(operation_id)
    resolve(bridge, operation_id)
    assert bridge.row(operation_id).status == "succeeded"
    sent = [sending for sending in bridge.sap.sendings if sending.operation_id == operation_id]
    assert len(sent) == 1


def test_a_document_found_after_a_settled_none_makes_the_next_questions_wait(bridge):
    shown_after(bridge, SETTLING_SECONDS + READ_LAG_SECONDS - 1)
    operation_id = bridge.accept()
    bridge.sap.script.append("commit-then-drop")
    bridge.step(operation_id)
    resolve(bridge, operation_id)
    assert bridge.row(operation_id).status == "succeeded"
    assert READ_LAG_SECONDS <= excess(bridge) <= 2 * READ_LAG_SECONDS


def test_an_outage_between_two_questions_was_taken_for_a_read_lag_of_days(bridge):
    """Every question of the lane then waited for days."""
    visible_after = SETTLING_SECONDS + READ_LAG_SECONDS - 1
    shown_after(bridge, visible_after)
    operation_id = bridge.accept()
    bridge.sap.script.append("commit-then-drop")
    bridge.step(operation_id)
    while bridge.row(operation_id).none_seen_at is None:
        bridge.clock.advance((bridge.row(operation_id).not_before - bridge.clock.now()).total_seconds())
        bridge.step(operation_id)
    bridge.clock.advance(2 * 86_400)
    bridge.step(operation_id)
    assert bridge.row(operation_id).status == "succeeded"
    assert excess(bridge) == MAX_LAGS * READ_LAG_SECONDS


def test_a_read_side_that_lags_was_asked_every_second(bridge):
    with bridge.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE sap_systems SET read_lag_excess_seconds = 1800")
    bridge.sap.hidden = True
    operation_id = bridge.accept()
    bridge.sap.script.append("commit-then-drop")
    bridge.step(operation_id)
    while bridge.row(operation_id).none_seen_at is None:
        bridge.clock.advance((bridge.row(operation_id).not_before - bridge.clock.now()).total_seconds())
        bridge.step(operation_id)
    assert bridge.sap.questions < 20
