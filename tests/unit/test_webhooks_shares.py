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


def begin(shares, endpoint_id, partner_id=None, *, is_failing=False):
    """Each endpoint is a partner of its own, unless one is named."""
    return shares.begin(endpoint_id, partner_id or endpoint_id, is_failing=is_failing)


def room(shares, endpoint_id):
    return shares.room(endpoint_id, endpoint_id)


def succeed(shares, endpoint_id, times):
    for _ in range(times):
        shares.end(endpoint_id, begin(shares, endpoint_id), is_success=True)


def test_an_unknown_endpoint_has_one_worker(shares):
    assert begin(shares, "a") is not None
    assert begin(shares, "a") is None
    assert begin(shares, "b") is not None


def test_each_quick_success_gives_one_more_up_to_half_of_all(shares):
    succeed(shares, "a", 3)
    assert room(shares, "a") == 4
    succeed(shares, "a", 100)
    assert room(shares, "a") == WORKERS // 2


@pytest.mark.parametrize(("seconds", "is_success"), [(0.0, False), (SLOW_SECONDS, True)])
def test_a_failure_and_a_slow_success_leave_one(shares, clock, seconds, is_success):
    succeed(shares, "a", 10)
    started = begin(shares, "a")
    clock.advance(seconds)
    shares.end("a", started, is_success=is_success)
    assert room(shares, "a") == 1
    succeed(shares, "a", 1)
    assert room(shares, "a") == 2


def test_endpoints_that_hang_have_a_quarter_of_the_workers_together_and_the_others_the_rest(shares, clock):
    hanging = [f"hangs-{number}" for number in range(WORKERS)]
    running = [each for each in hanging if begin(shares, each) is not None]
    assert len(running) == WORKERS, "nobody knew yet"
    clock.advance(SLOW_SECONDS)
    for each in running:
        shares.end(each, 0.0, is_success=False)
    assert sum(begin(shares, each) is not None for each in hanging) == WORKERS // 4
    succeed(shares, "well", 5)
    assert room(shares, "well") == 6


def test_an_endpoint_hangs_while_its_first_attempt_still_runs(shares, clock):
    succeed(shares, "a", 10)
    assert begin(shares, "a") is not None
    clock.advance(SLOW_SECONDS)
    assert begin(shares, "a") is None


def test_an_endpoint_whose_record_says_that_it_fails_begins_with_the_slow_ones(shares):
    others = [begin(shares, f"fails-{number}", is_failing=True) for number in range(WORKERS)]
    assert sum(each is not None for each in others) == WORKERS // 4


def test_a_partner_has_half_of_the_workers_and_the_first_attempts_of_its_endpoints_a_little_more(shares):
    for endpoint_id in ("a", "b"):
        for _ in range(WORKERS):
            shares.end(endpoint_id, begin(shares, endpoint_id, "busy"), is_success=True)
    started = [begin(shares, each, "busy") for each in ("a", "b") * WORKERS]
    assert sum(each is not None for each in started) == WORKERS // 2
    first = [begin(shares, f"new-{number}", "busy") for number in range(WORKERS)]
    assert sum(each is not None for each in first) == WORKERS // 8
    assert begin(shares, "another", "quiet") is not None


def test_twenty_endpoints_of_a_partner_that_begin_to_hang_leave_one_worker_to_each(shares):
    assert all(begin(shares, f"hangs-{number}", "a") is not None for number in range(20))


def test_slow_endpoints_of_one_partner_took_all_the_workers_of_the_slow_ones(shares):
    """Another partner's slow endpoint waits for them no longer than for its own."""
    started = [begin(shares, f"a-{number}", "a", is_failing=True) for number in range(WORKERS)]
    assert sum(each is not None for each in started) == WORKERS // 8
    assert begin(shares, "b-1", "b", is_failing=True) is not None


def test_whoever_found_the_workers_of_the_slow_ones_taken_is_called_in_turn_when_one_is_free(shares):
    for partner_id in ("a", "b"):
        for number in range(WORKERS // 8):
            assert begin(shares, f"{partner_id}-{number}", partner_id, is_failing=True) is not None
    assert begin(shares, "c-1", "c", is_failing=True) is None
    assert begin(shares, "d-1", "d", is_failing=True) is None
    assert shares.next_refused() is None, "no worker is free"
    shares.end("a-0", 0.0, is_success=False)
    assert shares.next_refused() == "c"
    assert begin(shares, "c-1", "c", is_failing=True) is not None
    assert shares.next_refused() is None
    shares.end("b-0", 0.0, is_success=False)
    assert shares.next_refused() == "d"
    assert shares.next_refused() is None, "each refusal is reported once"


def test_endpoints_without_room_are_those_of_their_partner_only(shares):
    assert begin(shares, "a-1", "a") is not None
    assert begin(shares, "b-1", "b") is not None
    assert (shares.full("a"), shares.full("b"), shares.full("c")) == (["a-1"], ["b-1"], [])


def test_a_partner_left_out_while_others_had_the_slow_workers_was_told_of_none_that_became_free(shares):
    shares.end("c-1", begin(shares, "c-1", "c"), is_success=False)
    for partner_id in "ab":
        for number in range(WORKERS // 8):
            assert begin(shares, f"{partner_id}-{number}", partner_id, is_failing=True) is not None
    assert shares.full("c") == ["c-1"]
    assert shares.next_refused() is None
    shares.end("a-0", 0.0, is_success=False)
    assert shares.next_refused() == "c"
    assert shares.full("c") == []
    assert shares.next_refused() is None


def test_a_partner_that_was_told_of_a_worker_before_its_attempt_waited_is_told_again(shares):
    started = begin(shares, "a-1", "a", is_failing=True)
    assert begin(shares, "a-1", "a", is_failing=True) is None
    shares.end("a-1", started, is_success=False)
    assert shares.next_refused() == "a"
    assert shares.room("a-1", "a") == 1
    assert shares.next_refused() == "a"
    assert shares.next_refused() is None
