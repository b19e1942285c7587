"""The gauges of the state: what the backoffice tells of lanes, outbox, feed, webhooks and dead letters."""

from datetime import timedelta

import pytest
from accepted import LANE, NOW, add_lanes, add_payments, change, set_lane
from sqlalchemy import create_engine, event, text

from backoffice.state_metrics import NAMES, READ_INTERVAL_SECONDS, StateMetrics
from bridge.clock import ManualClock
from bridge.lane import FailedCall, GuardSettings, Lane
from bridge.metrics import catalogue
from bridge.storage.lane_rows import save_lane
from bridge.storage.outcomes import record_still_unknown, record_unknown

pytestmark = pytest.mark.integration

SETTLING_SECONDS = 60.0


@pytest.fixture
def clock():
    return ManualClock(NOW)


@pytest.fixture
def owner(database):
    add_lanes(database.engine, s4_main=4, s4_second=2)
    return database.engine


@pytest.fixture
def state(database, owner, clock):
    """Read with the rights of the operators' API."""
    engine = database.engine_for("backoffice")
    yield StateMetrics(engine, clock, settling_seconds=SETTLING_SECONDS)
    engine.dispose()


def figure(state, name, /, **attributes):
    [value] = [
        value
        for value, of in state.read()[f"bridge.{name}"]
        if of == {f"bridge.{key}": text for key, text in attributes.items()}
    ]
    return value


def test_every_gauge_that_is_listed_is_told_of_an_idle_bridge_with_its_attributes(state):
    # each process tells its own clock, the dispatcher its mark's age; the backoffice tells what all share
    listed = {
        name: metric
        for name, metric in catalogue().items()
        if metric.instrument == "gauge" and not name.startswith(("bridge.clock.", "bridge.mark."))
    }
    assert set(NAMES) == set(listed)
    for name, figures in state.read().items():
        assert figures, name
        assert all(set(attributes) == set(listed[name].attributes) for _, attributes in figures), name
    assert figure(state, "lane.window", lane=LANE) == 4
    assert figure(state, "lane.state", lane=LANE, state="open") == 1
    assert {name for name, figures in state.read().items() if any(value for value, _ in figures)} == {
        "bridge.lane.window",
        "bridge.lane.state",
    }


def test_what_waits_is_told_by_lane_with_its_age(state, owner, clock):
    add_payments(owner, 3)
    clock.advance(90)
    assert figure(state, "outbox.depth", lane=LANE) == 3
    assert figure(state, "outbox.age", lane=LANE) == 90
    assert figure(state, "outbox.depth", lane="events") == 3
    assert figure(state, "outbox.age", lane="events") == 90
    assert figure(state, "feed.lag") == 90
    assert figure(state, "outbox.depth", lane="s4-second") == 0


def test_a_closed_lane_has_no_age_but_a_time_for_which_it_has_been_closed(state, owner, clock):
    add_payments(owner, 1)
    lane = Lane(hard_cap=4, call_window=4)
    guard = GuardSettings(1, probe_interval_seconds=1.0, max_probe_interval_seconds=2.0)
    closed = lane.after_failure(FailedCall("op_1", NOW, is_overload=False), guard, NOW)
    # a probe that fails later closes nothing anew
    later = NOW + timedelta(seconds=30)
    closed = closed.probing().after_failure(FailedCall("op_2", later, is_overload=False), guard, later)
    with owner.begin() as connection:
        save_lane(connection, LANE, lane, closed)
    clock.advance(70)
    assert figure(state, "lane.state", lane=LANE, state="closed") == 1
    assert figure(state, "lane.closed.time", lane=LANE) == 70
    assert figure(state, "outbox.age", lane=LANE) == 0
    # somebody knows of it
    set_lane(owner, LANE, held=True)
    clock.advance(READ_INTERVAL_SECONDS)
    assert figure(state, "lane.closed.time", lane=LANE) == 0
    assert closed.probing().after_success().closed_at is None


def test_an_operation_is_unknown_since_its_call_was_lost_however_often_sap_is_asked(state, owner, clock):
    [first, _second] = add_payments(owner, 2)
    lost_at = NOW + timedelta(seconds=10)
    with owner.begin() as connection:
        settled_at = lost_at + timedelta(seconds=SETTLING_SECONDS)
        record_unknown(connection, first, settled_at=settled_at, counted=False, now=lost_at)
        asked_at = NOW + timedelta(seconds=200)
        record_still_unknown(connection, first, none_seen_at=None, now=asked_at)
    clock.advance(310)
    assert figure(state, "operation.unknown", lane=LANE) == 1
    assert figure(state, "operation.unknown.age", lane=LANE) == 300


def test_what_is_parked_waits_for_an_operator_unless_one_holds_its_partner(state, owner):
    [mapping, held] = add_payments(owner, 2)
    change(owner, mapping, status="parked", parked_reason="mapping")
    change(owner, held, status="parked", parked_reason="partner-held")
    assert figure(state, "operation.parked") == 1


def add_endpoint(owner, endpoint_id):
    statement = text("""
        INSERT INTO webhooks.cursors (endpoint_id, partner_id, sequence, status, configuration_version,
                                      created_at)
        VALUES (:endpoint_id, 'par_1', 0, 'enabled', 1, :now)
    """)
    with owner.begin() as connection:
        connection.execute(statement, {"endpoint_id": endpoint_id, "now": NOW})


def add_delivery(owner, delivery_id, endpoint_id, *, task, due_at):
    statement = text("""
        INSERT INTO webhooks.deliveries (delivery_id, endpoint_id, partner_id, sequence, previous_sequence,
                                         status, task, next_attempt_at, created_at)
        VALUES (:delivery_id, :endpoint_id, 'par_1', 0, 0, 'pending', :task, :due_at, :now)
    """)
    with owner.begin() as connection:
        values = {"delivery_id": delivery_id, "endpoint_id": endpoint_id, "task": task, "due_at": due_at}
        connection.execute(statement, values | {"now": NOW})


def test_a_delivery_is_overdue_from_its_time_on(state, owner, clock):
    add_endpoint(owner, "whe_1")
    add_delivery(owner, "dlv_1", "whe_1", task="made", due_at=NOW + timedelta(seconds=30))
    assert figure(state, "webhook.delivery.age") == 0
    clock.advance(45)
    assert figure(state, "webhook.delivery.age") == 15


def test_a_turn_that_nobody_called_any_more_was_not_told(state, owner, clock):
    """What waits for a turn has no task. It counts only where no task of its partner will call it."""
    for endpoint_id in ("whe_1", "whe_2"):
        add_endpoint(owner, endpoint_id)
    add_delivery(owner, "dlv_1", "whe_1", task="made", due_at=NOW + timedelta(seconds=30))
    add_delivery(owner, "dlv_2", "whe_2", task="waiting", due_at=NOW)
    clock.advance(20)
    assert figure(state, "webhook.delivery.age") == 0
    with owner.begin() as connection:
        connection.execute(text("DELETE FROM webhooks.deliveries WHERE delivery_id = 'dlv_1'"))
    clock.advance(READ_INTERVAL_SECONDS)
    assert figure(state, "webhook.delivery.age") == 20 + READ_INTERVAL_SECONDS
    with owner.begin() as connection:
        connection.execute(text("UPDATE webhooks.cursors SET probe_at = :at"), {"at": NOW})
    clock.advance(READ_INTERVAL_SECONDS)
    assert figure(state, "webhook.delivery.age") == 0, "a failing endpoint is probed"


def test_the_database_is_asked_no_more_often_than_the_interval(state, owner, clock):
    assert figure(state, "outbox.depth", lane=LANE) == 0
    add_payments(owner, 1)
    clock.advance(READ_INTERVAL_SECONDS - 0.1)
    assert figure(state, "outbox.depth", lane=LANE) == 0
    clock.advance(0.1)
    assert figure(state, "outbox.depth", lane=LANE) == 1


def test_a_slow_database_was_asked_anew_for_each_name(state, owner, clock):
    """Each of them found the figures old, which had taken longer than they are good for."""
    reads = []

    @event.listens_for(state._engine, "before_cursor_execute")
    def take_long(_connection, _cursor, statement, *_rest):
        reads.append(statement)
        clock.advance(READ_INTERVAL_SECONDS)

    for name in NAMES:
        assert name in state.read()
    assert len(reads) == len(set(reads))


def test_while_the_database_is_away_nothing_is_told(clock):
    nobody = create_engine("postgresql+pg8000://nobody@127.0.0.1:1/nothing", hide_parameters=True)
    assert StateMetrics(nobody, clock, settling_seconds=SETTLING_SECONDS).read() == {}
