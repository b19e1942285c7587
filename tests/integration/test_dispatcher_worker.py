"""The whole worker on a real database: woken, polled, hanging in one place, stopped."""

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from accepted import LANE, OTHER_LANE, add_lanes, add_payments, change, outbox_rows, scalar
from fakes.mark_store import InMemoryMarkStore
from fakes.publisher import InMemoryPublisher
from sqlalchemy import event, text
from waiting import DEADLINE_SECONDS, wait_until

from bridge.clock import SystemClock
from bridge.high_water_mark import HighWaterMark
from bridge.messages import EVENTS_LANE, EVENTS_TOPIC, operations_topic
from bridge.storage.engine import DatabaseSettings, make_engine
from bridge.storage.wake import Waker
from dispatcher import app
from dispatcher.app import Dispatcher
from dispatcher.mark_keeper import MarkKeeper
from dispatcher.settings import Settings

pytestmark = pytest.mark.integration

TOPIC, OTHER_TOPIC = operations_topic(LANE), operations_topic(OTHER_LANE)
NEVER = "60"


@pytest.fixture
def owner(database):
    add_lanes(database.engine, s4_main=4, s4_second=4)
    return database.engine


@pytest.fixture
def publisher():
    return InMemoryPublisher()


@pytest.fixture
def engine(database):
    settings = DatabaseSettings(database.url_for("dispatcher"), None, None, None)
    engine = make_engine(settings, pool_size=8, application_name="dispatcher")
    yield engine
    engine.dispose()


@pytest.fixture
def start(database, owner, engine, publisher):
    running = []

    def start(mark_store=None, **environment):
        settings = Settings.from_environment(
            {"DATABASE_URL": database.url_for("dispatcher"), "GOOGLE_CLOUD_PROJECT": "p"} | environment
        )
        stop, clock = threading.Event(), SystemClock()
        keeper = None if mark_store is None else MarkKeeper(engine, mark_store, clock, settings.mark)
        dispatcher = Dispatcher(settings, engine, publisher, clock, stop, keeper)
        thread = threading.Thread(target=dispatcher.run)
        thread.start()
        running.append((stop, thread))
        wait_until(lambda: len(dispatcher._lanes) == 2, what="start of the lanes")
        wait_until(lambda: listens(owner), what="LISTEN")
        return stop, thread

    yield start
    for stop, thread in running:
        stop.set()
        thread.join(DEADLINE_SECONDS)
        assert not thread.is_alive()


def listens(owner):
    return scalar(owner, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%LISTEN bridge_wake'") > 0


def now():
    return datetime.now(UTC)


def accept(owner, count=1, **options):
    return add_payments(owner, count, now=now(), **options)


@pytest.fixture
def wake(database):
    settings = DatabaseSettings(database.url_for("gateway"), None, None, None)
    engine = make_engine(settings, pool_size=1, application_name="gateway")
    waker = Waker(engine)
    yield waker.wake
    waker.close()
    engine.dispose()


def test_what_is_accepted_is_on_its_way_without_a_poll_when_it_is_told(owner, start, publisher, wake):
    start(POLL_SECONDS=NEVER)
    [operation_id] = accept(owner)
    wake()
    wait_until(lambda: publisher.messages(TOPIC) and publisher.messages(EVENTS_TOPIC))
    assert publisher.operation_ids() == [operation_id]
    wait_until(lambda: outbox_rows(owner) == outbox_rows(owner, EVENTS_LANE) == {})


def test_nobody_telling_costs_a_poll_and_no_more(owner, start, publisher):
    start(POLL_SECONDS="0.2")
    accept(owner)
    wait_until(lambda: publisher.messages(TOPIC) and publisher.messages(EVENTS_TOPIC))


def test_what_is_due_soon_goes_out_then_and_not_at_the_next_poll(owner, start, publisher, wake):
    start(POLL_SECONDS=NEVER)
    due = now() + timedelta(seconds=0.5)
    accept(owner, not_before=due)
    wake()
    wait_until(lambda: publisher.messages(TOPIC))
    assert due <= now()


def test_a_lane_whose_topic_hangs_holds_up_neither_the_other_lane_nor_the_events(
    owner, start, publisher, wake
):
    gate = publisher.gates[TOPIC] = threading.Event()
    start()
    accept(owner, 3)
    wake()
    wait_until(lambda: publisher.calls >= 1)
    others = accept(owner, 3, lane=OTHER_LANE)
    wake()
    wait_until(lambda: len(publisher.messages(EVENTS_TOPIC)) == 6)
    wait_until(lambda: publisher.operation_ids(OTHER_TOPIC) == others)
    assert publisher.messages(TOPIC) == []
    gate.set()
    wait_until(lambda: len(publisher.messages(TOPIC)) == 3)


def test_while_the_broker_is_away_the_feed_grows_and_afterwards_everything_goes_out(
    owner, start, publisher, wake
):
    publisher.away = True
    start()
    ids = accept(owner, 5)
    wake()
    wait_until(lambda: scalar(owner, "SELECT count(*) FROM feed") == 5)
    wait_until(lambda: publisher.calls > 4)
    accept(owner, 1)
    wake()
    wait_until(lambda: scalar(owner, "SELECT count(*) FROM feed") == 6)
    publisher.away = False
    wait_until(lambda: len(publisher.messages(EVENTS_TOPIC)) == 6)
    wait_until(lambda: set(ids) <= set(publisher.operation_ids()))


def test_a_claim_that_died_comes_back_by_itself(owner, start, publisher):
    [operation_id] = add_payments(owner, 1, row=False, event=False)
    change(
        owner, operation_id, status="processing", claims_started=1, lease_until=now() + timedelta(seconds=0.3)
    )
    start(WATCHDOG_INTERVAL_SECONDS="0.1", SAP_SETTLING_SECONDS="0.1", POLL_SECONDS="0.2")
    wait_until(lambda: publisher.operation_ids() == [operation_id])
    assert scalar(owner, "SELECT status FROM operations") == "unknown"


def test_several_workers_share_the_work(owner, start, publisher, wake):
    start()
    start()
    accept(owner, 8)
    accept(owner, 8, lane=OTHER_LANE)
    wake()
    wait_until(lambda: len(publisher.operation_ids()) == 16)
    assert max(publisher.times().values()) == 1
    wait_until(lambda: len(publisher.messages(EVENTS_TOPIC)) == 16)


def test_an_idle_worker_asks_the_database_at_most_five_times_a_second(start, engine):
    start()
    statements = []
    begins = time.monotonic()
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    wait_until(lambda: time.monotonic() - begins > 4, what="four seconds of idleness")
    assert statements, "it does poll"
    assert len(statements) / (time.monotonic() - begins) <= 5, statements


def test_a_stop_lets_the_round_under_way_end(owner, start, publisher, wake):
    gate = publisher.gates[TOPIC] = threading.Event()
    stop, thread = start()
    accept(owner)
    wake()
    # the operation is in the gate, and its event has gone out
    wait_until(lambda: publisher.calls >= 2 and publisher.messages(EVENTS_TOPIC))
    stop.set()
    gate.set()
    thread.join(DEADLINE_SECONDS)
    assert not thread.is_alive()
    assert len(publisher.messages(TOPIC)) == 1
    assert outbox_rows(owner) == {}


def test_a_publish_that_never_ends_does_not_keep_the_worker_past_its_time(
    owner, start, publisher, wake, monkeypatch
):
    monkeypatch.setattr(app, "STOP_SECONDS", 0.1)
    gate = publisher.gates[TOPIC] = threading.Event()
    stop, thread = start()
    accept(owner)
    wake()
    claimed = "SELECT count(*) FROM outbox WHERE lane = :lane AND claim_id IS NOT NULL"
    wait_until(lambda: scalar(owner, claimed, lane=LANE) == 1, what="a publish that hangs")
    stop.set()
    thread.join(DEADLINE_SECONDS)
    assert not thread.is_alive()
    assert scalar(owner, claimed, lane=LANE) == 1, "the publish has ended before the worker"
    gate.set()
    wait_until(lambda: outbox_rows(owner) == {}, what="the end of the publish")


def test_a_store_of_the_mark_that_hangs_holds_up_neither_start_nor_stop(owner, start, publisher, monkeypatch):
    monkeypatch.setattr(app, "FIRST_LOOK_SECONDS", 0.05)
    store, released = InMemoryMarkStore(), threading.Event()
    store.after_read = lambda: released.wait(DEADLINE_SECONDS)
    accept(owner)
    stop, thread = start(store)
    wait_until(lambda: publisher.messages(TOPIC), what="the operation goes out")
    stop.set()
    thread.join(DEADLINE_SECONDS)
    assert not thread.is_alive()
    released.set()


def test_nothing_went_out_of_a_database_made_anew_before_the_mark_was_looked_at(
    database, owner, start, publisher
):
    """PostgreSQL runs and knows the tables that the migrations have just made in the place of others."""
    store = InMemoryMarkStore()
    store.write(HighWaterMark("older", 7, "token", 1, now()), None)
    accept(owner)
    start(store, POLL_SECONDS="0.05")
    wait_until(lambda: store.read().mark.serial == 7 and is_suspected(owner), what="the look at the mark")
    accept(owner)
    wait_until(lambda: scalar(owner, "SELECT bool_and(held) FROM sap_systems"), what="the lanes held")
    assert publisher.calls == 0


def is_suspected(owner):
    return scalar(owner, "SELECT suspected_because FROM database_identity") == "another-database"


def test_postgresql_that_has_started_is_compared_at_once_and_the_lanes_go_on(owner, start, publisher):
    store = InMemoryMarkStore()
    start(store, POLL_SECONDS="0.05")
    wait_until(lambda: store.read() is not None, what="the first mark")
    with owner.begin() as connection:
        connection.execute(
            text("UPDATE database_identity SET trusted_start = trusted_start - interval '1 second'")
        )
    accept(owner)
    wait_until(lambda: publisher.messages(TOPIC), what="the operation goes out")
    assert store.read().mark.serial > 1
