"""The pure parts of the Cloud Tasks stand-in: back-off, giving up, rate limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstack.cloud_tasks import protos
from devstack.cloud_tasks.retries import backoff_microseconds, is_exhausted
from devstack.cloud_tasks.token_bucket import TokenBucket

pytestmark = pytest.mark.unit

SECOND = protos.MICROSECONDS
DAY = 24 * 3600 * SECOND


def config(min_s=0.1, max_s=3600.0, doublings=16, attempts=-1, duration_s=0.0):
    message = protos.RetryConfig(max_attempts=attempts, max_doublings=doublings)
    message.min_backoff.CopyFrom(protos.to_duration(int(min_s * SECOND)))
    message.max_backoff.CopyFrom(protos.to_duration(int(max_s * SECOND)))
    message.max_retry_duration.CopyFrom(protos.to_duration(int(duration_s * SECOND)))
    return message


def test_backoff_follows_the_example_of_googles_documentation():
    waits = [backoff_microseconds(config(10, 300, 3), failures) / SECOND for failures in range(1, 9)]
    assert waits == [10, 20, 40, 80, 160, 240, 300, 300]


def test_backoff_without_doublings_grows_linearly():
    waits = [backoff_microseconds(config(10, 35, 0), failures) / SECOND for failures in range(1, 6)]
    assert waits == [10, 20, 30, 35, 35]


@given(st.floats(0.001, 100), st.floats(100, 10_000), st.integers(0, 200), st.integers(1, 10_000))
def test_backoff_stays_within_its_bounds_and_never_shrinks(min_s, max_s, doublings, failures):
    settings = config(min_s, max_s, doublings)
    wait = backoff_microseconds(settings, failures)
    assert int(min_s * SECOND) <= wait <= int(max_s * SECOND)
    assert backoff_microseconds(settings, failures + 1) >= wait


@pytest.mark.parametrize(
    ("attempts_allowed", "duration_s", "attempts", "age_s", "exhausted"),
    [
        (3, 0, 2, 10**6, False),
        (3, 0, 3, 0, True),
        (-1, 60, 1000, 59, False),
        (-1, 60, 1, 60, True),
        (3, 60, 3, 59, False),
        (3, 60, 2, 61, False),
        (3, 60, 3, 60, True),
        (-1, 0, 10**6, 10**6, False),
    ],
)
def test_a_task_is_given_up_only_when_every_limit_that_is_set_is_passed(
    attempts_allowed, duration_s, attempts, age_s, exhausted
):
    settings = config(attempts=attempts_allowed, duration_s=duration_s)
    assert is_exhausted(settings, attempts=attempts, first_attempt_at=0, now=age_s * SECOND) is exhausted


def test_no_task_outlives_31_days():
    assert is_exhausted(config(), attempts=1, first_attempt_at=0, now=31 * DAY)
    assert not is_exhausted(config(), attempts=1, first_attempt_at=0, now=31 * DAY - 1)


def test_a_bucket_gives_its_burst_then_its_rate():
    bucket = TokenBucket.full(rate_per_second=2.0, burst=3, now=100.0)
    for _ in range(bucket.available(100.0)):
        bucket.take()
    assert bucket.available(100.0) == 0
    assert bucket.seconds_to_next() == pytest.approx(0.5)
    assert bucket.available(100.5) == 1
    assert bucket.available(1000.0) == 3


def test_a_bucket_survives_a_clock_that_stands_still_or_steps_back():
    bucket = TokenBucket.full(rate_per_second=1.0, burst=1, now=100.0)
    bucket.take()
    assert bucket.available(99.0) == 0
    assert bucket.available(100.9) == 0
    assert bucket.available(101.0) == 1
