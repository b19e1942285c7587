"""`/v1/payments/batch`: parse, call the use case, render each result for itself."""

from dataclasses import dataclass
from typing import Any

from flask import Flask, Response, jsonify, request

from bridge.web.problems import document
from bridge.web.request_id import current_traceparent
from gateway.accept_payment import Accepted
from gateway.authorization import current_partner, requires
from gateway.batch import AcceptBatch, Result
from gateway.batch_request import read_batch
from gateway.json_body import parse_object, read_body
from gateway.limits import BATCH_ENDPOINT, note_accepted, quota_problem
from gateway.payment_view import PaymentView

MAX_BODY_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class BatchRoutes:
    """`issuer` is the base of the problems' types."""

    accept_batch: AcceptBatch
    view: PaymentView
    issuer: str

    def register(self, app: Flask) -> None:
        app.add_url_rule(
            "/v1/payments/batch", endpoint=BATCH_ENDPOINT, view_func=self.create, methods=["POST"]
        )

    @requires("payments:write")
    def create(self) -> Response:
        items = read_batch(parse_object(read_body(request, max_bytes=MAX_BODY_BYTES)))
        results = self.accept_batch(
            current_partner(), items, current_traceparent(), why_no_new=quota_problem()
        )
        note_accepted(sum(isinstance(result, Accepted) and not result.replayed for result in results))
        answer = jsonify(results=[self._shown(result) for result in results])
        answer.status_code = 207
        return answer

    def _shown(self, result: Result) -> dict[str, Any]:
        if not isinstance(result, Accepted):
            return {"status": result.status, "problem": document(result, self.issuer)}
        shown: dict[str, Any] = {"status": 202, "payment": self.view.shown(result.stored)}
        return shown | {"replayed": True} if result.replayed else shown
