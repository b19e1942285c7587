"""How many workers an endpoint may have: more with each quick success, one when it hangs or fails."""

from datetime import UTC, datetime

import pytest

from bridge.clock import ManualClock
from webhooks.shares import SLOW_SECONDS, Shares

pytestmark = pytest.mark.unit

WORKERS = 32


@pytest.fixture
def clock():
    return ManualClock(datetime(2026, 11, 21, tzinfo=UTC))


@pytest.fixture
def shares(clock):
    return Shares(clock, WORKERS)


def begin(shares, endpoint_id, *, is_failing=False):
    return shares.begin(endpoint_id, is_failing=is_failing)


def succeed(shares, endpoint_id, times):
    for _ in range(times):
        shares.end(endpoint_id, begin(shares, endpoint_id), is_success=True)


def test_an_unknown_endpoint_has_one_worker(shares):
    assert begin(shares, "a") is not None
    assert begin(shares, "a") is None
    assert begin(shares, "b") is not None


def test_each_quick_success_gives_one_more_up_to_half_of_all(shares):
    succeed(shares, "a", 3)
    assert shares.room("a") == 4
    succeed(shares, "a", 100)
    assert shares.room("a") == WORKERS // 2


@pytest.mark.parametrize(("seconds", "is_success"), [(0.0, False), (SLOW_SECONDS, True)])
def test_a_failure_and_a_slow_success_leave_one(shares, clock, seconds, is_success):
    succeed(shares, "a", 10)
    started = begin(shares, "a")
    clock.advance(seconds)
    shares.end("a", started, is_success=is_success)
    assert shares.room("a") == 1
    succeed(shares, "a", 1)
    assert shares.room("a") == 2


def test_endpoints_that_hang_have_a_quarter_of_the_workers_together_and_the_others_the_rest(shares, clock):
    hanging = [f"hangs-{number}" for number in range(WORKERS)]
    running = [each for each in hanging if begin(shares, each) is not None]
    assert len(running) == WORKERS, "nobody knew yet"
    clock.advance(SLOW_SECONDS)
    for each in running:
        shares.end(each, 0.0, is_success=False)
    assert sum(begin(shares, each) is not None for each in hanging) == WORKERS // 4
    succeed(shares, "well", 5)
    assert shares.room("well") == 6


def test_an_endpoint_hangs_while_its_first_attempt_still_runs(shares, clock):
    succeed(shares, "a", 10)
    assert begin(shares, "a") is not None
    clock.advance(SLOW_SECONDS)
    assert begin(shares, "a") is None


def test_an_endpoint_whose_record_says_that_it_fails_begins_with_the_slow_ones(shares):
    others = [begin(shares, f"fails-{number}", is_failing=True) for number in range(WORKERS)]
    assert sum(each is not None for each in others) == WORKERS // 4
