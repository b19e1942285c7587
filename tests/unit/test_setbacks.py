"""What one failing item costs the others, and when operators hear of it."""

from datetime import UTC, datetime

import pytest
from pg8000 import InterfaceError, ProgrammingError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from structlog.testing import capture_logs

from bridge.clock import ManualClock
from bridge.errors import TransientError
from bridge.storage.failures import is_away
from bridge.storage.setbacks import ALARMING_FAILURES, LONGEST_REST_SECONDS, Setbacks

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def answered(state):
    return DBAPIError("SELECT", {}, ProgrammingError({"C": state}))


@pytest.fixture
def clock():
    return ManualClock(NOW)


@pytest.fixture
def setbacks(clock):
    return Setbacks("sequencer", clock.monotonic)


def fail(setbacks, item="par_a", error=None):
    with capture_logs() as lines, setbacks.contained(item):
        raise error or RuntimeError("planted")
    return lines


@pytest.mark.parametrize("state", ["57014", "55P03", "40P01", "40001", "23505", "22012", "P0001"])
def test_a_time_out_a_lock_or_a_broken_row_says_nothing_about_other_rows(state):
    assert not is_away(answered(state))


@pytest.mark.parametrize("state", ["57P01", "57P03", "53300", "08006", "58030", "25006"])
def test_a_server_that_stops_or_is_full_concerns_everybody(state):
    assert is_away(answered(state))


def test_a_server_that_does_not_answer_concerns_everybody():
    assert is_away(DBAPIError("SELECT", {}, InterfaceError("network error")))
    assert is_away(PoolTimeoutError("no connection"))
    assert not is_away(RuntimeError("planted"))


def test_an_item_that_failed_rests_longer_each_time_and_a_success_ends_that(setbacks, clock):
    rests = []
    for _ in range(10):
        fail(setbacks)
        began = clock.monotonic()
        while setbacks.rests("par_a"):
            clock.advance(1)
        rests.append(clock.monotonic() - began)
    assert rests == [1, 2, 4, 8, 16, 32, *[LONGEST_REST_SECONDS] * 4]
    assert not setbacks.rests("par_b")
    with setbacks.contained("par_a"):
        pass
    fail(setbacks)
    clock.advance(1)
    assert not setbacks.rests("par_a")


def test_operators_hear_of_what_keeps_failing_and_not_of_an_accident(setbacks):
    lines = [line for _ in range(ALARMING_FAILURES) for line in fail(setbacks)]
    assert [(line["event"], line["log_level"]) for line in lines] == [
        *[("work failed", "warning")] * (ALARMING_FAILURES - 1),
        ("work keeps failing", "error"),
    ]
    assert {(line["loop"], line["item"]) for line in lines} == {("sequencer", "par_a")}


def test_a_port_that_is_away_is_no_alarm_here_and_is_tried_again_at_once(setbacks):
    lines = [line for _ in range(9) for line in fail(setbacks, error=TransientError("away"))]
    assert {line["log_level"] for line in lines} == {"warning"}
    assert not setbacks.rests("par_a")


def test_a_database_that_is_away_is_not_put_down_to_the_item(setbacks):
    with pytest.raises(DBAPIError), setbacks.contained("par_a"):
        raise answered("57P01")
    assert not setbacks.rests("par_a")
