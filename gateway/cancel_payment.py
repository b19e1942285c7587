"""Cancelling a payment of which SAP has heard nothing: it and what was queued for it end here."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection

from bridge.payment import Failure, PaymentStatus
from bridge.storage.cancel import cancel, lock_unsent, reject_successors, tell_cancelled
from bridge.storage.operate import OwnPayment
from bridge.storage.operations import operations_of_payment
from bridge.storage.payments import StoredPayment
from gateway.accept_payment import Accepted
from gateway.operate_payment import Instruction, OncePerKey, invalid_state

PREDECESSOR_CANCELLED = Failure(
    "predecessor-cancelled", "The payment was cancelled before this could be done."
)


@dataclass(frozen=True, slots=True)
class CancelPayment:
    """`wake` is called after the commit: events are to be told."""

    once: OncePerKey
    wake: Callable[[], None]

    def __call__(self, partner_id: str, instruction: Instruction) -> Accepted:
        """Cancel the payment, or 409 when SAP may have heard of it."""
        accepted = self.once(partner_id, instruction, _cancel)
        if not accepted.replayed:
            self.wake()
        return accepted


def _cancel(connection: Connection, own: OwnPayment, now: datetime) -> StoredPayment:
    payment_id = own.payment.payment_id
    first = lock_unsent(connection, payment_id)
    if first is None:
        raise invalid_state(own.payment, "The payment has gone to SAP, or is at its end.")
    payment = replace(own.payment, status=PaymentStatus.CANCELLED, updated_at=now)
    cancel(connection, payment_id, first.operation_id, now=now)
    successors = reject_successors(connection, payment_id, first.operation_id, PREDECESSOR_CANCELLED, now=now)
    operations = operations_of_payment(connection, payment_id)
    tell_cancelled(connection, payment, operations, first, successors, now=now)
    return replace(own.stored, payment=payment, operations=operations)
