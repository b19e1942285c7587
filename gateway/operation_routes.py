"""What can be done to a payment that exists: parse, call one use case, render."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import Flask, Response, request

from bridge.errors import RejectedError
from bridge.money import Money
from bridge.payment import OperationKind
from bridge.web.request_id import current_traceparent
from gateway import idempotency
from gateway.accept_payment import Accepted
from gateway.authorization import current_partner, requires
from gateway.cancel_payment import CancelPayment
from gateway.json_body import parse_object, read_body
from gateway.operate_payment import Instruction, OperatePayment
from gateway.operation_request import read_amount, read_nothing
from gateway.payment_view import PaymentView, require_an_id

MAX_BODY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class OperationRoutes:
    operate_payment: OperatePayment
    cancel_payment: CancelPayment
    view: PaymentView

    def register(self, app: Flask) -> None:
        for name, endpoint, function in (
            ("captures", "capture_payment", self.capture),
            ("reversals", "reverse_payment", self.reverse),
            ("refunds", "refund_payment", self.refund),
            ("cancellations", "cancel_payment", self.cancel),
        ):
            rule = f"/v1/payments/<payment_id>/{name}"
            app.add_url_rule(rule, endpoint=endpoint, view_func=function, methods=["POST"])

    @requires("payments:write")
    def capture(self, payment_id: str) -> Response:
        return self._operate(payment_id, OperationKind.CAPTURE, read_amount)

    @requires("payments:write")
    def reverse(self, payment_id: str) -> Response:
        return self._operate(payment_id, OperationKind.REVERSE, read_nothing)

    @requires("payments:write")
    def refund(self, payment_id: str) -> Response:
        return self._operate(payment_id, OperationKind.REFUND, read_amount)

    @requires("payments:write")
    def cancel(self, payment_id: str) -> Response:
        """Without a key, too: there is nothing that a cancellation could do twice."""
        key = request.headers.get(idempotency.HEADER)
        instruction = _instruction(payment_id, None if key is None else idempotency.read_key(key))

        def cancel() -> Accepted:
            read_nothing(instruction.document)
            return self.cancel_payment(current_partner().partner_id, instruction)

        return self._done(instruction, cancel)

    def _operate(
        self, payment_id: str, kind: OperationKind, read: Callable[[dict[str, Any]], Money | None]
    ) -> Response:
        instruction = _instruction(payment_id, idempotency.read_key(request.headers.get(idempotency.HEADER)))

        def operate() -> Accepted:
            amount = read(instruction.document)
            return self.operate_payment(current_partner(), instruction, kind, amount)

        return self._done(instruction, operate)

    def _done(self, instruction: Instruction, act: Callable[[], Accepted]) -> Response:
        try:
            done = act()
        except RejectedError as problem:
            # accepted once, and refused now: by a release that is stricter
            earlier = None
            if problem.slug == "invalid-request":
                earlier = self.operate_payment.once.repeated(current_partner().partner_id, instruction)
            if earlier is None:
                raise
            done = earlier
        return self.view.accepted(done.stored, replayed=done.replayed)


def _instruction(payment_id: str, key: str | None) -> Instruction:
    require_an_id(payment_id)
    return Instruction(
        payment_id=payment_id,
        method=request.method,
        path=request.path,
        idempotency_key=key,
        document=parse_object(read_body(request, max_bytes=MAX_BODY_BYTES)),
        traceparent=current_traceparent(),
    )
