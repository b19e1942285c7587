"""`/v1/payments`: parse, call one use case, render."""

import re
from dataclasses import dataclass
from typing import Any

import structlog
from flask import Flask, Response, jsonify, request
from sqlalchemy import Engine

from bridge.clock import rfc3339
from bridge.errors import RejectedError
from bridge.storage.payments import StoredPayment, find_payment, list_payments, timeline
from bridge.web.request_id import current_traceparent
from gateway import idempotency
from gateway.accept_payment import AcceptPayment, Submission
from gateway.authorization import current_partner, requires
from gateway.json_body import parse_object, read_body
from gateway.parameters import cursor_after, limit_parameter, payment_filter, position_parameter

MAX_BODY_BYTES = 64 * 1024
DEFAULT_PAGE_PAYMENTS = 20
MAX_PAGE_PAYMENTS = 100
# A payment has a handful of operations with two or three events each; refunds may be many.
MAX_TIMELINE_EVENTS = 1000

_PAYMENT_ID = re.compile(r"pay_[0-9a-z]{26}")


@dataclass(frozen=True, slots=True)
class PaymentRoutes:
    accept_payment: AcceptPayment
    engine: Engine

    def register(self, app: Flask) -> None:
        add = app.add_url_rule
        add("/v1/payments", endpoint="create_payment", view_func=self.create, methods=["POST"])
        add("/v1/payments", endpoint="list_payments", view_func=self.list)
        add("/v1/payments/<payment_id>", endpoint="get_payment", view_func=self.get)
        add("/v1/payments/<payment_id>/events", endpoint="get_timeline", view_func=self.get_timeline)

    @requires("payments:write")
    def create(self) -> Response:
        key = idempotency.read_key(request.headers.get(idempotency.HEADER))
        body = read_body(request, max_bytes=MAX_BODY_BYTES)
        submission = Submission(
            method=request.method,
            path=request.path,
            idempotency_key=key,
            body=body,
            document=parse_object(body),
            traceparent=current_traceparent(),
        )
        accepted = self.accept_payment(current_partner(), submission)
        payment_id = accepted.stored.payment.payment_id
        structlog.contextvars.bind_contextvars(payment_id=payment_id)
        answer = jsonify(_view(accepted.stored))
        answer.status_code = 202
        answer.headers["Location"] = f"/v1/payments/{payment_id}"
        if accepted.replayed:
            answer.headers[idempotency.REPLAYED_HEADER] = "true"
        return answer

    @requires("payments:read")
    def get(self, payment_id: str) -> Response:
        _require_an_id(payment_id)
        with self.engine.connect() as connection:
            stored = find_payment(connection, current_partner().partner_id, payment_id)
        if stored is None:
            raise _not_found()
        return jsonify(_view(stored))

    @requires("payments:read")
    def list(self) -> Response:
        limit = limit_parameter(request.args, default=DEFAULT_PAGE_PAYMENTS, highest=MAX_PAGE_PAYMENTS)
        wanted = payment_filter(request.args)
        after = position_parameter(request.args)
        with self.engine.connect() as connection:
            # one more than asked for tells whether there is a next page
            found = list_payments(
                connection, current_partner().partner_id, wanted, after=after, limit=limit + 1
            )
        page = found[:limit]
        next_cursor = cursor_after(page[-1].payment) if len(found) > limit else None
        return jsonify(data=[_view(stored) for stored in page], next_cursor=next_cursor)

    @requires("payments:read")
    def get_timeline(self, payment_id: str) -> Response:
        _require_an_id(payment_id)
        partner_id = current_partner().partner_id
        with self.engine.connect() as connection:
            events = timeline(connection, partner_id, payment_id, limit=MAX_TIMELINE_EVENTS)
        if not events:  # every payment has its first event from the moment that it exists
            raise _not_found()
        return jsonify(
            data=[
                {
                    "id": event.event_id,
                    "sequence": event.sequence,
                    "type": event.event_type,
                    "timestamp": rfc3339(event.created_at),
                    "data": event.data,
                }
                for event in events
            ]
        )


def _view(stored: StoredPayment) -> dict[str, Any]:
    """Return the payment as its partner sees it: with metadata and receipt, without parties and texts."""
    view = stored.payment.as_json(stored.operations)
    return {**view, "metadata": stored.metadata, "receipt": stored.receipt}


def _require_an_id(payment_id: str) -> None:
    """Ask the database for nothing that can't be there (it would choke on some of it)."""
    if not _PAYMENT_ID.fullmatch(payment_id):
        raise _not_found()


def _not_found() -> RejectedError:
    return RejectedError("not-found", 404, "There is no such payment.")
