"""The dispatcher's decisions, without a database: room, probes, backoff, redispatch, settings."""

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import DEADLINE_SECONDS, wait_until

from bridge.errors import SettingsError, TransientError
from bridge.storage.watchdog import DispatchedOperation
from dispatcher.relay import BUSY_SECONDS, seconds_until
from dispatcher.settings import Settings
from dispatcher.worker import MAX_BACKOFF_SECONDS, Round, Worker, backoff_seconds

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(seconds=1)
ENVIRONMENT = {"DATABASE_URL": "postgresql+pg8000://x@127.0.0.1/x", "GOOGLE_CLOUD_PROJECT": "p"}


def test_backoff_doubles_to_its_maximum_and_half_of_it_is_chance():
    assert [backoff_seconds(failures, 0.0) for failures in (1, 2, 3, 4)] == [0.05, 0.1, 0.2, 0.4]
    assert backoff_seconds(1, 0.999) < 0.1
    assert backoff_seconds(10_000, 0.999) <= MAX_BACKOFF_SECONDS


@given(number=st.integers(0, 40), suffix=st.integers(0, 10**9))
def test_a_dispatch_is_repeated_after_1_2_4_up_to_60_minutes_with_a_tenth_of_jitter(number, suffix):
    operation = DispatchedOperation(f"op_{suffix}", "accepted", NOW, number)
    minutes = (operation.redispatch_at(60.0) - NOW).total_seconds() / 60
    expected = min(2**number, 60)
    assert expected * 0.9 - 1e-6 <= minutes <= expected * 1.1 + 1e-6
    assert operation.redispatch_at(60.0) == operation.redispatch_at(60.0)


def test_operations_lost_together_do_not_come_back_together():
    moments = {
        DispatchedOperation(f"op_{number}", "accepted", NOW, 0).redispatch_at(60.0) for number in range(50)
    }
    assert len(moments) > 40
    assert max(moments) - min(moments) > timedelta(seconds=6)


def test_the_next_look_is_when_something_is_due_and_never_at_once():
    assert seconds_until(None, NOW) is None
    assert seconds_until(LATER, NOW) == 1.0
    assert seconds_until(NOW - timedelta(hours=1), NOW) == BUSY_SECONDS


def run(go_round):
    stop = threading.Event()
    worker = Worker("test", go_round, stop)
    worker.start()
    return worker, stop


def end(worker, stop):
    stop.set()
    worker.wake()
    assert worker.join(DEADLINE_SECONDS)


def test_a_worker_goes_again_while_there_is_more_and_then_waits_to_be_woken():
    rounds = []

    def go_round():
        rounds.append(1)
        return Round(again=len(rounds) < 3)

    worker, stop = run(go_round)
    wait_until(lambda: len(rounds) == 3)
    worker.wake()
    wait_until(lambda: len(rounds) == 4)
    end(worker, stop)


def test_a_worker_goes_again_when_something_is_due():
    rounds = []

    def go_round():
        rounds.append(1)
        return Round(next_seconds=0.01)

    worker, stop = run(go_round)
    wait_until(lambda: len(rounds) > 3)
    end(worker, stop)


@pytest.mark.parametrize("error", [TransientError("away"), KeyError("bug")])
def test_a_worker_outlives_its_failures_and_tries_again_without_being_woken(error):
    rounds = []

    def go_round():
        rounds.append(1)
        if len(rounds) < 4:
            raise error
        return Round()

    worker, stop = run(go_round)
    wait_until(lambda: len(rounds) == 4)
    end(worker, stop)


def test_a_wake_during_a_round_is_not_lost():
    rounds, inside, go_on = [], threading.Event(), threading.Event()

    def go_round():
        rounds.append(1)
        inside.set()
        go_on.wait(DEADLINE_SECONDS)
        return Round()

    worker, stop = run(go_round)
    assert inside.wait(DEADLINE_SECONDS)
    worker.wake()
    go_on.set()
    wait_until(lambda: len(rounds) == 2)
    end(worker, stop)


def test_the_settings_defaults():
    settings = Settings.from_environment(ENVIRONMENT)
    assert settings.pubsub_emulator_host is None
    assert (settings.poll_seconds, settings.publish_timeout_seconds) == (1.0, 5.0)
    assert settings.relay.lease_seconds > settings.publish_timeout_seconds
    assert settings.watchdog.first_redispatch_seconds == 60.0
    assert settings.watchdog.settling_seconds == 660.0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"GOOGLE_CLOUD_PROJECT": ""}, "GOOGLE_CLOUD_PROJECT"),
        ({"PUBSUB_EMULATOR_HOST": "127.0.0.1:8085", "K_SERVICE": "x"}, "PUBSUB_EMULATOR_HOST"),
        ({"POLL_SECONDS": "soon"}, "POLL_SECONDS"),
        ({"POLL_SECONDS": "nan"}, "POLL_SECONDS"),
        ({"PUBLISH_TIMEOUT_SECONDS": "9"}, "PUBLISH_TIMEOUT_SECONDS"),
        ({"MAX_BATCH_MESSAGES": "1001"}, "MAX_BATCH_MESSAGES"),
        ({"WATCHDOG_FIRST_SECONDS": "0"}, "WATCHDOG_FIRST_SECONDS"),
        ({"DATABASE_URL": "?"}, "DATABASE_URL"),
    ],
)
def test_a_wrong_setting_is_named_at_boot(changes, named):
    with pytest.raises(SettingsError, match=named):
        Settings.from_environment(ENVIRONMENT | changes)


def test_a_worker_that_is_woken_all_the_time_goes_round_once_in_each_pause():
    stop, rounds = threading.Event(), []

    def go_round():
        rounds.append(time.monotonic())
        worker.wake()
        if len(rounds) == 5:
            stop.set()
        return Round(pause_seconds=0.02)

    worker = Worker("paced", go_round, stop)
    worker.start()
    assert worker.join(DEADLINE_SECONDS)
    assert len(rounds) == 5
    assert rounds[-1] - rounds[0] >= 4 * 0.02
