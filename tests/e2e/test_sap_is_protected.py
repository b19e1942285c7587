"""Real adapters, dispatchers, broker and SAP mock, and a pusher of our own with many requests in flight."""

import pytest
from sqlalchemy import text
from waiting import wait_until

from benchmarks.sap_stage import SapStage, sap_staged
from benchmarks.stage import staged

pytestmark = pytest.mark.e2e

LANE, SLOW_LANE = "s4-main", "s4-slow"
HARD_CAP_CALLS = 4
IN_FLIGHT = 32
MINUTES = 180.0


@pytest.fixture
def sap():
    with (
        staged(with_peer=False) as stage,
        sap_staged(
            stage,
            hard_cap=HARD_CAP_CALLS,
            adapters=2,
            dispatchers=2,
            in_flight=IN_FLIGHT,
            sap_systems=(LANE, SLOW_LANE),
        ) as made,
    ):
        yield made


def lane(sap: SapStage, column):
    return sap.scalar(f"SELECT {column} FROM sap_systems WHERE sap_system = '{LANE}'")


def set_window(sap: SapStage, window):
    """As overload would, but for longer than the test lasts."""
    with sap.owner.begin() as connection:
        connection.execute(
            text("""
                UPDATE sap_systems SET call_window = :window, growth_limit = :window,
                    grow_not_before = CAST('2999-01-01' AS timestamptz)
                WHERE sap_system = :lane
            """),
            {"window": window, "lane": LANE},
        )


def permits(sap: SapStage):
    """How many calls may be under way."""
    return sap.scalar("SELECT count(*) FROM sap_slots WHERE lease_until > clock_timestamp() AND NOT settling")


def unfinished(sap: SapStage, partner=None):
    statement = "SELECT count(*) FROM operations WHERE status <> 'succeeded'"
    if partner is None:
        return sap.scalar(statement)
    partner_id = sap.stage.keys.partners[partner].partner_id
    return sap.scalar(f"{statement} AND partner_id = :partner", partner=partner_id)


def test_calls_never_exceed_the_window_and_are_one_soon_after_it_shrank_to_one(sap):
    sap.faults(latency_ms=300)
    sap.hand_over("shrinking", 60)
    wait_until(lambda: sap.stats()["max_in_flight"] == HARD_CAP_CALLS, timeout_seconds=MINUTES)
    assert unfinished(sap) > 0
    sap.hand_over("more", 20)
    set_window(sap, 1)
    wait_until(lambda: permits(sap) <= 1, timeout_seconds=MINUTES, what="the calls under way ended")
    before = sap.stats()
    sap.count_anew(latency_ms=50)
    wait_until(lambda: unfinished(sap) == 0, timeout_seconds=MINUTES)
    after = sap.stats()
    assert before["max_in_flight"] == HARD_CAP_CALLS
    assert after["calls"] > 10
    assert after["max_in_flight"] == 1
    assert before["documents"] + after["documents"] == 80
    assert after["duplicates"] == before["duplicates"] == 0
    assert sum(pusher.nacked for pusher in sap.pushers) == 0


def test_a_closed_lane_is_probed_by_one_call_at_a_time_in_the_whole_fleet(sap):
    """Each call takes long enough that a second probe beside it would be seen."""
    sap.faults(error_rate=1.0, latency_ms=300)
    sap.hand_over("probing", 40)
    wait_until(lambda: lane(sap, "failed_probes") > 0, timeout_seconds=MINUTES)
    wait_until(lambda: permits(sap) <= 1, timeout_seconds=MINUTES, what="the calls under way ended")
    sap.count_anew(error_rate=1.0, latency_ms=300)
    wait_until(lambda: sap.stats()["calls"] >= 4, timeout_seconds=MINUTES)
    assert sap.stats()["max_in_flight"] == 1
    sap.faults()
    wait_until(lambda: unfinished(sap) == 0, timeout_seconds=MINUTES)
    assert sap.stats()["duplicates"] == 0


def test_a_small_partner_does_not_wait_behind_anothers_backlog_nor_a_lane_behind_a_slow_one(sap):
    """The second partner's payments go to both SAP systems."""
    sap.faults(mode="down", latency_ms=0)
    sap.hand_over("large", 150)
    wait_until(lambda: lane(sap, "call_window") == 0, timeout_seconds=MINUTES)
    sap.hand_over("small", 5, partner=1)
    sap.faults(latency_ms=20)
    wait_until(lambda: unfinished(sap, partner=1) == 0, timeout_seconds=MINUTES)
    assert unfinished(sap, partner=0) > 20, "the large partner's backlog is far from done"
    sap.faults(SLOW_LANE, latency_ms=5_000)
    sap.hand_over("slow", 12, partner=1, sap_system=SLOW_LANE)
    wait_until(lambda: sap.stats(SLOW_LANE)["calls"] > 0, timeout_seconds=MINUTES)
    slow_before = sap.stats(SLOW_LANE)["documents"]
    sap.hand_over("beside", 10, partner=0)
    wait_until(lambda: unfinished(sap, partner=0) == 0, timeout_seconds=MINUTES)
    assert sap.stats(SLOW_LANE)["documents"] < 12, "the slow one is still at it"
    assert slow_before < 12
    wait_until(lambda: unfinished(sap) == 0, timeout_seconds=MINUTES)
