"""NOTIFY and LISTEN on a real server, and what happens when the connection dies."""

import threading
import time

import pytest
from sqlalchemy import text
from waiting import DEADLINE_SECONDS, wait_until

from bridge.storage.engine import DatabaseSettings, make_engine
from bridge.storage.wake import CHANNEL, WakeListener, Waker
from devstack.postgres import free_port

pytestmark = pytest.mark.integration

TERMINATE = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE :pattern")


@pytest.fixture
def engine(database):
    settings = DatabaseSettings(database.url_for("dispatcher"), None, None, None)
    engine = make_engine(settings, pool_size=1, application_name="test")
    yield engine
    engine.dispose()


@pytest.fixture
def stop():
    return threading.Event()


@pytest.fixture
def waker(engine):
    waker = Waker(engine)
    yield waker
    waker.close()


@pytest.fixture
def listener(engine, stop):
    listener = WakeListener(engine)
    assert listener.wait(DEADLINE_SECONDS, stop), "connecting counts as a wake"
    yield listener
    listener.close()


def kill(database, statement):
    with database.engine.begin() as connection:
        assert connection.execute(TERMINATE, {"pattern": f"%{statement} {CHANNEL}"}).rowcount == 1


def test_a_wake_is_heard(waker, listener, stop):
    waker.wake()
    assert listener.wait(DEADLINE_SECONDS, stop)


def test_without_a_wake_the_wait_ends_after_its_time(listener, stop):
    assert not listener.wait(0.05, stop)


def test_a_burst_of_wakes_is_a_handful_of_notifications(waker, listener, stop):
    for _ in range(5000):
        waker.wake()
    heard = 0
    while listener.wait(0.3, stop):
        heard += 1
    assert 1 <= heard < 100


def test_a_wake_after_the_last_one_was_heard_is_heard_again(waker, listener, stop):
    for _ in range(20):
        waker.wake()
        assert listener.wait(DEADLINE_SECONDS, stop)


def test_both_live_beside_a_pool_of_one_connection(engine, waker, listener, stop):
    with engine.connect() as connection:
        waker.wake()
        assert listener.wait(DEADLINE_SECONDS, stop)
        assert connection.execute(text("SELECT 1")).scalar() == 1


def test_a_listener_whose_connection_was_killed_connects_again_and_says_that_it_may_have_missed_some(
    database, waker, listener, stop
):
    kill(database, "LISTEN")
    assert not listener.wait(DEADLINE_SECONDS, stop)
    assert listener.wait(DEADLINE_SECONDS, stop)
    waker.wake()
    assert listener.wait(DEADLINE_SECONDS, stop)


def test_a_waker_whose_connection_was_killed_still_wakes(database, waker, listener, stop):
    waker.wake()
    assert listener.wait(DEADLINE_SECONDS, stop)
    kill(database, "NOTIFY")
    waker.wake()
    assert listener.wait(DEADLINE_SECONDS, stop)


def test_a_waker_without_a_database_neither_blocks_nor_fails():
    url = f"postgresql+pg8000://nobody@127.0.0.1:{free_port()}/nothing"
    settings = DatabaseSettings(url, None, None, None)
    waker = Waker(make_engine(settings, pool_size=1, application_name="test"))
    started = time.monotonic()
    waker.wake()
    assert time.monotonic() - started < DEADLINE_SECONDS
    waker.close()


def test_the_thread_ends_when_closed(waker):
    waker.wake()
    waker.close()
    wait_until(lambda: not waker._thread.is_alive(), what="end of the waker's thread")
