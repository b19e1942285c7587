"""The guard's decisions, without a database: room, probes, the law of the window, and a simulated SAP."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lane_simulation import GUARD, SimulatedLane, SimulatedSap

from bridge.lane import GROWTH_PAUSE_SECONDS, GUESS_PAUSE_SECONDS, Answers, FailedCall, Lane, Rate

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(seconds=1)
SECOND = timedelta(seconds=1)


def refused(name="op_a", began_at=NOW, retry_after=0.0):
    return FailedCall(name, began_at, is_overload=True, retry_after_seconds=retry_after)


def lost(name="op_a", began_at=NOW):
    return FailedCall(name, began_at, is_overload=False)


def look(lane, answers, *, now=NOW, latency_ms=100, is_behind=True, target=5.0):
    """Let the guard see so many more answers."""
    seen = Answers(lane.folded.count + answers, lane.folded.latency_ms + answers * latency_ms)
    return lane.folded_with(seen, is_behind=is_behind, latency_target_seconds=target, now=now)


@pytest.mark.parametrize(
    ("lane", "out", "calls", "settling", "room"),
    [
        (Lane(4, 4), 0, 0, 0, 8),
        (Lane(4, 4), 3, 2, 0, 3),
        (Lane(4, 4), 8, 4, 0, 0),
        (Lane(4, 1), 0, 0, 0, 2),
        (Lane(4, 1, failed_probes=1), 0, 0, 0, 1),
        (Lane(4, 1, failed_probes=1), 1, 0, 0, 0),
        (Lane(4, 1, failed_probes=1), 0, 1, 0, 0),
        (Lane(4, 1, failed_probes=1), 0, 0, 1, 0),
        (Lane(4, 0, failed_probes=1), 0, 0, 0, 0),
        (Lane(4, 4, held=True), 0, 0, 0, 0),
        (Lane(4, 4), 0, 0, 3, 2),
        (Lane(4, 4, latency_ms=50.0), 0, 0, 0, 8),
        (Lane(4, 4, latency_ms=400.0), 0, 0, 0, 6),
        (Lane(4, 4, latency_ms=30_000.0), 0, 0, 0, 5),
        (Lane(4, 4), 0, 0, 4, 0),
    ],
)
def test_room_is_what_can_call_and_can_call_soon_less_what_is_out_and_one_while_half_open(
    lane, out, calls, settling, room
):
    assert lane.room(out=out, calls=calls, settling=settling) == room


@given(
    window=st.integers(0, 256),
    probes=st.integers(0, 9),
    out=st.integers(0, 600),
    calls=st.integers(0, 256),
    settling=st.integers(0, 256),
)
def test_room_never_lets_more_than_twice_the_window_be_on_its_way(window, probes, out, calls, settling):
    room = Lane(256, window, failed_probes=probes).room(out=out, calls=calls, settling=settling)
    assert room >= 0
    assert room == 0 or out + calls + room <= 2 * window
    assert room == 0 or settling < window


@pytest.mark.parametrize(
    ("lane", "is_due"),
    [
        (Lane(4, 0, probe_not_before=NOW, failed_probes=1), True),
        (Lane(4, 0, failed_probes=1), True),
        (Lane(4, 0, probe_not_before=LATER, failed_probes=1), False),
        (Lane(4, 0, probe_not_before=NOW, held=True), False),
        (Lane(4, 1, probe_not_before=NOW, failed_probes=1), False),
        (Lane(4, 4), False),
    ],
)
def test_a_probe_is_due_when_the_circuit_is_open_and_its_time_has_come(lane, is_due):
    assert lane.is_probe_due(NOW) is is_due


def test_a_circuit_opened_by_hand_is_probed_by_one_call_too():
    assert Lane(4, 0).probing().room(out=0, calls=0, settling=0) == 1


def test_a_refusal_halves_the_window_once_for_all_the_calls_that_had_begun_before():
    lane = Lane(16, 16)
    for number in range(8):
        lane = lane.after_failure(refused(f"op_{number}"), GUARD, LATER)
    assert lane.call_window == 8
    lane = lane.after_failure(refused("op_9", began_at=LATER + SECOND), GUARD, LATER + 2 * SECOND)
    assert lane.call_window == 4


def test_a_window_of_one_is_not_shrunk_and_opens_the_circuit_when_nobody_succeeds():
    lane, now = Lane(4, 1), NOW
    for number in range(GUARD.failing_operations_to_open):
        assert lane.call_window == 1
        now += SECOND
        lane = lane.after_failure(refused(f"op_{number}", began_at=now - SECOND / 2), GUARD, now)
    assert lane.call_window == 0


def test_a_lost_call_says_nothing_of_the_window_until_as_many_operations_have_failed_in_a_row():
    lane = Lane(4, 4)
    for _ in range(9):
        lane = lane.after_failure(lost("op_poison"), GUARD, NOW)
    assert lane.call_window == 4
    lane = lane.after_success()
    for name in ("op_a", "op_b"):
        lane = lane.after_failure(lost(name), GUARD, NOW)
    assert lane.call_window == 4
    assert lane.after_failure(lost("op_c"), GUARD, NOW).call_window == 0


def test_pauses_between_probes_double_to_a_limit_and_are_no_shorter_than_sap_wishes():
    lane, pauses = Lane(4, 1, failed_probes=1), []
    for _ in range(4):
        lane = lane.probing().after_failure(lost(), GUARD, NOW)
        pauses.append((lane.probe_not_before - NOW).total_seconds())
    assert pauses == [2.0, 4.0, 5.0, 5.0]
    lane = lane.probing().after_failure(refused(retry_after=30.0), GUARD, NOW)
    assert lane.probe_not_before == NOW + 30 * SECOND


def test_a_call_from_before_that_ends_late_tells_an_open_circuit_no_more_than_how_long_to_wait():
    lane = Lane(4, 0, failed_probes=1, probe_not_before=LATER)
    assert lane.after_failure(lost(), GUARD, NOW) == lane
    late = lane.after_failure(refused(retry_after=9.0), GUARD, NOW)
    assert (late.call_window, late.failed_probes, late.probe_not_before) == (0, 1, NOW + 9 * SECOND)


def test_after_an_outage_the_window_starts_with_one_call_and_doubles_to_what_had_worked():
    lane, windows = Lane(16, 0, growth_limit=6, failed_probes=3).probing().after_success(), []
    assert (lane.call_window, lane.failed_probes) == (1, 0)
    for number in range(6):
        lane = look(lane, lane.call_window, now=NOW + number * SECOND / 4)
        windows.append(lane.call_window)
    assert windows == [2, 4, 6, 6, 6, 6]


def test_above_what_worked_it_goes_by_single_steps_that_come_ever_sooner():
    lane, now, steps = Lane(64, 8, growth_limit=8, grow_not_before=NOW + 5 * SECOND), NOW, []
    for _ in range(100):
        now += SECOND / 10
        before = lane.call_window
        lane = look(lane, 5, now=now)
        assert lane.call_window - before in (0, 1)
        if lane.call_window > before:
            steps.append((now - NOW).total_seconds())
    assert steps[:4] == pytest.approx([5.0, 7.5, 8.8, 9.5], abs=0.11)


def test_what_is_refused_one_step_above_the_limit_leaves_the_limit_where_it_is():
    lane = Lane(16, 9, growth_limit=8).after_failure(refused(began_at=LATER), GUARD, LATER + SECOND)
    assert (lane.call_window, lane.growth_limit) == (4, 8)
    lane = lane.after_failure(refused("op_b", began_at=LATER + 2 * SECOND), GUARD, LATER + 3 * SECOND)
    assert (lane.call_window, lane.growth_limit) == (2, 2)


def test_no_step_is_tried_before_sap_wants_to_be_tried_again():
    lane = Lane(16, 9, growth_limit=8).after_failure(refused(retry_after=60.0), GUARD, NOW)
    assert lane.grow_not_before == NOW + 60 * SECOND
    lane = Lane(16, 9, growth_limit=8).after_failure(refused(retry_after=1.0), GUARD, NOW)
    assert lane.grow_not_before == NOW + GROWTH_PAUSE_SECONDS * SECOND


def test_where_calls_are_slow_the_next_step_waits_for_about_a_hundred_of_them():
    """A step every five seconds was one in ten calls, of a SAP that takes a few in a second."""
    slow = Lane(16, 9, growth_limit=8, latency_ms=4_000.0)
    assert slow.after_failure(refused(), GUARD, NOW).grow_not_before == NOW + 50 * SECOND


def test_a_limit_that_is_only_a_guess_is_soon_tried():
    lane = Lane(16, 12).after_failure(refused(), GUARD, NOW)
    assert (lane.call_window, lane.growth_limit) == (6, 6)
    assert lane.grow_not_before == NOW + GUESS_PAUSE_SECONDS * SECOND
    lane = look(lane, 5, now=NOW + GUESS_PAUSE_SECONDS * SECOND)
    assert lane.call_window == 7
    assert lane.grow_not_before < NOW + 2 * SECOND


def test_latency_over_the_target_shrinks_the_window_and_never_closes_it():
    lane, now = Lane(8, 8), NOW
    windows = []
    for _ in range(20):
        now += 2 * SECOND
        lane = look(lane, 3, now=now, latency_ms=6_000)
        windows.append(lane.call_window)
    assert windows[0] == 4
    assert windows[-1] == 1
    assert windows.index(2) - windows.index(4) >= 3, "not before calls of the smaller window have ended"


def test_a_window_that_nobody_fills_does_not_grow():
    assert look(Lane(8, 2), 50, is_behind=False).call_window == 2


def test_a_half_open_lane_is_opened_by_a_posting_and_not_by_what_ended_before():
    lane = Lane(8, 1, failed_probes=1)
    assert look(lane, 5).call_window == 1
    assert look(lane, 5).is_half_open
    assert lane.after_question().failed_probes == 2
    assert lane.after_question().after_question().failed_probes == 2


def test_the_rate_is_measured_only_while_the_lane_is_behind():
    rate, now, count = Rate(), NOW, 0
    for _ in range(30):
        rate = rate.measured(Answers(count), is_behind=True, now=now)
        now, count = now + SECOND, count + 40
    assert rate.per_second == pytest.approx(40.0)
    idle = rate.measured(Answers(count), is_behind=False, now=now)
    night = now + timedelta(hours=8)
    again = idle.measured(Answers(count + 10), is_behind=True, now=night)
    assert again.per_second == pytest.approx(40.0)
    soon = again.measured(Answers(count + 50), is_behind=True, now=night + SECOND)
    assert soon.per_second == pytest.approx(40.0)


CHANGES = {
    "answers": lambda lane, number, now: look(lane, number, now=now),
    "slow": lambda lane, number, now: look(lane, number, now=now, latency_ms=9_000),
    "refused": lambda lane, number, now: lane.after_failure(
        refused(f"op_{number}", now, number / 10), GUARD, now
    ),
    "lost": lambda lane, number, now: lane.after_failure(lost(f"op_{number}", now), GUARD, now),
    "success": lambda lane, _number, _now: lane.after_success(),
    "question": lambda lane, _number, _now: lane.after_question(),
    "probe": lambda lane, _number, now: lane.probing() if lane.is_probe_due(now) else lane,
    "hold": lambda lane, _number, _now: replace(lane, held=not lane.held),
}
STEPS = st.lists(
    st.tuples(st.sampled_from(sorted(CHANGES)), st.integers(1, 300), st.integers(0, 5_000)), max_size=60
)


@given(cap=st.integers(1, 64), steps=STEPS)
def test_whatever_happens_the_window_stays_within_the_cap_and_no_two_probes_go_out(cap, steps):
    lane, now = Lane(cap, cap), NOW
    for what, number, milliseconds in steps:
        now += timedelta(milliseconds=milliseconds)
        before, lane = lane, CHANGES[what](lane, number, now)
        assert 0 <= lane.call_window <= lane.hard_cap
        assert lane.call_window <= max(1, 2 * before.call_window)
        assert lane.limit >= 1
        assert not lane.failed_probes or lane.call_window <= 1, "half-open or open"
        assert len(lane.failing_operations) <= GUARD.failing_operations_to_open
        assert lane.call_window or lane.probe_not_before, "there is a way back"


@pytest.mark.parametrize("seed", range(5))
def test_a_sap_that_takes_eight_is_kept_busy_and_hardly_ever_asked_for_more(seed):
    sap = SimulatedSap(capacity=8)
    run = SimulatedLane(Lane(16, 16), sap, seed=seed)
    run.run(10)
    sap.served = sap.refused = 0
    run.run(60)
    # of each turn of a permit 15 % is not spent in SAP: that is the most a window of eight can do
    assert sap.served / 60 >= 0.97 * 8 / (0.1 + 0.017)
    assert sap.refused / sap.served < 0.02


@pytest.mark.parametrize("latency", [0.1, 1.0, 4.0])
def test_hardly_a_call_is_refused_however_slow_they_are(latency):
    sap = SimulatedSap(capacity=8, latency=latency)
    run = SimulatedLane(Lane(16, 16), sap, seed=7)
    run.run(200 * latency)
    sap.served = sap.refused = 0
    run.run(1_000 * latency)
    assert sap.refused / sap.served < 0.02


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fault", [{"down": True}, {"refuses_all": True}])
def test_a_sap_that_is_away_is_called_twice_the_window_and_then_by_probes_alone(seed, fault):
    sap = SimulatedSap(capacity=64)
    run = SimulatedLane(Lane(16, 16), sap, seed=seed)
    run.run(20)
    window, before = run.lane.call_window, len(sap.calls)
    for name in fault:
        setattr(sap, name, True)
    run.run(60)
    assert window == 16
    assert len(sap.calls) - before <= 2 * window + 60 / GUARD.probe_interval_seconds
    assert run.lane.call_window <= 1


@pytest.mark.parametrize("seed", range(5))
def test_after_an_outage_sap_is_used_again_within_ten_seconds(seed):
    sap = SimulatedSap(capacity=8, down=True)
    run = SimulatedLane(Lane(16, 16), sap, seed=seed)
    run.run(60)
    sap.down = False
    run.run(10)
    sap.served = sap.refused = 0
    run.run(5)
    assert sap.served / 5 >= 0.9 * 8 / (0.1 + 0.017)


def test_a_capacity_that_falls_and_rises_is_followed():
    sap = SimulatedSap(capacity=8)
    run = SimulatedLane(Lane(16, 16), sap, seed=3)
    run.run(20)
    sap.capacity = 2
    run.run(5)
    assert run.lane.call_window <= 3
    sap.capacity = 12
    run.run(30)
    assert run.lane.call_window >= 10


def test_a_sap_that_slows_down_with_load_is_eased_to_the_target():
    """Latency grows with the calls at once: a target of half a second allows about five."""
    sap = SimulatedSap(capacity=64, latency=0.1)
    run = SimulatedLane(Lane(16, 16), sap, seed=random.Random(4).random(), target=0.5)  # noqa: S311 - a seed
    for _ in range(300):
        run.run(0.2)
        sap.latency = 0.1 * max(sap.inside, 1)
    windows = [window for moment, window in run.windows if moment > run.now - 30 * SECOND]
    assert max(windows) <= 10
    assert min(windows) >= 1
