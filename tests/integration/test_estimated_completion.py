"""What partners are told of when a waiting payment will be done."""

from datetime import datetime, timedelta

import pytest
from accepted import set_lane
from gateway_stage import GatewayStage
from sqlalchemy import event, text

from bridge.storage.lane_figures import LaneBacklog, PartnerBacklog
from gateway.estimates import MAX_AGE_SECONDS

pytestmark = pytest.mark.integration

LANE = "s4-main"


@pytest.fixture
def stage(database):
    made = GatewayStage(database)
    yield made
    made.close()


def estimate(stage, payment_id, client="acme"):
    """Seconds until the estimated completion; None without one."""
    shown = stage.call("GET", f"/v1/payments/{payment_id}", client).json
    moment = shown.get("estimated_completion")
    return None if moment is None else (datetime.fromisoformat(moment) - stage.clock.now()).total_seconds()


def behind(stage, count, client="acme", **options):
    """So many payments, a tenth of a second apart; SAP answers one a second."""
    made = []
    for _ in range(count):
        stage.clock.advance(0.1)
        made.append(stage.pay(client_id=client, **options).json["id"])
    set_lane(stage.owner, LANE, answers_per_second=1.0)
    stage.clock.advance(MAX_AGE_SECONDS)
    return made


def test_a_payment_that_waits_for_a_lane_that_is_behind_says_when_it_will_be_done(stage):
    payments = behind(stage, 20)
    assert estimate(stage, payments[-1]) == pytest.approx(20, abs=1.1)
    assert estimate(stage, payments[9]) == pytest.approx(10, abs=2)
    assert estimate(stage, payments[0]) is None, "it is about to be posted"


def test_the_list_and_the_202_say_so_too(stage):
    behind(stage, 20)
    stage.clock.advance(1)
    accepted = stage.pay().json
    assert datetime.fromisoformat(accepted["estimated_completion"]) > stage.clock.now()
    listed = stage.call("GET", "/v1/payments?limit=5").json["data"]
    assert all("estimated_completion" in payment for payment in listed)


def test_a_lane_that_keeps_up_or_was_never_measured_promises_nothing(stage):
    payments = behind(stage, 20)
    set_lane(stage.owner, LANE, answers_per_second=50.0)
    stage.clock.advance(MAX_AGE_SECONDS)
    assert estimate(stage, payments[-1]) is None
    set_lane(stage.owner, LANE, answers_per_second=None)
    stage.clock.advance(MAX_AGE_SECONDS)
    assert estimate(stage, payments[-1]) is None


@pytest.mark.parametrize(
    "columns",
    [{"call_window": 0, "failed_probes": 1}, {"call_window": 1, "failed_probes": 2}, {"held": True}],
)
def test_while_sap_is_away_or_the_lane_is_held_nobody_knows(stage, columns):
    payments = behind(stage, 20)
    set_lane(stage.owner, LANE, **columns)
    stage.clock.advance(MAX_AGE_SECONDS)
    assert estimate(stage, payments[-1]) is None


@pytest.mark.parametrize("status", ["processing", "unknown", "parked"])
def test_what_does_not_wait_for_its_turn_in_the_lane_has_no_estimate(stage, status):
    payments = behind(stage, 20)
    reason = "operator" if status == "parked" else None
    with stage.owner.begin() as connection:
        connection.execute(
            text("UPDATE operations SET status = :status, parked_reason = :reason WHERE payment_id = :id"),
            {"status": status, "reason": reason, "id": payments[-1]},
        )
    assert estimate(stage, payments[-1]) is None


def test_a_small_partner_is_told_that_its_turn_comes_soon(stage):
    behind(stage, 40)
    small = behind(stage, 6, client="other")
    assert estimate(stage, small[-1], "other") == pytest.approx(12, abs=1.1)


def test_the_lanes_figures_are_read_once_in_two_seconds_however_often_payments_are(stage):
    payments = behind(stage, 20)
    statements = []
    event.listen(stage.engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    for _ in range(10):
        assert estimate(stage, payments[-1]) is not None
    assert sum("answers_per_second" in statement for statement in statements) == 1
    stage.clock.advance(MAX_AGE_SECONDS)
    estimate(stage, payments[-1])
    assert sum("answers_per_second" in statement for statement in statements) == 2


def test_partners_take_turns_in_the_estimate_as_in_the_lane():
    start = datetime.fromisoformat("2026-11-20T12:00:00Z")
    large = PartnerBacklog(1000, start, start + timedelta(seconds=1000))
    small = PartnerBacklog(10, start, start + timedelta(seconds=10))
    backlog = LaneBacklog(10.0, {"large": large, "small": small})
    assert backlog.seconds_until("small", small.newest_at) == 2.0
    assert backlog.seconds_until("large", large.newest_at) == 101.0
    assert backlog.seconds_until("large", start) == 0.2
    assert backlog.seconds_until("new", start) == 0.3
