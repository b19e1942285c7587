"""What ties the records of one request together: X-Request-ID and the W3C trace context."""

import re
import uuid

import structlog
from flask import Flask, Response, g, request

HEADER = "X-Request-ID"
_VISIBLE_ASCII = re.compile(r"[!-+\--~]{1,128}")
# https://www.w3.org/TR/trace-context/#traceparent-header: version 00; all-zero ids and version ff are invalid
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def register_request_id(app: Flask) -> None:
    """Give each request an id (the caller's, if it is 1 to 128 visible ASCII characters but the comma)."""

    @app.before_request
    def take() -> None:
        sent = request.headers.get(HEADER, "")
        g.request_id = sent if _VISIBLE_ASCII.fullmatch(sent) else str(uuid.uuid4())
        structlog.contextvars.bind_contextvars(request_id=g.request_id)

    @app.after_request
    def echo(response: Response) -> Response:
        response.headers[HEADER] = g.get("request_id") or str(uuid.uuid4())
        return response


def current_traceparent() -> str | None:
    """Return what continues the request's trace: stored, and carried on by whatever follows from it."""
    traceparent: str | None = g.get("traceparent")
    return traceparent or sent_traceparent()


def sent_traceparent() -> str | None:
    """Return the caller's `traceparent` if it is a valid one."""
    sent = request.headers.get("traceparent", "")
    return sent if _TRACEPARENT.fullmatch(sent) else None
