"""A publisher whose messages carry their traces on: a span per message, whatever it was accepted under."""

from collections.abc import Sequence
from dataclasses import replace

from bridge.messages import EventMessage, OperationMessage
from bridge.tracing import Tracer
from dispatcher.relay import Publisher


class TracedPublisher:
    """See Publisher."""

    def __init__(self, publisher: Publisher, tracer: Tracer) -> None:
        self._publisher = publisher
        self._tracer = tracer

    def publish(self, topic: str, messages: Sequence[OperationMessage | EventMessage]) -> None:
        """See Publisher."""
        parents = [message.traceparent for message in messages]
        with self._tracer.publishing(topic, parents) as carried:
            continued = [
                replace(message, traceparent=traceparent)
                for message, traceparent in zip(messages, carried, strict=True)
            ]
            self._publisher.publish(topic, continued)
