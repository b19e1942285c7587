"""A pusher of our own: pulls from the emulator and POSTs what Pub/Sub's push would, with many in flight.

The emulator itself keeps two pushes in flight per subscription, whatever its settings.
https://cloud.google.com/pubsub/docs/push#receive_push
"""

import base64
import http.client
import json
import queue
import threading
from typing import Any
from urllib.parse import urlsplit

import grpc
from google.api_core import exceptions
from google.pubsub_v1 import SubscriberClient
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from google.pubsub_v1.types import ReceivedMessage

PULL_SECONDS = 2.0
ANSWER_SECONDS = 120.0
ACKNOWLEDGED = frozenset({102, 200, 201, 202, 204})


class Pusher:
    """Pushes a subscription to the endpoints until closed; the broker sends again what is nacked.

    `urls` are full addresses of push routes. Counts are of HTTP answers.
    """

    def __init__(self, emulator: str, subscription: str, urls: list[str], *, in_flight: int) -> None:
        self._channel = grpc.insecure_channel(emulator)
        self._client = SubscriberClient(transport=SubscriberGrpcTransport(channel=self._channel))
        self._subscription = subscription
        self._urls = urls
        self._in_flight = in_flight
        self._places = threading.Semaphore(in_flight)
        self._messages: queue.Queue[ReceivedMessage | None] = queue.Queue()
        self._acks: queue.Queue[str | None] = queue.Queue()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.acked = 0
        self.nacked = 0
        senders = [threading.Thread(target=self._send_all, args=(n,), daemon=True) for n in range(in_flight)]
        self._threads = [
            threading.Thread(target=self._pull_all, daemon=True),
            threading.Thread(target=self._ack_all, daemon=True),
            *senders,
        ]

    def start(self) -> "Pusher":
        for thread in self._threads:
            thread.start()
        return self

    def close(self) -> None:
        self._stop.set()
        for _ in range(self._in_flight):
            self._messages.put(None)
        self._acks.put(None)
        for thread in self._threads:
            thread.join(PULL_SECONDS * 2)
        self._channel.close()

    def _pull_all(self) -> None:
        while not self._stop.is_set():
            self._places.acquire()
            places = 1
            while places < self._in_flight and self._places.acquire(blocking=False):
                places += 1
            received = self._pull(places)
            for message in received:
                self._messages.put(message)
            for _ in range(places - len(received)):
                self._places.release()

    def _pull(self, places: int) -> list[ReceivedMessage]:
        try:
            answer = self._client.pull(
                subscription=self._subscription, max_messages=places, timeout=PULL_SECONDS, retry=None
            )
        except (exceptions.DeadlineExceeded, exceptions.ServiceUnavailable, exceptions.Cancelled):
            return []
        return list(answer.received_messages)

    def _ack_all(self) -> None:
        while (first := self._acks.get()) is not None:
            ids = [first]
            while not self._acks.empty() and (more := self._acks.get()) is not None:
                ids.append(more)
            self._client.acknowledge(subscription=self._subscription, ack_ids=ids)

    def _send_all(self, number: int) -> None:
        url = urlsplit(self._urls[number % len(self._urls)])
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=ANSWER_SECONDS)
        while (received := self._messages.get()) is not None:
            is_acked = self._send(connection, url.path, received)
            with self._lock:
                self.acked += is_acked
                self.nacked += not is_acked
            if is_acked:
                self._acks.put(received.ack_id)
            self._places.release()
        connection.close()

    def _send(self, connection: http.client.HTTPConnection, path: str, received: ReceivedMessage) -> bool:
        body = json.dumps(self._envelope(received))
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return False
        return answer.status in ACKNOWLEDGED

    def _envelope(self, received: ReceivedMessage) -> dict[str, Any]:
        message = received.message
        return {
            "message": {
                "data": base64.b64encode(message.data).decode(),
                "attributes": dict(message.attributes),
                "messageId": message.message_id,
                "message_id": message.message_id,
                "publishTime": message.publish_time.isoformat(),
                "publish_time": message.publish_time.isoformat(),
            },
            "subscription": self._subscription,
        }
