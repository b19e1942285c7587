"""Pub/Sub push: one function reads the envelope, one turns what happened into ack or nack.

Pub/Sub takes 102, 200, 201, 202 and 204 as an ack and everything else as a nack; its emulator does not ack
202, so an ack is always 204. https://cloud.google.com/pubsub/docs/push#receive_push
"""

import base64
import binascii
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

import structlog
from flask import Flask, Request, Response, request
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from structlog.contextvars import bind_contextvars

from bridge.errors import RejectedError, TransientError
from bridge.messages import UnreadableMessageError
from bridge.tracing import UNTRACED, Tracer
from bridge.web.problems import is_exhaustion

# A Pub/Sub message has 10 MB at most, in base64 a third more, and the attributes beside it.
MAX_BODY_BYTES = 16 * 1024 * 1024
RETRY_AFTER_SECONDS = 5

# Takes the value of the Authorization header, if there is one; raises RejectedError (401) for a caller that
# may not push and TransientError where that can't be decided now.
Authenticator = Callable[[str | None], None]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PushedMessage:
    """One delivery of one message. `subscription` is the full name, `projects/…/subscriptions/…`.

    `delivery_attempt` is None where the subscription has no dead letter and on the emulator.
    """

    data: bytes
    attributes: dict[str, str]
    message_id: str
    subscription: str
    delivery_attempt: int | None


PushHandler = Callable[[PushedMessage], None]


def register_push(
    app: Flask, path: str, handler: PushHandler, authenticator: Authenticator, tracer: Tracer = UNTRACED
) -> None:
    """Let `handler` have what Pub/Sub pushes to `path`: when it returns, the message is acked.

    The handler runs under a span of the message's trace, and finds what continues it among the attributes.

    It raises UnreadableMessageError for a message that ends as a dead letter, and TransientError (or lets the
    database's errors through) where nothing could be recorded and the message has to come again.
    """

    def receive() -> Response:
        try:
            authenticator(request.headers.get("Authorization"))
            _handle(handler, _read(request), tracer)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a nack and must not kill the worker
            status = status_of(error)
            _report(error, status, path)
            headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else {}
            return Response(status=status, headers=headers)
        return Response(status=HTTPStatus.NO_CONTENT)

    app.add_url_rule(path, endpoint=f"push {path}", view_func=receive, methods=["POST"])


def _handle(handler: PushHandler, message: PushedMessage, tracer: Tracer) -> None:
    attributes = {
        "messaging.system": "gcp_pubsub",
        "messaging.operation.type": "process",
        "messaging.destination.subscription.name": message.subscription,
        "messaging.message.id": message.message_id,
    }
    bind_contextvars(message_id=message.message_id, delivery_attempt=message.delivery_attempt)
    name, parent = message.subscription.rpartition("/")[2], message.attributes.get("traceparent")
    with tracer.span(f"process {name}", "consumer", parent=parent, attributes=attributes) as span:
        if span.traceparent is not None:
            message = replace(message, attributes={**message.attributes, "traceparent": span.traceparent})
        handler(message)


def status_of(error: Exception) -> int:
    """Return the answer to a push that ended in `error`; every one of them is a nack."""
    match error:
        case UnreadableMessageError():
            return 400
        case RejectedError():
            return error.status
        case TransientError() | DBAPIError() | PoolTimeoutError():
            return 503
        case _ if is_exhaustion(error):
            return 503
        case _:
            return 500


def read_envelope(document: Any) -> PushedMessage:
    """Read the JSON body of a push; UnreadableMessageError names what is wrong, never a content."""
    message = document.get("message") if isinstance(document, dict) else None
    if not isinstance(message, dict):
        raise UnreadableMessageError("the body is not a Pub/Sub push envelope")
    attributes = message.get("attributes") or {}
    if not isinstance(attributes, dict) or not all(isinstance(value, str) for value in attributes.values()):
        raise UnreadableMessageError("attributes is not an object of strings")
    message_id = message.get("messageId") or message.get("message_id")
    subscription = document.get("subscription")
    if not isinstance(message_id, str) or not isinstance(subscription, str):
        raise UnreadableMessageError("messageId or subscription is missing")
    attempt = document.get("deliveryAttempt")
    return PushedMessage(
        data=_decode(message.get("data") or ""),
        attributes=attributes,
        message_id=message_id,
        subscription=subscription,
        delivery_attempt=attempt if isinstance(attempt, int) else None,
    )


def _read(pushed: Request) -> PushedMessage:
    pushed.max_content_length = MAX_BODY_BYTES
    return read_envelope(pushed.get_json(force=True, silent=True))


def _decode(data: Any) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise UnreadableMessageError("data is not base64") from error


def _report(error: Exception, status: int, path: str) -> None:
    """Log a nack. Texts of errors of other libraries may quote contents, so only our own are logged."""
    ours = isinstance(error, UnreadableMessageError | RejectedError | TransientError)
    reason = str(error) if ours else type(error).__name__
    if status >= 500 and not ours:
        frames = traceback.extract_tb(error.__traceback__)
        where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-8:]]
        _log.error("push not handled", path=path, status=status, reason=reason, where=where)
    else:
        _log.warning("push not handled", path=path, status=status, reason=reason)
