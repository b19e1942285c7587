"""A lane's circuit, relay and adapter together: how it opens, and that it closes again."""

import pytest
from accepted import operation
from fakes.accepted import insert_accepted
from fakes.publisher import InMemoryPublisher
from posting_stage import make_bridge

from bridge.messages import operations_topic
from bridge.storage.events import put_back
from dispatcher.relay import OperationsRelay, RelaySettings
from dispatcher.watchdog import Watchdog, WatchdogSettings

pytestmark = pytest.mark.integration

LANE = "s4-main"


class Road:
    """From the outbox through the broker to the adapter, one round after the other."""

    def __init__(self, engine):
        self.engine = engine
        self.bridge = make_bridge(engine)
        self.publisher = InMemoryPublisher()
        self.relay = OperationsRelay(
            LANE, engine, self.publisher, self.bridge.clock, RelaySettings(25.0, 500)
        )
        self._handled = 0

    def accept(self):
        now = self.bridge.clock.now()
        with self.engine.begin() as connection:
            operation_id = insert_accepted(connection, now)
            put_back(connection, operation_id, not_before=now, now=now)
        return operation_id

    def go(self, rounds=1):
        """Return how many messages went to the adapter."""
        before = self._handled
        for _ in range(rounds):
            self.relay.go_round()
            messages = self.publisher.messages(operations_topic(LANE))
            for message in messages[self._handled :]:
                self.bridge.posting.handle(message)
            self._handled = len(messages)
        return self._handled - before

    def status(self, operation_id):
        return operation(self.engine, operation_id).status


@pytest.fixture
def road(database):
    return Road(database.engine)


def open_the_circuit(road):
    """Three operations whose outcome is unknown."""
    operations = [road.accept() for _ in range(3)]
    road.bridge.sap.script.extend(["drop"] * 3)
    road.go()
    assert [road.status(operation_id) for operation_id in operations] == ["unknown"] * 3
    assert road.bridge.lane().call_window == 0
    return operations


def test_questions_that_sap_never_answers_kept_a_lane_closed_that_takes_postings(road):
    """SAP's read side was down, its posting side not; every probe was a question."""
    open_the_circuit(road)
    road.bridge.sap.answers_questions = False
    waiting = road.accept()
    for _ in range(20):
        road.bridge.clock.advance(5)
        road.go()
        if road.status(waiting) == "succeeded":
            break
    assert road.status(waiting) == "succeeded"
    assert (road.bridge.lane().call_window, road.bridge.lane().failed_probes) == (1, 0)


def test_the_first_probe_after_unknown_outcomes_is_a_question(road):
    open_the_circuit(road)
    road.accept()
    road.bridge.clock.advance(2)
    sent = len(road.bridge.sap.sendings)
    road.go()
    assert road.bridge.sap.questions == 1
    assert len(road.bridge.sap.sendings) == sent


def test_a_half_open_lane_lets_one_call_through_whatever_was_out_before(road):
    """Messages that were on their way when the circuit opened come late, and are put back."""
    late = [road.accept() for _ in range(4)]
    road.relay.go_round()
    messages = road.publisher.messages(operations_topic(LANE))
    road._handled = len(messages)
    with road.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE sap_systems SET call_window = 0, failed_probes = 1, failing_operations = '{a,b,c}'"
        )
    road.bridge.clock.advance(1)
    road.accept()
    assert road.go() == 0, "what is out already may be the probe"
    road.bridge.sap.script.append("not-posted")
    for message in messages:
        road.bridge.posting.handle(message)
    assert len(road.bridge.sap.sendings) == 1
    assert road.bridge.lane().call_window == 0
    assert {road.status(operation_id) for operation_id in late} == {"accepted"}


def test_a_lane_whose_probe_was_lost_is_probed_again_once_the_watchdog_has_put_it_back(road):
    first = road.accept()
    with road.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE sap_systems SET call_window = 0, failed_probes = 1")
    road.relay.go_round()
    road._handled = len(road.publisher.messages(operations_topic(LANE)))
    assert road._handled == 1
    assert road.go() == 0
    road.bridge.clock.advance(66)
    watchdog = Watchdog(
        road.engine, road.bridge.clock, WatchdogSettings(5.0, 60.0, 60.0, 900.0), lambda: None
    )
    watchdog.go_round()
    road.go()
    assert road.status(first) == "succeeded"
    assert (road.bridge.lane().call_window, road.bridge.lane().failed_probes) == (1, 0)


def test_an_answered_question_opened_the_whole_window_to_a_sap_that_took_no_postings(road):
    """SAP's read side was up, its posting side not: each answer let a full window of postings through."""
    open_the_circuit(road)
    for _ in range(4):
        road.accept()
    road.bridge.sap.script.extend(["not-posted"] * 20)
    road.bridge.clock.advance(2)
    road.go()
    assert road.bridge.sap.questions == 1
    lane = road.bridge.lane()
    assert (lane.call_window, lane.failed_probes) == (1, 2)
    sent = len(road.bridge.sap.sendings)
    road.go(rounds=5)
    assert len(road.bridge.sap.sendings) == sent + 1, "one posting as a probe"
    assert road.bridge.lane().call_window == 0


def test_after_an_answered_question_one_posting_opens_the_lane(road):
    open_the_circuit(road)
    waiting = road.accept()
    road.bridge.clock.advance(2)
    road.go(rounds=2)
    assert road.status(waiting) == "succeeded"
    assert (road.bridge.lane().call_window, road.bridge.lane().failed_probes) == (1, 0)
