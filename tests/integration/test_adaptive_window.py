"""The window as the relay and the adapter change it together, on real rows and connections."""

from datetime import timedelta

import pytest
from accepted import LANE, NOW, add_lanes, add_payments, lane_row, scalar, set_lane
from fakes.publisher import CrashError, InMemoryPublisher
from races import InBackground
from sqlalchemy import text

from bridge.clock import ManualClock
from bridge.lane import FailedCall, GuardSettings
from bridge.storage.guard import give_back_slot, keep_settling_slot, note_failure, note_success, take_slot
from bridge.storage.lane_rows import save_lane
from bridge.storage.lanes import lock_lane
from dispatcher.relay import OperationsRelay, RelaySettings

pytestmark = pytest.mark.integration

SETTINGS = RelaySettings(lease_seconds=10.0, max_batch=500, latency_target_seconds=2.0)
GUARD = GuardSettings(3, 1.0, 5.0)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def clock():
    return ManualClock(NOW)


@pytest.fixture
def publisher():
    return InMemoryPublisher()


@pytest.fixture
def owner(database):
    add_lanes(database.engine, s4_main=8)
    return database.engine


@pytest.fixture
def dispatcher(database):
    engine = database.engine_for("dispatcher")
    yield engine
    engine.dispose()


@pytest.fixture
def adapter(database):
    engine = database.engine_for("sap_adapter")
    yield engine
    engine.dispose()


@pytest.fixture
def relay(owner, dispatcher, publisher, clock):
    return OperationsRelay(LANE, dispatcher, publisher, clock, SETTINGS)


def answer(adapter, clock, count, *, latency_ms=100):
    """So many postings are answered, each on the first permit."""
    for number in range(count):
        with adapter.begin() as connection:
            name, now = f"op_{number}", clock.now()
            slot = take_slot(connection, LANE, name, lease_until=now + MINUTE, now=now)
            give_back_slot(
                connection, LANE, slot, name, lease_until=now + MINUTE,
                outcome="posted", success=True, latency_ms=latency_ms, now=now,
            )  # fmt: skip


def refuse(adapter, clock, name="op_refused", retry_after=0.0):
    call = FailedCall(name, clock.now(), is_overload=True, retry_after_seconds=retry_after)
    with adapter.begin() as connection:
        note_failure(connection, LANE, call, GUARD, now=clock.now())


def window(owner):
    return lane_row(owner).call_window


def test_answers_counted_on_the_permits_open_the_window_again_while_the_lane_is_behind(
    owner, relay, adapter, clock
):
    add_payments(owner, 100)
    set_lane(owner, LANE, call_window=1, growth_limit=6)
    windows = []
    for _ in range(4):
        relay.go_round()
        clock.advance(1)
        answer(adapter, clock, 8)
        relay.go_round()
        windows.append(window(owner))
    assert windows == [2, 4, 6, 6]


def test_answers_touch_no_shared_row(owner, adapter, clock):
    """Another transaction holds the lane; no answer of a healthy lane waits for it."""
    with owner.begin() as holder:
        holder.execute(text("SELECT FROM sap_systems FOR NO KEY UPDATE"))
        answer(adapter, clock, 3)
        with adapter.begin() as connection:
            note_success(connection, LANE)
    assert scalar(owner, "SELECT sum(answers) FROM sap_slots") == 3


def test_postings_slower_than_the_target_shrink_the_window_at_the_next_round(owner, relay, adapter, clock):
    add_payments(owner, 100)
    relay.go_round()
    clock.advance(5)
    answer(adapter, clock, 2, latency_ms=3_000)
    relay.go_round()
    assert window(owner) == 4


def test_a_refusal_shrinks_the_window_before_the_relay_has_gone_round(owner, adapter, clock):
    refuse(adapter, clock)
    assert window(owner) == 4
    refuse(adapter, clock, "op_that_began_before")
    assert window(owner) == 4


def test_the_relay_does_not_undo_what_a_refusal_did_while_it_had_the_lane(owner, dispatcher, adapter, clock):
    """The refusal waits for the relay's round, and judges the window that the round has left."""
    set_lane(owner, LANE, call_window=2, growth_limit=8)
    with dispatcher.begin() as connection:
        before = lock_lane(connection, LANE)
        refusal = InBackground(owner, lambda: refuse(adapter, clock))
        refusal.wait_until_blocked()
        save_lane(connection, LANE, before, before.grown(2, clock.now()))
    refusal.result()
    assert window(owner) == 2


def test_a_relay_that_meets_a_refusal_at_the_lane_looks_again_soon(owner, relay, adapter, clock, publisher):
    add_payments(owner, 3)
    with adapter.begin() as connection:
        call = FailedCall("op_refused", clock.now(), is_overload=True)
        note_failure(connection, LANE, call, GUARD, now=clock.now())
        assert relay.go_round().next_seconds is not None
        assert publisher.messages() == []
    relay.go_round()
    assert len(publisher.messages()) == 3


def test_a_lane_whose_permits_all_settled_sent_messages_round_in_circles(owner, relay, publisher, clock):
    """Nobody could call before they had settled, and every message came back for want of a permit."""
    add_payments(owner, 20)
    with owner.begin() as connection:
        for number in range(8):
            keep_settling_slot(connection, LANE, f"op_{number}", settled_at=NOW + 10 * MINUTE, now=NOW)
    relay.go_round()
    assert publisher.messages() == []
    with owner.begin() as connection:
        connection.execute(
            text("UPDATE sap_slots SET lease_until = NULL, settling = false WHERE slot_number = 1")
        )
    relay.go_round()
    assert len(publisher.messages()) == 2, "as many as one permit allows, twice over"


def test_a_relay_that_died_with_the_probe_kept_the_lane_closed_until_the_watchdog_came(
    owner, relay, dispatcher, publisher, clock
):
    add_payments(owner, 3)
    set_lane(owner, LANE, call_window=0, failed_probes=1, probe_not_before=NOW)
    publisher.crashes = True
    with pytest.raises(CrashError):
        relay.go_round()
    publisher.crashes, publisher.batches = False, []
    other = OperationsRelay(LANE, dispatcher, publisher, clock, SETTINGS)
    other.go_round()
    assert publisher.messages() == [], "while the dead relay's lease lives its probe may be on its way"
    clock.advance(SETTINGS.lease_seconds + 1)
    other.go_round()
    assert len(publisher.messages()) == 1


def test_no_permit_is_handed_out_beyond_a_window_that_has_shrunk(owner, adapter, clock):
    with adapter.begin() as connection:
        for number in range(8):
            name = f"op_{number}"
            assert take_slot(connection, LANE, name, lease_until=NOW + MINUTE, now=NOW) == number + 1
    refuse(adapter, clock)
    with adapter.begin() as connection:
        give_back_slot(
            connection, LANE, 8, "op_7", lease_until=NOW + MINUTE,
            outcome="not-posted", success=False, latency_ms=1, now=NOW,
        )  # fmt: skip
        assert take_slot(connection, LANE, "op_8", lease_until=NOW + MINUTE, now=NOW) is None
        give_back_slot(
            connection, LANE, 4, "op_3", lease_until=NOW + MINUTE,
            outcome="posted", success=True, latency_ms=1, now=NOW,
        )  # fmt: skip
        assert take_slot(connection, LANE, "op_8", lease_until=NOW + MINUTE, now=NOW) == 4


def test_how_fast_the_lane_drains_is_measured_while_it_is_behind(owner, relay, adapter, clock):
    add_payments(owner, 60)
    for _ in range(6):
        relay.go_round()
        answer(adapter, clock, 20)
        clock.advance(2)
    relay.go_round()
    assert lane_row(owner).answers_per_second == pytest.approx(10.0)
    assert lane_row(owner).latency_ms == pytest.approx(100.0)
