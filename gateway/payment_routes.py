"""`/v1/payments`: parse, call one use case, render."""

from dataclasses import dataclass

from flask import Flask, Response, jsonify, request
from sqlalchemy import Engine

from bridge.clock import rfc3339
from bridge.storage.payments import find_payment, list_payments, timeline
from bridge.web.request_id import current_traceparent
from bridge.web.strict import takes_query
from gateway import idempotency
from gateway.accept_payment import AcceptPayment, Submission
from gateway.authorization import current_partner, requires
from gateway.json_body import parse_object, read_body
from gateway.parameters import (
    bad_cursor,
    cursor_after,
    cursor_after_event,
    event_parameter,
    limit_parameter,
    payment_filter,
    position_parameter,
)
from gateway.payment_view import PaymentView, missing, require_an_id

MAX_BODY_BYTES = 64 * 1024
DEFAULT_PAGE_PAYMENTS = 20
MAX_PAGE_PAYMENTS = 100
# A payment has a handful of operations with two or three events each; refunds may be many.
DEFAULT_PAGE_TIMELINE = 100
MAX_PAGE_TIMELINE = 500


@dataclass(frozen=True, slots=True)
class PaymentRoutes:
    accept_payment: AcceptPayment
    engine: Engine
    view: PaymentView

    def register(self, app: Flask) -> None:
        add = app.add_url_rule
        add("/v1/payments", endpoint="create_payment", view_func=self.create, methods=["POST"])
        add("/v1/payments", endpoint="list_payments", view_func=self.list)
        # as long as an id: /v1/payments/batch is another resource, which can't be read
        add("/v1/payments/<string(length=30):payment_id>", endpoint="get_payment", view_func=self.get)
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
        return self.view.accepted(accepted.stored, replayed=accepted.replayed)

    @requires("payments:read")
    def get(self, payment_id: str) -> Response:
        require_an_id(payment_id)
        with self.engine.connect() as connection:
            stored = find_payment(connection, current_partner().partner_id, payment_id)
            if stored is None:
                raise missing(connection)
        return jsonify(self.view.shown(stored))

    @requires("payments:read")
    @takes_query("limit", "cursor", "status", "external_id", "created_from", "created_to")
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
        return jsonify(data=[self.view.shown(stored) for stored in page], next_cursor=next_cursor)

    @requires("payments:read")
    @takes_query("limit", "cursor")
    def get_timeline(self, payment_id: str) -> Response:
        require_an_id(payment_id)
        limit = limit_parameter(request.args, default=DEFAULT_PAGE_TIMELINE, highest=MAX_PAGE_TIMELINE)
        after = event_parameter(request.args)
        partner_id = current_partner().partner_id
        with self.engine.connect() as connection:
            found = timeline(connection, partner_id, payment_id, after=after, limit=limit + 1)
            if not found:
                # every payment has its first event from the moment that it exists, every cursor one after it
                raise missing(connection) if after is None else bad_cursor()
        page = found[:limit]
        return jsonify(
            data=[
                {
                    "id": event.event_id,
                    "sequence": event.sequence,
                    "type": event.event_type,
                    "timestamp": rfc3339(event.created_at),
                    "data": event.data,
                }
                for event in page
            ],
            next_cursor=cursor_after_event(page[-1].event_id) if len(found) > limit else None,
        )
