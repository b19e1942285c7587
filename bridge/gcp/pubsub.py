"""Publishing to Pub/Sub: one RPC for each batch, bounded in time, done when the message ids are back.

The low-level client on purpose: the high-level one batches behind our back and hands out futures, while the
relay has its batch already and must know its fate before it deletes the outbox rows. Messages are made as
plain protobufs: the client's own classes around them cost more than all the rest of a publish.
"""

from collections.abc import Sequence
from typing import Any

import grpc
from google.api_core import exceptions
from google.api_core.retry import Retry, if_exception_type
from google.auth.exceptions import GoogleAuthError
from google.pubsub_v1 import PublisherClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.types import PublishRequest, PubsubMessage

from bridge.errors import TransientError
from bridge.messages import EventMessage, OperationMessage, encode

# Limit of one publish request: https://cloud.google.com/pubsub/quotas#resource_limits
MAX_BATCH_MESSAGES = 1000
_FIRST_RETRY_SECONDS = 0.1
_MAX_RETRY_SECONDS = 1.0
# gRPC waits up to two minutes between attempts to connect; a broker that is back is used within a second.
_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
_Request, _Message = PublishRequest.pb(), PubsubMessage.pb()


class PubSubPublisher:
    """One per process, made after fork; its methods may be called by several threads.

    `emulator_host` is `host:port` of the emulator, spoken to in plain text; None is Google's service.
    """

    def __init__(self, project: str, *, emulator_host: str | None, timeout_seconds: float) -> None:
        if emulator_host is None:
            channel: Any = PublisherGrpcTransport.create_channel(options=_CHANNEL_OPTIONS)
        else:
            channel = grpc.insecure_channel(emulator_host, options=_CHANNEL_OPTIONS)
        self._client = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        self._project = project
        self._timeout_seconds = timeout_seconds
        # Only what certainly was not taken is sent again here; the rest is for the relay to decide.
        self._retry = Retry(
            predicate=if_exception_type(exceptions.ServiceUnavailable),
            initial=_FIRST_RETRY_SECONDS,
            maximum=_MAX_RETRY_SECONDS,
            timeout=timeout_seconds,
        )

    def publish(self, topic: str, messages: Sequence[OperationMessage | EventMessage]) -> None:
        """Publish all messages in one request; return when Pub/Sub has stored them.

        TransientError: some or all may not be stored (publishing again may store them twice). It takes
        `timeout_seconds` at most.
        """
        if len(messages) > MAX_BATCH_MESSAGES:
            raise ValueError(f"more than {MAX_BATCH_MESSAGES} messages in one batch")
        request = PublishRequest.wrap(
            _Request(
                topic=f"projects/{self._project}/topics/{topic}",
                messages=[_message(item) for item in messages],
            )
        )
        try:
            response = self._client.publish(request, retry=self._retry, timeout=self._timeout_seconds)
        except (exceptions.GoogleAPIError, GoogleAuthError) as error:
            raise TransientError(f"not published to {topic}: {type(error).__name__}") from error
        if len(response.message_ids) != len(messages):
            raise TransientError(f"not published to {topic}: {len(response.message_ids)} message ids")

    def close(self) -> None:
        """Give the connection back."""
        self._client.transport.close()  # type: ignore[no-untyped-call]


def _message(message: OperationMessage | EventMessage) -> Any:
    data, attributes = encode(message)
    return _Message(data=data, attributes=attributes)
