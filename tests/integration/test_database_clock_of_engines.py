"""Engines compare a clock with the database's: each new connection does, and the ping before its use."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from waiting import DEADLINE_SECONDS

from bridge.clock import SystemClock
from bridge.errors import TransientError
from bridge.storage.accept import make_statement_engine
from bridge.storage.database_clock import SAMPLE_SECONDS, DatabaseClock, elapsed_seconds
from bridge.storage.engine import DatabaseSettings, make_engine, ping

pytestmark = pytest.mark.integration

NOBODY_LISTENS = "postgresql+pg8000://bridge@127.0.0.1:9/none"


class Shifted(SystemClock):
    """A machine's clock that is wrong."""

    def __init__(self, seconds):
        self.seconds = seconds

    def now(self):
        return super().now() + timedelta(seconds=self.seconds)


class Elapsed:
    """Elapsed time that can be put forward."""

    def __init__(self):
        self.ahead_seconds = 0.0

    def __call__(self):
        return elapsed_seconds() + self.ahead_seconds


def make_prepared(settings, **options):
    return make_engine(settings, prepared=True, **options)


@pytest.fixture(params=[make_engine, make_prepared, make_statement_engine])
def make(request, database):
    made = []

    def make_one(clock, url=None):
        settings = DatabaseSettings(url or database.url, None, None, None)
        made.append(request.param(settings, pool_size=2, application_name="test", clock=clock))
        return made[-1]

    yield make_one
    for engine in made:
        engine.dispose()


def is_right(clock):
    return abs((clock.now() - datetime.now(UTC)).total_seconds()) < clock.uncertainty_seconds() + 0.01


@pytest.mark.parametrize("seconds", [-600, -90, 90, 600])
def test_a_process_with_a_wrong_wall_clock_works_by_the_database(make, seconds):
    clock = DatabaseClock(Shifted(seconds))
    make(clock)
    assert is_right(clock)
    assert clock.local_offset_seconds() == pytest.approx(seconds, abs=1.0)


def test_a_pooled_connection_takes_a_sample_when_one_is_due_and_leaves_no_transaction(make):
    elapsed, local = Elapsed(), Shifted(0)
    clock = DatabaseClock(local, elapsed)
    engine = make(clock)
    ping(engine)
    assert not clock.is_sample_due()
    elapsed.ahead_seconds += SAMPLE_SECONDS + 1
    local.seconds += SAMPLE_SECONDS + 1
    assert clock.is_sample_due()
    with engine.connect() as connection:
        assert not clock.is_sample_due()
        assert not connection.connection.dbapi_connection._in_transaction
        connection.execute(text("CREATE TABLE kept (number integer)"))
        connection.commit()
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM kept")).scalar_one() == 0


def test_without_the_database_there_is_no_time_and_its_absence_is_the_databases_error(make):
    clock = DatabaseClock()
    engine = make(clock, NOBODY_LISTENS)
    with pytest.raises(TransientError):
        clock.now()
    with pytest.raises(DBAPIError), engine.connect():
        pass


def test_threads_that_all_need_the_first_sample_ask_once(make):
    clock = DatabaseClock()
    engine = make(clock)
    told, start = [], threading.Barrier(8)

    def tell():
        start.wait()
        told.append(clock.now())

    threads = [threading.Thread(target=tell) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert len(told) == 8
    assert engine.pool.checkedin() == 1


def test_a_connection_that_died_while_it_rested_is_replaced_by_one_that_takes_a_sample(make, database):
    elapsed = Elapsed()
    clock = DatabaseClock(elapsed=elapsed)
    engine = make(clock)
    ping(engine)
    with database.engine.begin() as connection:
        connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'test'")
        )
    elapsed.ahead_seconds += SAMPLE_SECONDS + 1
    ping(engine)
    assert not clock.is_sample_due()
