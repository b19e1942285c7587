"""The conditions of alerts, worked out on what was told at given times; production's minutes are seconds."""

import pytest
from alert_conditions import LOOKBACK_SECONDS, Condition, Telling, prometheus_name

pytestmark = pytest.mark.unit

SPEED = 60.0
MAX = {"metric": "bridge.outbox.age", "judge": "max", "above": 300, "for_seconds": 60}
INCREASE = {"metric": "bridge.webhook.attempts", "judge": "increase", "above": 0, "for_seconds": 0}
LINE = {"log": {"message": "dead letter", "severity": "ERROR"}}
ABSENT = {
    "metric": "bridge.lane.window",
    "query": 'absent_over_time({"bridge.lane.window"}[5m])',
    "for_seconds": 60,
}


def told(name, *values, every=0.5, **labels):
    """One telling each half second; None: nothing was told."""
    on = tuple(sorted(labels.items()))
    return [
        Telling(100.0 + number * every, {} if value is None else {name: {on: value}})
        for number, value in enumerate(values)
    ]


def is_firing(alert, tellings):
    return Condition("an-alert", alert, SPEED).is_firing(tellings)


@pytest.mark.parametrize(
    ("ages", "fires"),
    [
        ((0, 0, 0, 0, 0), False),
        # 300 s are 5 s, and they have to last for a minute, which is a second
        ((4.9, 4.9, 4.9, 4.9, 4.9), False),
        ((0, 5.1, 5.6, 6.1, 6.6), True),
        ((0, 0, 0, 5.1, 5.6), False),
        ((5.1, 5.6, 0, 5.1, 5.6), False),
    ],
)
def test_a_threshold_has_to_be_passed_for_as_long_as_is_asked(ages, fires):
    tellings = told(prometheus_name("bridge.outbox.age"), *ages, bridge_lane="s4-main")
    assert is_firing(MAX, tellings) == fires


def test_the_largest_of_all_series_counts():
    tellings = told("bridge_outbox_age_seconds", *[0] * 5, bridge_lane="s4-main")
    for telling, other in zip(
        tellings, told("bridge_outbox_age_seconds", *[9] * 5, bridge_lane="events"), strict=True
    ):
        telling.values["bridge_outbox_age_seconds"].update(other.values["bridge_outbox_age_seconds"])
    assert is_firing(MAX, tellings)


def test_what_was_told_too_long_ago_counts_no_more():
    pauses = int(LOOKBACK_SECONDS / SPEED / 0.5) + 1
    tellings = told("bridge_outbox_age_seconds", *[9] * 5, *[None] * pauses)
    assert is_firing(MAX, tellings[: 5 + pauses // 2])
    assert not is_firing(MAX, tellings)


@pytest.mark.parametrize(
    ("counts", "fires"),
    [((0, 0, 0), False), ((3, 3, 3), False), ((0, 1, 1), True), ((5, 0, 0), False), ((5, 0, 1), True)],
)
def test_a_counter_fires_by_what_it_has_grown_since(counts, fires):
    assert is_firing(INCREASE, told("bridge_webhook_attempts_total", *counts)) == fires


def test_growth_is_forgotten_after_five_minutes():
    tellings = told("bridge_webhook_attempts_total", 0, *[1] * 12)
    assert is_firing(INCREASE, tellings[:5])
    assert not is_firing(INCREASE, tellings)


def test_one_line_fires():
    lines = told("logging_googleapis_com:user_dead_letter", 0, 0, 1)
    assert not is_firing(LINE, lines[:2])
    assert is_firing(LINE, lines)


def test_silence_fires_when_it_has_lasted():
    name = prometheus_name("bridge.lane.window")
    tellings = told(name, 4, 4, *[None] * 14)
    assert not is_firing(ABSENT, tellings[:10])
    assert is_firing(ABSENT, tellings)
    # nobody has looked for long enough
    assert not is_firing(ABSENT, told(name, *[None] * 8))


def test_names_are_those_of_the_prometheus_text():
    assert prometheus_name("bridge.lane.closed.time") == "bridge_lane_closed_time_seconds"
    assert prometheus_name("bridge.webhook.attempts") == "bridge_webhook_attempts_total"
    assert prometheus_name("bridge.lane.window") == "bridge_lane_window"
    assert prometheus_name("up") == "up"
