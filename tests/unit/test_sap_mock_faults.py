"""What can be asked of the mock, and what its traffic then does."""

import threading

import pytest
from waiting import DEADLINE_SECONDS, wait_until

from sap_mock.faults import Faults, FaultsError
from sap_mock.traffic import BusyError, DroppedConnectionError, Ending, ThrottledError, Traffic

pytestmark = pytest.mark.unit


def test_what_is_not_named_is_at_its_default():
    assert Faults.parse({"mode": "down"}) == Faults(mode="down")
    assert Faults.parse({}).idempotency_window_s == 86_400


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (None, "JSON object"),
        ([], "JSON object"),
        ({"latency": 5}, "'latency'"),
        ({"mode": "sideways"}, "mode"),
        ({"mode": ["up"]}, "mode"),
        ({"latency_ms": -1}, "latency_ms"),
        ({"latency_ms": 1.5}, "latency_ms"),
        ({"capacity": True}, "capacity"),
        ({"latency_jitter": 2}, "latency_jitter"),
        ({"calls_per_second": -1}, "calls_per_second"),
        ({"error_rate": 1.1}, "error_rate"),
        ({"error_rate": "0.5"}, "error_rate"),
        ({"idempotency_window_s": None}, "idempotency_window_s"),
    ],
)
def test_a_mistake_is_named(body, named):
    with pytest.raises(FaultsError, match=named):
        Faults.parse(body)


def test_all_mistakes_are_named_at_once():
    with pytest.raises(FaultsError, match=r"mode .*; capacity .*; error_rate "):
        Faults.parse({"mode": "x", "capacity": -1, "error_rate": 2})


def test_calls_are_counted_and_the_most_at_once_kept():
    traffic = Traffic()
    with traffic.call(), traffic.call():
        pass
    with traffic.call():
        pass
    assert traffic.stats() == {"calls": 3, "refused": 0, "max_in_flight": 2}


def test_down_drops_and_counts_no_refusal():
    traffic = Traffic()
    traffic.set_faults(Faults(mode="down"))
    with pytest.raises(DroppedConnectionError), traffic.call():
        pass
    assert traffic.stats() == {"calls": 1, "refused": 0, "max_in_flight": 1}


def test_a_call_above_capacity_is_refused_with_retry_after_and_takes_no_place():
    traffic = Traffic()
    traffic.set_faults(Faults(capacity=1))
    with traffic.call():
        for _ in range(2):
            with pytest.raises(BusyError) as busy, traffic.call():
                pass
            assert busy.value.retry_after_seconds is not None
    with traffic.call():
        pass
    assert traffic.stats() == {"calls": 4, "refused": 2, "max_in_flight": 2}


def test_more_calls_in_a_second_than_allowed_are_throttled_until_the_second_is_over():
    traffic = Traffic()
    traffic.set_faults(Faults(calls_per_second=2))
    for _ in range(2):
        with traffic.call():
            pass
    with pytest.raises(ThrottledError) as throttled, traffic.call():
        pass
    assert throttled.value.retry_after_seconds >= 1
    assert traffic.stats() == {"calls": 3, "refused": 1, "max_in_flight": 1}

    def passes():
        try:
            with traffic.call():
                return True
        except ThrottledError:
            return False

    wait_until(passes)


def test_overloaded_refuses_every_second_call_and_half_of_those_with_retry_after():
    traffic = Traffic(overloaded_latency_ms=0)
    traffic.set_faults(Faults(mode="overloaded"))
    seen = []
    for _ in range(8):
        try:
            with traffic.call():
                seen.append("answered")
        except BusyError as busy:
            seen.append("with" if busy.retry_after_seconds is not None else "without")
    assert seen == ["answered", "without", "answered", "with"] * 2
    assert traffic.stats()["refused"] == 4


def test_going_down_while_a_call_waits_drops_the_call():
    traffic = Traffic()
    traffic.set_faults(Faults(latency_ms=200))
    outcome = []

    def call():
        try:
            with traffic.call():
                outcome.append("let through")
        except DroppedConnectionError:
            outcome.append("dropped")

    thread = threading.Thread(target=call)
    thread.start()
    wait_until(lambda: traffic.stats()["max_in_flight"] == 1)
    traffic.set_faults(Faults(mode="down"))
    thread.join(DEADLINE_SECONDS)
    assert outcome == ["dropped"]


@pytest.mark.parametrize(
    ("faults", "ending"),
    [
        (Faults(), Ending.ANSWER),
        (Faults(drop_before_commit_rate=1.0, late_commit_ms=10), Ending.DROP_BEFORE_COMMIT),
        (Faults(commit_then_drop_rate=1.0), Ending.COMMIT_THEN_DROP),
        (Faults(late_commit_ms=10), Ending.DROP_THEN_COMMIT),
        (Faults(commit_then_drop_rate=1.0, late_commit_ms=10), Ending.DROP_THEN_COMMIT),
    ],
)
def test_how_a_posting_ends(faults, ending):
    assert Traffic().ending(faults) is ending


def test_a_rate_limits_late_commits_to_its_share():
    traffic = Traffic(seed=1)
    faults = Faults(commit_then_drop_rate=0.5, late_commit_ms=10)
    endings = [traffic.ending(faults) for _ in range(200)]
    assert set(endings) == {Ending.ANSWER, Ending.DROP_THEN_COMMIT}
    assert 60 < endings.count(Ending.ANSWER) < 140


def test_the_same_seed_throws_the_same_dice():
    faults = Faults(drop_before_commit_rate=0.3, commit_then_drop_rate=0.3)
    first, second = Traffic(seed=7), Traffic(seed=7)
    assert [first.ending(faults) for _ in range(50)] == [second.ending(faults) for _ in range(50)]


def test_reset_forgets_counts_and_faults():
    traffic = Traffic()
    traffic.set_faults(Faults(latency_ms=1))
    with traffic.call():
        traffic.reset()
        assert traffic.stats() == {"calls": 0, "refused": 0, "max_in_flight": 1}
    assert traffic.faults == Faults()
