"""A subscriber that is paused, in simulated time: few messages, and no call too many when it goes on."""

import pytest
from fakes.publisher import InMemoryPublisher
from posting_stage import SETTLING_SECONDS, make_bridge
from sqlalchemy import text

from bridge.messages import operations_topic
from bridge.storage.events import put_back
from bridge.storage.migrate import add_sap_systems
from dispatcher.relay import OperationsRelay, RelaySettings
from dispatcher.watchdog import Watchdog, WatchdogSettings

pytestmark = pytest.mark.integration

LANE = "s4-main"
PAYMENTS = 200
PAUSE_SECONDS = 600
WATCHDOG_INTERVAL_SECONDS = 5
MAX_MESSAGES = 4


@pytest.fixture
def bridge(database):
    with database.engine.begin() as connection:
        add_sap_systems(connection, {LANE: PAYMENTS})
    engine = database.engine_for("sap_adapter")
    yield make_bridge(database.engine, engine)
    engine.dispose()


@pytest.fixture
def dispatcher(database):
    engine = database.engine_for("dispatcher")
    yield engine
    engine.dispose()


def accept(bridge):
    operation_ids = [bridge.accept() for _ in range(PAYMENTS)]
    with bridge.engine.begin() as connection:
        # the window is open, as it is after a quiet hour
        connection.execute(text("UPDATE sap_systems SET call_window = hard_cap"))
        for operation_id in operation_ids:
            put_back(connection, operation_id, not_before=bridge.clock.now(), now=bridge.clock.now())
    return operation_ids


def test_a_subscriber_paused_for_10_minutes_gets_4_messages_each_at_most_and_sap_one_call(bridge, dispatcher):
    publisher = InMemoryPublisher()
    relay = OperationsRelay(LANE, dispatcher, publisher, bridge.clock, RelaySettings(25.0, 500))
    watchdog = Watchdog(
        dispatcher,
        bridge.clock,
        WatchdogSettings(WATCHDOG_INTERVAL_SECONDS, 60.0, SETTLING_SECONDS, 900.0),
        lambda: None,
    )

    def go_round():
        while watchdog.go_round().again:
            pass
        while relay.go_round().again:
            pass

    operation_ids = accept(bridge)
    go_round()
    assert set(publisher.times().values()) == {1}, "all 200 are out"
    for _ in range(PAUSE_SECONDS // WATCHDOG_INTERVAL_SECONDS):
        bridge.clock.advance(WATCHDOG_INTERVAL_SECONDS)
        go_round()
    copies = publisher.times()
    assert set(copies) == set(operation_ids)
    assert 2 <= max(copies.values()) <= MAX_MESSAGES

    waiting = publisher.messages(operations_topic(LANE))
    waiting.sort(key=lambda message: message.operation_id[::-1])  # Pub/Sub promises no order
    for message in waiting:
        bridge.posting.handle(message)
    go_round()
    assert len(bridge.sap.sendings) == PAYMENTS
    assert bridge.sap.questions == 0
    with bridge.engine.connect() as connection:
        statuses = connection.execute(text("SELECT status, count(*) FROM operations GROUP BY 1")).all()
        queued = connection.execute(text("SELECT count(*) FROM outbox WHERE lane = :l"), {"l": LANE}).scalar()
    assert statuses == [("succeeded", PAYMENTS)]
    assert queued == 0
