"""What operators are told of a lane, on real rows."""

from datetime import timedelta

import pytest
from accepted import LANE, NOW, OTHER_LANE, add_lanes, add_payments, change, set_lane
from sqlalchemy import text

from bridge.storage.guard import give_back_slot, keep_settling_slot, take_slot
from bridge.storage.lane_figures import LaneState, lane_figures

pytestmark = pytest.mark.integration


@pytest.fixture
def owner(database):
    add_lanes(database.engine, s4_main=4, s4_second=2)
    return database.engine


@pytest.fixture
def figures(database, owner):
    """Read with the rights of the operators' API."""
    engine = database.engine_for("backoffice")

    def read(lane=LANE, now=NOW):
        with engine.connect() as connection:
            return next(found for found in lane_figures(connection, now) if found.sap_system == lane)

    yield read
    engine.dispose()


def test_an_idle_lane_is_open_and_has_nothing_to_drain(figures):
    found = figures()
    assert (found.state, found.hard_cap, found.call_window) == (LaneState.OPEN, 4, 4)
    assert (found.backlog, found.calls, found.settling, found.oldest_due_at) == (0, 0, 0, None)
    assert found.drain_seconds == 0.0
    assert found.oldest_age(NOW) is None


def test_the_backlog_is_what_is_due_or_dispatched_and_not_what_waits_for_its_day(owner, figures):
    old = NOW - timedelta(minutes=7)
    add_payments(owner, 3, "par_a", now=old)
    add_payments(owner, 2, "par_b")
    add_payments(
        owner, 4, status="scheduled", execution_date="2026-12-01", not_before=NOW + timedelta(days=3)
    )
    [dispatched] = add_payments(owner, 1, row=False)
    change(owner, dispatched, dispatched_at=NOW)
    [being_published] = add_payments(owner, 1)
    change(owner, being_published, dispatched_at=NOW)
    add_payments(owner, 5, lane=OTHER_LANE)
    found = figures()
    assert found.backlog == 7
    assert found.oldest_age(NOW) == timedelta(minutes=7)
    assert figures(OTHER_LANE).backlog == 5


def test_calls_and_permits_kept_for_lost_calls_are_told_apart(owner, figures):
    with owner.begin() as connection:
        for operation_id in ("op_a", "op_b"):
            take_slot(connection, LANE, operation_id, lease_until=NOW + timedelta(minutes=1), now=NOW)
        give_back_slot(
            connection, LANE, 2, "op_b", lease_until=NOW + timedelta(minutes=1),
            outcome="unknown", success=False, latency_ms=900, now=NOW,
        )  # fmt: skip
        keep_settling_slot(connection, LANE, "op_b", settled_at=NOW + timedelta(minutes=11), now=NOW)
    found = figures()
    assert (found.calls, found.settling) == (1, 1)
    assert figures(now=NOW + timedelta(minutes=5)).calls == 0


def test_a_permit_that_settled_and_is_taken_again_is_a_call(owner, figures):
    with owner.begin() as connection:
        keep_settling_slot(connection, OTHER_LANE, "op_a", settled_at=NOW, now=NOW - timedelta(minutes=1))
        for operation_id in ("op_b", "op_c"):
            take_slot(connection, OTHER_LANE, operation_id, lease_until=NOW + timedelta(minutes=1), now=NOW)
    found = figures(OTHER_LANE)
    assert (found.calls, found.settling) == (2, 0)


def test_only_clear_answers_to_postings_are_counted_for_rate_and_latency(owner):
    with owner.begin() as connection:
        for outcome in (
            "posted",
            "refused",
            "unknown",
            "not-posted",
            "asked",
            "question-failed",
            "not-called",
        ):
            slot = take_slot(connection, LANE, "op_a", lease_until=NOW + timedelta(minutes=1), now=NOW)
            give_back_slot(
                connection, LANE, slot, "op_a", lease_until=NOW + timedelta(minutes=1),
                outcome=outcome, success=False, latency_ms=100, now=NOW,
            )  # fmt: skip
        counted = connection.execute(text("SELECT sum(answers), sum(latency_ms_sum) FROM sap_slots")).one()
    assert counted == (2, 200)


@pytest.mark.parametrize(
    ("columns", "state"),
    [
        ({"call_window": 3}, LaneState.OPEN),
        ({"call_window": 1}, LaneState.OPEN),
        ({"call_window": 1, "failed_probes": 2}, LaneState.PROBING),
        ({"call_window": 0, "failed_probes": 2, "probe_not_before": NOW}, LaneState.CLOSED),
        ({"call_window": 0, "failed_probes": 2, "held": True}, LaneState.HELD),
    ],
)
def test_when_the_backlog_will_be_done_is_known_of_an_open_lane_that_was_measured(
    owner, figures, columns, state
):
    add_payments(owner, 30)
    set_lane(owner, LANE, **columns)
    assert (figures().state, figures().drain_seconds) == (state, None)
    set_lane(owner, LANE, answers_per_second=2.5)
    assert figures().drain_seconds == (12.0 if state == LaneState.OPEN else None)
