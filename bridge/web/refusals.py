"""Answers to requests that no app gets to see: what can't be read, or has not come in time."""

import json
import uuid
from http import HTTPStatus

from gunicorn.http import errors

from bridge.errors import RejectedError
from bridge.web.problems import CONTENT_TYPE, PROBLEMS, document
from bridge.web.request_id import HEADER

_STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (errors.LimitRequestLine, 414),
    (errors.LimitRequestHeaders, 431),
    (errors.ExpectationFailed, 417),
    (errors.UnsupportedTransferCoding, 501),
    (errors.ParseException, 400),
)


class RepeatedHeaderError(Exception):
    """A header that must be single comes twice. The text is its name."""


def refusal_of(error: Exception) -> RejectedError:
    """Return what the sender of a request is told that could not be read, or broke the worker."""
    if isinstance(error, RepeatedHeaderError):
        return RejectedError("malformed-request", 400, f"The header {error} comes more than once.")
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    return refusal(status)


def refusal(status: int) -> RejectedError:
    slug = {408: "request-timeout", 500: "internal-error"}.get(status, "malformed-request")
    return RejectedError(slug, status, PROBLEMS[slug][1])


def written(problem: RejectedError) -> bytes:
    """Return the answer as it is sent. It ends the connection."""
    body = json.dumps(document(problem)).encode()
    head = (
        f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n"
        f"Content-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\nCache-Control: no-store\r\n"
        f"{HEADER}: {uuid.uuid4()}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
