"""Metrics: what is sent (OpenTelemetry's messaging.client.sent.messages), and how old the mark is."""

from collections.abc import Callable, Sequence

from bridge.errors import TransientError
from bridge.messages import EventMessage, OperationMessage
from bridge.metrics import Figures, Metrics
from dispatcher.relay import Publisher

MARK_AGE = "bridge.mark.age"


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


def register_mark_metrics(metrics: Metrics, age_seconds: Callable[[], float | None]) -> None:
    """Show how old the high-water mark is; nothing while a recovery is due."""

    def read() -> Figures:
        age = age_seconds()
        return {MARK_AGE: [] if age is None else [(age, {})]}

    metrics.gauges([MARK_AGE], read)
