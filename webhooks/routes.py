"""What calls the service: Pub/Sub rings at the door, Cloud Tasks brings the attempts that are due."""

from collections.abc import Callable

from flask import Flask, Response, request
from structlog.contextvars import bind_contextvars

from bridge.errors import RejectedError
from bridge.messages import decode_event
from bridge.tracing import Tracer
from bridge.web.push import Authenticator, PushedMessage, register_push
from webhooks.tasks import UnreadableTaskError, read_payload, read_probe

PUSH_PATH = "/pubsub/events"
TASK_PATH = "/tasks/deliveries"
MAX_TASK_BYTES = 10_000


def register_doorbell(
    app: Flask,
    fan_out: Callable[[str, int], object],
    after: Callable[[], None],
    authenticator: Authenticator,
    tracer: Tracer,
) -> None:
    """`fan_out(partner_id, sequence)` for each event that is pushed, then `after()`."""

    def handle(pushed: PushedMessage) -> None:
        message = decode_event(pushed.data, pushed.attributes)
        fan_out(message.partner_id, message.sequence)
        after()

    register_push(app, PUSH_PATH, handle, authenticator, tracer)


def register_tasks(
    app: Flask,
    attempt: Callable[[str, int], None],
    probe: Callable[[str], None],
    after: Callable[[], None],
    authenticator: Authenticator,
) -> None:
    """`attempt(delivery_id, attempt_number)` or `probe(endpoint_id)` for each task, then `after()`.

    204 as soon as nothing is left to do for this task, whatever the partner has answered: Cloud Tasks must
    not repeat it (and slow the whole queue), the next attempt has a task of its own.
    """

    @app.post(TASK_PATH)
    def take_task() -> Response:
        authenticator(request.headers.get("Authorization"))
        request.max_content_length = MAX_TASK_BYTES
        document = request.get_json(force=True)
        endpoint_id = read_probe(document)
        if endpoint_id is not None:
            probe(endpoint_id)
        else:
            try:
                delivery_id, attempt_number = read_payload(document)
            except UnreadableTaskError as error:
                raise RejectedError("malformed-request", 400, str(error)) from error
            bind_contextvars(delivery_id=delivery_id, attempt=attempt_number)
            attempt(delivery_id, attempt_number)
        after()
        return Response(status=204)
