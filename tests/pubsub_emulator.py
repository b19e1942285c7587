"""Google's Pub/Sub emulator on a free port, to be killed and started again at will."""

import os
import subprocess
import urllib.error
import urllib.request
from contextlib import suppress

import grpc
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from stand_ins import free_port
from waiting import DEADLINE_SECONDS, wait_until

from devstack.emulators import find_emulators

PROJECT = "test-project"


class PubSubEmulator:
    """It has lost everything whenever it starts."""

    def __init__(self, folder):
        self.port = free_port()
        self._log = folder / "pubsub.log"
        self._process = None

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def start(self):
        command = find_emulators(os.environ).pubsub_command(self.port)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(self._answers, what="start of the Pub/Sub emulator")
        return self

    def kill(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=DEADLINE_SECONDS)
            self._process = None

    def create_topic(self, topic, **subscription):
        """Create the topic with a subscription of its name; more of its fields as keywords."""
        name = f"projects/{PROJECT}/topics/{topic}"
        with grpc.insecure_channel(self.address) as channel:
            PublisherClient(transport=PublisherGrpcTransport(channel=channel)).create_topic(name=name)
            request = {"name": f"projects/{PROJECT}/subscriptions/{topic}", "topic": name} | subscription
            SubscriberClient(transport=SubscriberGrpcTransport(channel=channel)).create_subscription(request)

    def pull(self, topic, count):
        """Pull and acknowledge until there are `count` messages; return them in the order they came."""
        name = f"projects/{PROJECT}/subscriptions/{topic}"
        messages = []
        with grpc.insecure_channel(self.address) as channel:
            client = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))

            def enough():
                answer = client.pull(subscription=name, max_messages=1000, timeout=5)
                received = answer.received_messages
                messages.extend(item.message for item in received)
                if received:
                    client.acknowledge(subscription=name, ack_ids=[item.ack_id for item in received])
                return len(messages) >= count

            wait_until(enough, what=f"{count} messages of {topic}")
        return messages

    def _answers(self):
        assert self._process.poll() is None, self._log.read_text()
        with (
            suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(f"http://{self.address}/", timeout=1) as answer,
        ):
            return answer.status == 200
        return False
