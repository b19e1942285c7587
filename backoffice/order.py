"""What every change of an operator has: who wants it and why. And the parameters that routes share."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import request
from sqlalchemy import Connection

from bridge.errors import FieldError, RejectedError
from bridge.gcp.operators import OperatorAuthenticator
from bridge.storage import audit
from bridge.web.reasons import read_reason

MAX_BODY_BYTES = 16 * 1024
MAX_PAGE = 500
DEFAULT_PAGE = 50


@dataclass(frozen=True, slots=True)
class Order:
    """Who, and why: both go into the audit trail, in the transaction of the change. No personal data."""

    operator: str
    reason: str

    def note(self, connection: Connection, action: str, subject: str, now: datetime) -> None:
        audit.append(
            connection, actor=self.operator, action=action, subject=subject, reason=self.reason, now=now
        )


def order_of_request(authenticate: OperatorAuthenticator) -> Order:
    """Read who asks and why. RejectedError: 401, 403, or 400 for a change without a reason."""
    operator = authenticate(request.headers)  # type: ignore[arg-type]  # werkzeug's headers have get, in any case
    return Order(operator, read_reason())


def require_operator(authenticate: OperatorAuthenticator) -> None:
    """RejectedError unless an operator asks."""
    authenticate(request.headers)  # type: ignore[arg-type]  # as above


def body(known: Collection[str]) -> dict[str, Any]:
    """Return the JSON object that was sent, {} for none; RejectedError for members that are not known."""
    request.max_content_length = MAX_BODY_BYTES
    document = request.get_json() if request.get_data(cache=True) else {}
    if not isinstance(document, dict):
        raise invalid(FieldError("", "must be an object"))
    unknown = [FieldError(f"/{name}"[:100], "is not known here") for name in document if name not in known]
    if unknown:
        raise invalid(*unknown)
    return document


def whole_parameter(name: str, *, default: int, at_least: int = 1, at_most: int) -> int:
    """Return a whole number of the query."""
    value = request.args.get(name, str(default))
    if not (value.isascii() and value.isdigit() and len(value) < 16 and at_least <= int(value) <= at_most):
        raise RejectedError(
            "malformed-request", 400, f"{name} is not a whole number from {at_least} to {at_most}."
        )
    return int(value)


def invalid(*errors: FieldError) -> RejectedError:
    return RejectedError("invalid-request", 422, "The request is not acceptable.", errors=errors)


def not_found(what: str) -> RejectedError:
    return RejectedError("not-found", 404, f"There is no such {what}.")


def invalid_state(detail: str) -> RejectedError:
    return RejectedError("invalid-state", 409, detail)
