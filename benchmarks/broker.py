"""A broker for benchmarks: the Pub/Sub emulator as a process, its topics and subscriptions."""

import contextlib
import os
import time
from collections.abc import Iterator

import grpc
import requests
from google.api_core import exceptions
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from google.pubsub_v1.types import PubsubMessage

from benchmarks.servers import process
from benchmarks.stage import PROJECT, Stage
from bridge.messages import EVENTS_TOPIC
from devstack.emulators import find_emulators
from devstack.postgres import free_port
from devstack.preflight import StartError

READY_SECONDS = 40.0
POLL_SECONDS = 0.05
PULL_SECONDS = 2.0


@contextlib.contextmanager
def bare_broker(stage: Stage) -> Iterator[str]:
    """A broker with the events topic and nobody who takes its messages."""
    with broker(stage) as address:
        create_topic(address, EVENTS_TOPIC, subscribed=False)
        yield address


@contextlib.contextmanager
def broker(stage: Stage) -> Iterator[str]:
    """Start it; yield its address, "host:port"."""
    port = free_port()
    command = find_emulators(os.environ).pubsub_command(port)
    with process(command, dict(os.environ), stage.folder / "pubsub.log"):
        deadline = time.monotonic() + READY_SECONDS
        while True:
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"http://127.0.0.1:{port}/", timeout=1).status_code == 200:
                    break
            if time.monotonic() > deadline:
                raise StartError("the Pub/Sub emulator did not start")
            time.sleep(POLL_SECONDS)
        yield f"127.0.0.1:{port}"


def create_topic(address: str, topic: str, *, subscribed: bool = True) -> None:
    name = f"projects/{PROJECT}/topics/{topic}"
    with grpc.insecure_channel(address) as channel:
        PublisherClient(transport=PublisherGrpcTransport(channel=channel)).create_topic(name=name)
    if subscribed:
        subscribe(address, topic, topic)


def subscribe(address: str, topic: str, subscription: str) -> None:
    with grpc.insecure_channel(address) as channel:
        SubscriberClient(transport=SubscriberGrpcTransport(channel=channel)).create_subscription(
            {
                "name": f"projects/{PROJECT}/subscriptions/{subscription}",
                "topic": f"projects/{PROJECT}/topics/{topic}",
                "ack_deadline_seconds": 120,
            }
        )


def drop_subscription(address: str, subscription: str) -> None:
    with grpc.insecure_channel(address) as channel:
        client = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
        client.delete_subscription(subscription=f"projects/{PROJECT}/subscriptions/{subscription}")


def pull(address: str, subscription: str) -> Iterator[PubsubMessage]:
    """Take everything that a subscription has by now."""
    name = f"projects/{PROJECT}/subscriptions/{subscription}"
    with grpc.insecure_channel(address) as channel:
        client = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
        while True:
            try:
                answer = client.pull(subscription=name, max_messages=1000, timeout=PULL_SECONDS, retry=None)
            except exceptions.DeadlineExceeded:
                return
            if not answer.received_messages:
                return
            yield from (received.message for received in answer.received_messages)
            ids = [received.ack_id for received in answer.received_messages]
            client.acknowledge(subscription=name, ack_ids=ids)
