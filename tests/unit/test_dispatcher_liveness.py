"""A liveness probe that restarts what hangs, and nothing that fails because somebody else is away."""

import json
import threading
import urllib.error
import urllib.request

import pytest
from fakes.publisher import CrashError, InMemoryPublisher
from stand_ins import free_port
from waiting import DEADLINE_SECONDS, wait_until

from bridge.clock import SystemClock
from bridge.errors import TransientError
from bridge.storage.engine import DatabaseSettings, make_engine
from dispatcher.app import Dispatcher
from dispatcher.liveness import LivenessServer
from dispatcher.settings import Settings
from dispatcher.worker import Round, Worker

pytestmark = pytest.mark.unit

NO_TIME, LONG = -1.0, 3600.0


@pytest.fixture
def stop():
    stop = threading.Event()
    yield stop
    stop.set()


@pytest.fixture
def server():
    stuck = []
    server = LivenessServer("127.0.0.1", 0, lambda: list(stuck))
    server.stuck = stuck
    yield server
    server.close()


def ask(server, path="/livez"):
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{server.port}{path}", timeout=DEADLINE_SECONDS
        ) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_probe_gets_503_and_a_name_while_a_thread_is_stuck(server):
    assert ask(server) == (200, {"stuck": []})
    server.stuck.append("sequencer")
    status, said = ask(server)
    assert (status, json.loads(said)) == (503, {"stuck": ["sequencer"]})
    assert ask(server, "/")[0] == 404


def test_a_round_that_hangs_is_stuck_and_one_that_has_ended_is_not(stop):
    gate = threading.Event()
    entered = threading.Event()

    def hang():
        entered.set()
        gate.wait(DEADLINE_SECONDS)
        return Round()

    worker = Worker("w", hang, stop)
    assert not worker.is_stuck(NO_TIME), "it has not begun"
    worker.start()
    wait_until(entered.is_set)
    wait_until(lambda: worker.is_stuck(NO_TIME))
    assert not worker.is_stuck(LONG)
    gate.set()
    wait_until(lambda: not worker.is_stuck(NO_TIME))


def test_a_thread_that_has_died_is_stuck(stop):
    def die():
        raise CrashError

    worker = Worker("w", die, stop)
    threading.excepthook, before = lambda _: None, threading.excepthook
    try:
        worker.start()
        wait_until(lambda: worker.is_stuck(LONG))
    finally:
        threading.excepthook = before


def test_rounds_that_fail_are_rounds(stop):
    failures = []

    def fail():
        failures.append(1)
        raise TransientError("away")

    worker = Worker("w", fail, stop)
    worker.start()
    wait_until(lambda: len(failures) > 2)
    assert not worker.is_stuck(DEADLINE_SECONDS)


def test_a_database_that_is_away_makes_no_worker_unfit(stop):
    """Otherwise an outage of the database would be a loop of restarts."""
    url = f"postgresql+pg8000://nobody@127.0.0.1:{free_port()}/none"
    engine = make_engine(DatabaseSettings(url, None, None, None), pool_size=4, application_name="dispatcher")
    settings = Settings.from_environment(
        {"DATABASE_URL": url, "GOOGLE_CLOUD_PROJECT": "p", "POLL_SECONDS": "0.05"}
    )
    dispatcher = Dispatcher(settings, engine, InMemoryPublisher(), SystemClock(), stop)
    thread = threading.Thread(target=dispatcher.run)
    thread.start()
    try:
        wait_until(lambda: dispatcher._poll_failed and dispatcher._watchdog._failures > 1)
        assert dispatcher.stuck(DEADLINE_SECONDS) == []
    finally:
        stop.set()
        thread.join(DEADLINE_SECONDS)
        engine.dispose()
    assert not thread.is_alive()


def test_a_loop_that_no_longer_polls_is_stuck_too():
    settings = Settings.from_environment(
        {"DATABASE_URL": "postgresql+pg8000://u@h/d", "GOOGLE_CLOUD_PROJECT": "p"}
    )
    engine = make_engine(settings.database, pool_size=1, application_name="dispatcher")
    dispatcher = Dispatcher(settings, engine, InMemoryPublisher(), SystemClock(), threading.Event())
    assert dispatcher.stuck(LONG) == []
    assert dispatcher.stuck(NO_TIME) == ["poll"]
