"""Errors as RFC 9457 problem documents (`application/problem+json`); one function maps them to HTTP."""

import errno
import json
from http import HTTPStatus
from typing import Any

import structlog
from flask import Flask, Response
from gunicorn.http.errors import NoMoreData, ParseException
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from werkzeug.exceptions import HTTPException

from bridge.errors import RecoveryDueError, RejectedError, TransientError
from bridge.storage.failures import is_passing

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5
MAX_RETRY_AFTER_SECONDS = 3600

# What each problem means, in the caller's terms: the page behind `type`, and its `title`.
PROBLEMS: dict[str, tuple[str, str]] = {
    "malformed-request": (
        "Malformed request",
        "The request can't be read: the body is not JSON in UTF-8, or a header or parameter is malformed.",
    ),
    "unauthenticated": (
        "Not authenticated",
        "The access token is missing, expired, or not one of ours. Get a new one at /oauth2/token.",
    ),
    "insufficient-scope": (
        "Insufficient scope",
        "The access token lacks the scope that this route asks for.",
    ),
    "partner-suspended": (
        "Partner suspended",
        "The partner's access is suspended. What was accepted before goes on and is told.",
    ),
    "not-found": ("Not found", "There is no such resource, or it belongs to another partner."),
    "method-not-allowed": ("Method not allowed", "The resource does not take this method; see Allow."),
    "payload-too-large": ("Payload too large", "The body is larger than this route takes."),
    "unsupported-media-type": ("Unsupported media type", "Send the body as application/json."),
    "invalid-request": (
        "Invalid request",
        "The request was read, but its content is not acceptable; `errors` points at each mistake.",
    ),
    "idempotency-key-missing": (
        "Idempotency key missing",
        "Send an Idempotency-Key header of 1 to 255 visible ASCII characters but the comma, new per payment.",
    ),
    "idempotency-key-reused": (
        "Idempotency key reused",
        "The key was used before with another request. Use a new key for a new request.",
    ),
    "idempotency-key-in-progress": (
        "Request in progress",
        "A request with this key is still running. Repeat it a little later.",
    ),
    "duplicate-external-id": (
        "Duplicate external id",
        "Another payment of yours has this external_id; `payment_id` names it.",
    ),
    "invalid-state": (
        "Invalid state",
        "What is queued for the payment leaves it in a state (`payment_status`) that does not allow this.",
    ),
    "retention-expired": (
        "Retention expired",
        "The payment was accepted too long ago for this: names, accounts and texts are not kept for ever.",
    ),
    "too-many-operations": (
        "Too many operations",
        "Too many operations of this payment wait already. Repeat the request when one of them has ended.",
    ),
    "endpoint-disabled": (
        "Endpoint disabled",
        "Nothing is sent to the endpoint: its events are held. Enable it first; they are sent then.",
    ),
    "too-many-endpoints": (
        "Too many endpoints",
        "The partner has as many webhook endpoints as there may be. Delete one first.",
    ),
    "too-many-secrets": (
        "Too many secrets",
        "The endpoint's secret was rotated too often within a day: the earlier ones still sign.",
    ),
    "feed-expired": (
        "Feed expired",
        "Events that old are not in the feed any more; a payment's own are in its timeline.",
    ),
    "request-timeout": (
        "Request timeout",
        "The request did not arrive in time: 10 seconds for the headers, 60 for all of it. Send it again.",
    ),
    "too-many-requests": ("Too many requests", "Slow down; Retry-After says for how long."),
    "quota-exceeded": (
        "Quota exceeded",
        "The partner's quota of payments for this day (UTC) is used up; Retry-After says when it ends.",
    ),
    "internal-error": (
        "Internal error",
        "Something is wrong on our side. X-Request-ID helps us to find it.",
    ),
    "unavailable": (
        "Unavailable",
        "The service can't answer now. Repeat the request after Retry-After, with the same idempotency key.",
    ),
}

_BY_STATUS = {
    400: "malformed-request",
    401: "unauthenticated",
    404: "not-found",
    405: "method-not-allowed",
    408: "request-timeout",
    413: "payload-too-large",
    415: "unsupported-media-type",
    429: "too-many-requests",
    503: "unavailable",
}

_log = structlog.get_logger(__name__)


def register_problems(app: Flask, base_url: str = "") -> None:
    """Answer every error of `app` as a problem whose type is `<base_url>/problems/<slug>`."""

    @app.errorhandler(Exception)
    def answer(error: Exception) -> Response:
        problem = problem_of(error)
        if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:
            _log.error("unexpected error", exc_info=error)
        elif isinstance(error, RecoveryDueError):
            # expected, from many at once, until the recovery is over: one line each, without a traceback
            _log.warning("unavailable", reason=str(error))
        elif problem.status >= 500:
            _log.warning("unavailable", exc_info=error)
        return render(problem, base_url)


def problem_of(error: Exception) -> RejectedError:
    """Return what the caller is told about `error`; nothing of an unexpected error's text."""
    match error:
        case RejectedError():
            return error
        case HTTPException():
            return _of_http_exception(error)
        case ParseException() | NoMoreData():
            # a body that breaks off, or has bad chunks: noticed when the route reads it
            return _described("malformed-request", 400)
        case TransientError():
            is_due = isinstance(error, RecoveryDueError)
            return _recovery_due() if is_due else unavailable(error.retry_after_seconds)
        case _ if _is_passing(error):
            return unavailable()
        case _:
            return _described("internal-error", 500)


def _is_passing(error: Exception) -> bool:
    is_from_database = isinstance(error, DBAPIError) and is_passing(error)
    return is_from_database or isinstance(error, PoolTimeoutError) or is_exhaustion(error)


def is_exhaustion(error: Exception) -> bool:
    """Tell whether the process has run out of memory, threads or descriptors, which passes."""
    if isinstance(error, OSError):
        return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
    # what CPython says in threading.Thread.start
    return isinstance(error, MemoryError) or str(error) == "can't start new thread"


def unavailable(retry_after_seconds: float | None = None) -> RejectedError:
    seconds = min(max(1, round(retry_after_seconds or RETRY_AFTER_SECONDS)), MAX_RETRY_AFTER_SECONDS)
    return _described("unavailable", 503, {"Retry-After": str(seconds)})


def _recovery_due() -> RejectedError:
    return RejectedError(
        "unavailable",
        503,
        "The service was restored from a backup and is being compared with SAP. New payments are accepted. "
        "Repeat this request after Retry-After, with the same idempotency key.",
        members={"reason": "recovery-due"},
        headers={"Retry-After": str(round(RecoveryDueError.RETRY_AFTER_SECONDS))},
    )


def document(problem: RejectedError, base_url: str = "") -> dict[str, Any]:
    """Return the problem's members (RFC 9457 section 3.1, and `errors` with JSON Pointers)."""
    title = PROBLEMS[problem.slug][0] if problem.slug in PROBLEMS else HTTPStatus(problem.status).phrase
    body: dict[str, Any] = {
        "type": f"{base_url}/problems/{problem.slug}",
        "title": title,
        "status": problem.status,
        "detail": problem.detail,
        **problem.members,
    }
    if problem.errors:
        body["errors"] = [{"pointer": error.pointer, "detail": error.detail} for error in problem.errors]
    return body


def render(problem: RejectedError, base_url: str = "") -> Response:
    return Response(
        json.dumps(document(problem, base_url)),
        status=problem.status,
        content_type=CONTENT_TYPE,
        headers={"Cache-Control": "no-store", **problem.headers},
    )


def _of_http_exception(error: HTTPException) -> RejectedError:
    status = error.code or 500
    slug = _BY_STATUS.get(status, "malformed-request" if status < 500 else "internal-error")
    # only the headers that the answer would be wrong without; never werkzeug's content headers
    kept = {
        name: value
        for name, value in error.get_headers()
        if name.lower() in ("allow", "retry-after", "www-authenticate", "location")
    }
    return _described(slug, status, kept)


def _described(slug: str, status: int, headers: dict[str, str] | None = None) -> RejectedError:
    return RejectedError(slug, status, PROBLEMS[slug][1], headers=headers)
