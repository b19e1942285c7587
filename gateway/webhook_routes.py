"""`/v1/webhook-endpoints` and `/v1/webhook-deliveries`: parse, call one use case, render."""

import re
from dataclasses import dataclass
from typing import Any

from flask import Flask, Response, jsonify, request

from bridge.clock import Clock, read_moment
from bridge.errors import RejectedError
from bridge.web.strict import malformed, takes_query
from bridge.webhook_endpoint import AskedBy
from gateway import idempotency
from gateway.authorization import current_partner, requires
from gateway.idempotency import Fingerprints
from gateway.json_body import parse_object, read_body
from gateway.operation_request import NothingModel
from gateway.parameters import cursor_at, limit_parameter, position_parameter
from gateway.payment_request import validate
from gateway.webhook_deliveries import WebhookDeliveries
from gateway.webhook_endpoints import StandingEndpoint, WebhookEndpoints, no_such_endpoint
from gateway.webhook_request import EndpointChangesModel, NewEndpointModel, ReplayModel
from gateway.webhook_view import attempt_view, delivery_view, endpoint_view

MAX_BODY_BYTES = 16 * 1024
DEFAULT_PAGE_DELIVERIES = 20
MAX_PAGE_DELIVERIES = 100
DELIVERY_STATUSES = ("pending", "delivered", "exhausted", "held")
_ENDPOINT_ID = re.compile(r"whe_[0-9a-z]{26}")
_DELIVERY_ID = re.compile(r"dlv_[0-9a-z]{26}")


@dataclass(frozen=True, slots=True)
class WebhookRoutes:
    endpoints: WebhookEndpoints
    deliveries: WebhookDeliveries
    fingerprints: Fingerprints
    clock: Clock

    def register(self, app: Flask) -> None:
        base = "/v1/webhook-endpoints"
        one = f"{base}/<endpoint_id>"
        delivery = "/v1/webhook-deliveries/<delivery_id>"
        for method, rule, endpoint, view in (
            ("POST", base, "create_webhook_endpoint", self.create),
            ("GET", base, "list_webhook_endpoints", self.list),
            ("GET", one, "get_webhook_endpoint", self.get),
            ("PATCH", one, "change_webhook_endpoint", self.change),
            ("DELETE", one, "delete_webhook_endpoint", self.delete),
            ("POST", f"{one}/rotate-secret", "rotate_webhook_secret", self.rotate),
            ("POST", f"{one}/test", "test_webhook_endpoint", self.test),
            ("GET", f"{one}/deliveries", "list_webhook_deliveries", self.list_deliveries),
            ("POST", f"{one}/replay", "replay_webhook_events", self.replay),
            ("GET", delivery, "get_webhook_delivery", self.get_delivery),
            ("POST", f"{delivery}/redeliver", "redeliver_webhook", self.redeliver),
        ):
            app.add_url_rule(rule, endpoint=endpoint, view_func=view, methods=[method])

    @requires("webhooks:write")
    def create(self) -> Response:
        document = _body()
        asked_by = self._asked_by(document)
        try:
            wanted = validate(NewEndpointModel, document)
        except RejectedError:
            # made once, and refused now: by a release that is stricter
            earlier = self.endpoints.repeated(current_partner(), asked_by)
            if earlier is None:
                raise
            made = earlier
        else:
            made = self.endpoints.create(current_partner().partner_id, wanted, asked_by)
        answer = self._shown(made, 201)
        answer.headers["Location"] = f"/v1/webhook-endpoints/{made.endpoint.endpoint_id}"
        return answer

    @requires("webhooks:read")
    def list(self) -> Response:
        now = self.clock.now()
        found = self.endpoints.list(current_partner())
        return jsonify(data=[endpoint_view(each, now) for each in found])

    @requires("webhooks:read")
    def get(self, endpoint_id: str) -> Response:
        return self._shown(self.endpoints.get(current_partner(), _endpoint_id(endpoint_id)))

    @requires("webhooks:write")
    def change(self, endpoint_id: str) -> Response:
        wanted = validate(EndpointChangesModel, _body())
        return self._shown(self.endpoints.change(current_partner(), _endpoint_id(endpoint_id), wanted))

    @requires("webhooks:write")
    def delete(self, endpoint_id: str) -> Response:
        self.endpoints.delete(current_partner().partner_id, _endpoint_id(endpoint_id))
        return Response(status=204)

    @requires("webhooks:write")
    def rotate(self, endpoint_id: str) -> Response:
        document = _nothing()
        asked_by = self._asked_by(document)
        return self._shown(self.endpoints.rotate(current_partner(), _endpoint_id(endpoint_id), asked_by))

    @requires("webhooks:write")
    def test(self, endpoint_id: str) -> Response:
        _nothing()
        made = self.deliveries.test(current_partner(), _endpoint_id(endpoint_id))
        return _accepted(delivery_view(made))

    @requires("webhooks:read")
    @takes_query("limit", "cursor", "status")
    def list_deliveries(self, endpoint_id: str) -> Response:
        limit = limit_parameter(request.args, default=DEFAULT_PAGE_DELIVERIES, highest=MAX_PAGE_DELIVERIES)
        status = request.args.get("status")
        if status is not None and status not in DELIVERY_STATUSES:
            raise malformed("status is not the status of a delivery.")
        position = position_parameter(request.args)
        found = self.deliveries.page(
            current_partner(),
            _endpoint_id(endpoint_id),
            status=status,
            after=(position.created_at, position.payment_id) if position else None,
            # one more than asked for tells whether there is a next page
            limit=limit + 1,
        )
        page = found[:limit]
        is_last = len(found) <= limit
        next_cursor = None if is_last else cursor_at(page[-1].created_at, page[-1].delivery_id)
        return jsonify(data=[delivery_view(each) for each in page], next_cursor=next_cursor)

    @requires("webhooks:write")
    def replay(self, endpoint_id: str) -> Response:
        wanted = validate(ReplayModel, _body())
        count = self.deliveries.replay(
            current_partner(),
            _endpoint_id(endpoint_id),
            wanted.only,
            read_moment(wanted.since),
            None if wanted.until is None else read_moment(wanted.until),
            dry_run=wanted.dry_run,
        )
        return _accepted({"only": wanted.only, "events": count, "dry_run": wanted.dry_run})

    @requires("webhooks:read")
    def get_delivery(self, delivery_id: str) -> Response:
        found, attempts = self.deliveries.get(current_partner().partner_id, _delivery_id(delivery_id))
        return jsonify({**delivery_view(found), "attempts": [attempt_view(each) for each in attempts]})

    @requires("webhooks:write")
    def redeliver(self, delivery_id: str) -> Response:
        _nothing()
        found = self.deliveries.redeliver(current_partner().partner_id, _delivery_id(delivery_id))
        return _accepted(delivery_view(found))

    def _asked_by(self, document: dict[str, Any]) -> AskedBy | None:
        """Return what the Idempotency-Key stands for; None without one."""
        value = request.headers.get(idempotency.HEADER)
        if value is None:
            return None
        fingerprint = self.fingerprints.of_any(request.method, request.path, document)
        if fingerprint is None:
            return None  # no request that was ever accepted is like that
        key = {"key": idempotency.read_key(value)}
        return AskedBy(
            key=self.fingerprints.of(idempotency.HEADER, request.path, key).hex(),
            fingerprint=fingerprint.hex(),
        )

    def _shown(self, standing: StandingEndpoint, status: int = 200) -> Response:
        answer = jsonify(endpoint_view(standing, self.clock.now()))
        answer.status_code = status
        if standing.replayed:
            answer.headers[idempotency.REPLAYED_HEADER] = "true"
        return answer


def _body() -> dict[str, Any]:
    return parse_object(read_body(request, max_bytes=MAX_BODY_BYTES))


def _nothing() -> dict[str, Any]:
    """Require `{}` or no body at all."""
    if request.content_length in (None, 0) and "Transfer-Encoding" not in request.headers:
        return {}
    document = _body()
    validate(NothingModel, document)
    return document


def _accepted(document: dict[str, Any]) -> Response:
    answer = jsonify(document)
    answer.status_code = 202
    return answer


def _endpoint_id(value: str) -> str:
    if not _ENDPOINT_ID.fullmatch(value):
        raise no_such_endpoint()
    return value


def _delivery_id(value: str) -> str:
    if not _DELIVERY_ID.fullmatch(value):
        raise RejectedError("not-found", 404, "There is no such delivery.")
    return value
