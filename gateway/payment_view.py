"""How a payment is shown to its partner, and what is said when there is none."""

import re
from dataclasses import dataclass
from typing import Any

import structlog
from flask import Response, jsonify
from sqlalchemy import Connection

from bridge.clock import rfc3339
from bridge.errors import RejectedError
from bridge.storage.payments import StoredPayment
from bridge.storage.restores import require_open_gate
from gateway import idempotency
from gateway.estimates import Estimates

_PAYMENT_ID = re.compile(r"pay_[0-9a-z]{26}")


@dataclass(frozen=True, slots=True)
class PaymentView:
    """Shows payments to their partner."""

    estimates: Estimates

    def shown(self, stored: StoredPayment) -> dict[str, Any]:
        """Return the payment as its partner sees it: with metadata and receipt, without parties and texts."""
        shown = stored.payment.as_json(stored.operations)
        shown |= {"metadata": stored.metadata, "receipt": stored.receipt}
        completion = self.estimates.completion(stored)
        return shown if completion is None else {**shown, "estimated_completion": rfc3339(completion)}

    def accepted(self, stored: StoredPayment, *, replayed: bool) -> Response:
        """Return the 202 for what was done to a payment, or was done by an earlier request with the key."""
        payment_id = stored.payment.payment_id
        structlog.contextvars.bind_contextvars(payment_id=payment_id)
        answer = jsonify(self.shown(stored))
        answer.status_code = 202
        answer.headers["Location"] = f"/v1/payments/{payment_id}"
        if replayed:
            answer.headers[idempotency.REPLAYED_HEADER] = "true"
        return answer


def require_an_id(payment_id: str) -> None:
    """Ask the database for nothing that can't be there (it would choke on some of it)."""
    if not _PAYMENT_ID.fullmatch(payment_id):
        raise not_found()


def missing(connection: Connection) -> RejectedError:
    """Return the 404; RecoveryDueError if the payment may be one that a restore has lost and SAP knows.

    TransientError as long as that is not known.
    """
    require_open_gate(connection)
    return not_found()


def not_found() -> RejectedError:
    return RejectedError("not-found", 404, "There is no such payment.")
