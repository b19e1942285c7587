"""When a delivery is tried again."""

from datetime import UTC, datetime

import pytest

from webhooks.retries import DEFAULT_DELAYS_SECONDS, RetrySchedule, read_retry_after

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def schedule(spread=0.0, delays=(5.0, 300.0)):
    return RetrySchedule(delays, lambda: spread)


def test_the_default_schedule_is_the_public_one():
    minute, hour = 60, 3600
    assert (
        5,
        5 * minute,
        30 * minute,
        2 * hour,
        5 * hour,
        10 * hour,
        14 * hour,
        20 * hour,
        24 * hour,
    ) == DEFAULT_DELAYS_SECONDS


def test_each_failure_has_its_pause_and_the_last_has_none():
    assert [schedule().delay_seconds(failures) for failures in (1, 2, 3, 4)] == [5.0, 300.0, None, None]


@pytest.mark.parametrize(("spread", "delay"), [(-1.0, 270.0), (0.5, 315.0), (1.0, 330.0)])
def test_jitter_is_ten_percent_either_way(spread, delay):
    assert schedule(spread).delay_seconds(2) == pytest.approx(delay)


@pytest.mark.parametrize(("asked", "delay"), [(0.0, 300.0), (299.0, 300.0), (450.0, 450.0), (1e9, 600.0)])
def test_a_receivers_wish_lengthens_the_pause_up_to_twice(asked, delay):
    assert schedule().delay_seconds(2, asked) == delay


def test_a_receivers_wish_does_not_lengthen_the_schedule():
    assert schedule().delay_seconds(3, 60.0) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("\u0663", None),  # a digit that is not ASCII
        ("9" * 400, 999_999_999.0),
        ("Sat, 21 Nov 2026 12:01:30 GMT", 90.0),
        ("Sat, 21 Nov 2026 12:01:30 -0000", 90.0),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0.0),
        ("Sat, 99 Nov 2026 11:00:00 GMT", None),
        # raised what nobody caught: the attempt was never recorded, and the event sent again for ever
        ("Sat, 21 Nov 2026 12:00:00 +99999999999999999", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date(header, seconds):
    assert read_retry_after(header, NOW) == seconds
