"""A publisher that counts what it sends: OpenTelemetry's messaging.client.sent.messages."""

from collections.abc import Sequence

from bridge.errors import TransientError
from bridge.messages import EventMessage, OperationMessage
from bridge.metrics import Metrics
from dispatcher.relay import Publisher


class MeasuredPublisher:
    """See Publisher."""

    def __init__(self, publisher: Publisher, metrics: Metrics) -> None:
        self._publisher = publisher
        self._sent = metrics.counter("messaging.client.sent.messages")

    def publish(self, topic: str, messages: Sequence[OperationMessage | EventMessage]) -> None:
        """See Publisher."""
        attributes: dict[str, str | int] = {
            "messaging.system": "gcp_pubsub",
            "messaging.operation.name": "send",
            "messaging.destination.name": topic,
        }
        try:
            self._publisher.publish(topic, messages)
        except TransientError as error:
            attributes["error.type"] = type(error).__name__
            raise
        finally:
            self._sent.add(len(messages), attributes)
