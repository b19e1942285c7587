"""The port Publisher: the fake, and Pub/Sub's client on the emulator."""

import socket
import threading
import time
import uuid

import pytest
from fakes.publisher import InMemoryPublisher
from pubsub_emulator import PROJECT, PubSubEmulator
from waiting import DEADLINE_SECONDS, wait_until

from bridge.errors import TransientError
from bridge.gcp.pubsub import MAX_BATCH_MESSAGES, PubSubPublisher
from bridge.messages import EventMessage, OperationMessage, decode_event, decode_operation

pytestmark = pytest.mark.conformance

OPERATION = OperationMessage(
    "op_1", "pay_1", "par_1", "s4-main", 3, "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
)


class FakeHarness:
    def __init__(self):
        self.topic = "topic"
        self.publisher = InMemoryPublisher([self.topic])

    def received(self, count):
        messages = self.publisher.messages(self.topic)
        assert len(messages) == count
        return messages

    def take_away(self):
        self.publisher.away = True


class EmulatorHarness:
    def __init__(self, emulator, timeout_seconds=20.0):
        self.topic = f"topic-{uuid.uuid4()}"
        emulator.create_topic(self.topic)
        self._emulator = emulator
        self.publisher = PubSubPublisher(
            PROJECT, emulator_host=emulator.address, timeout_seconds=timeout_seconds
        )

    def received(self, count):
        messages = self._emulator.pull(self.topic, count)
        assert len(messages) == count
        return [decode(message) for message in messages]

    def take_away(self):
        self._emulator.kill()


def decode(message):
    attributes = dict(message.attributes)
    if attributes["ce-type"] == "bridge.event.sequenced":
        return decode_event(message.data, attributes)
    return decode_operation(message.data, attributes)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    emulator = PubSubEmulator(tmp_path_factory.mktemp("pubsub")).start()
    yield emulator
    emulator.kill()


@pytest.fixture
def own_emulator(tmp_path):
    emulator = PubSubEmulator(tmp_path).start()
    yield emulator
    emulator.kill()


@pytest.fixture(params=["fake", "emulator"])
def harness(request):
    made = FakeHarness() if request.param == "fake" else EmulatorHarness(request.getfixturevalue("emulator"))
    yield made
    made.publisher.close()


def test_what_is_published_arrives_as_it_was(harness):
    event = EventMessage("evt_1", "par_1", 42)
    harness.publisher.publish(harness.topic, [OPERATION, event])
    assert set(harness.received(2)) == {OPERATION, event}


def test_a_whole_batch_is_stored_when_publish_returns(harness):
    batch = [EventMessage(f"evt_{number}", "par_1", number) for number in range(MAX_BATCH_MESSAGES)]
    harness.publisher.publish(harness.topic, batch)
    assert {message.sequence for message in harness.received(MAX_BATCH_MESSAGES)} == set(
        range(MAX_BATCH_MESSAGES)
    )


def test_a_topic_that_is_not_there_is_transient_because_an_emulator_forgets_its_topics(harness):
    with pytest.raises(TransientError):
        harness.publisher.publish("no-such-topic", [OPERATION])


def test_several_threads_may_publish_at_once(harness):
    threads = [
        threading.Thread(
            target=harness.publisher.publish, args=(harness.topic, [EventMessage(f"evt_{n}", "par_1", n)])
        )
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert {message.sequence for message in harness.received(8)} == set(range(8))


@pytest.mark.parametrize("kind", ["fake", "emulator"])
def test_a_broker_that_is_away_is_transient_within_the_timeout(kind, request):
    harness = (
        FakeHarness() if kind == "fake" else EmulatorHarness(request.getfixturevalue("own_emulator"), 3.0)
    )
    harness.take_away()
    started = time.monotonic()
    with pytest.raises(TransientError):
        harness.publisher.publish(harness.topic, [OPERATION])
    assert time.monotonic() - started < DEADLINE_SECONDS
    harness.publisher.close()


def test_a_restarted_broker_is_used_again_within_seconds(own_emulator):
    harness = EmulatorHarness(own_emulator, 5.0)
    own_emulator.kill()
    with pytest.raises(TransientError):
        harness.publisher.publish(harness.topic, [OPERATION])
    own_emulator.start()
    own_emulator.create_topic(harness.topic)
    harness.publisher.publish(harness.topic, [OPERATION])
    assert harness.received(1) == [OPERATION]
    harness.publisher.close()


def test_a_broker_that_accepts_connections_and_says_nothing_is_given_up_after_the_timeout():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        publisher = PubSubPublisher(PROJECT, emulator_host=address, timeout_seconds=0.5)
        failures = []

        def publish():
            try:
                publisher.publish("topic", [OPERATION])
            except TransientError as error:
                failures.append(error)

        thread = threading.Thread(target=publish)
        thread.start()
        wait_until(lambda: failures, what="the end of a hanging publish")
        thread.join(DEADLINE_SECONDS)
        publisher.close()
