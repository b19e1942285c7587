"""A later step of a payment: captured, reversed, refunded. Judged under lock by the state it will find."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from bridge.clock import Clock, to_the_millisecond
from bridge.errors import RejectedError, TransientError
from bridge.ids import new_id
from bridge.money import Money
from bridge.partner import PartnerConfiguration
from bridge.payment import (
    Operation,
    OperationKind,
    OperationStatus,
    Payment,
    available_minor,
    expected_payment,
    has_its_turn,
    waiting_follow_ups,
)
from bridge.storage.accept import KeyInProgressError, find_key
from bridge.storage.failures import REPEATABLE, sqlstate
from bridge.storage.operate import OwnPayment, lock_own_payment, queue_operation, take_key
from bridge.storage.payments import StoredPayment, find_payment
from bridge.storage.restores import require_recovered
from bridge.storage.transactions import transaction
from gateway.accept_payment import Accepted
from gateway.idempotency import Fingerprints, in_progress, require_same
from gateway.operation_request import require_currency
from gateway.payment_request import require_writable
from gateway.payment_view import not_found

MAX_WAITING = 5
MAX_TRIES = 4

# Does the thing to the locked payment and returns the payment as it is then.
Act = Callable[[Connection, OwnPayment, datetime], StoredPayment]


@dataclass(frozen=True, slots=True)
class Instruction:
    """A request about one payment; `document` is the validated body."""

    payment_id: str
    method: str
    path: str
    idempotency_key: str | None
    document: dict[str, Any]
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class OncePerKey:
    """Carries an instruction out once per idempotency key, with its payment locked.

    `engine` is one of `make_statement_engine`. An error leaves nothing behind, the key included.
    """

    engine: Engine
    clock: Clock
    fingerprints: Fingerprints

    def __call__(
        self, partner_id: str, instruction: Instruction, act: Act, *, operation_id: str | None = None
    ) -> Accepted:
        """Return what `act` made of the payment, or the payment as it stands if the key is known already.

        RejectedError as `act` raises it, 404, or for the key; TransientError: repeat the request
        (RecoveryDueError: when the recovery after a restore is over).
        """
        fingerprint = self.fingerprints.of(instruction.method, instruction.path, instruction.document)
        for _ in range(MAX_TRIES):
            try:
                with transaction(self.engine) as connection:
                    return self._locked(connection, partner_id, instruction, fingerprint, operation_id, act)
            except KeyInProgressError as error:
                raise in_progress() from error
            except DBAPIError as error:
                if sqlstate(error) not in REPEATABLE:
                    raise
        raise TransientError("the payment could not be locked against the others", retry_after_seconds=1)

    def repeated(self, partner_id: str, instruction: Instruction) -> Accepted | None:
        """Return the payment as it stands if an earlier request with the key was this very one, else None.

        For a body that is refused now: a less strict release may have taken it. 422 if the key was used for
        another request.
        """
        key = instruction.idempotency_key
        fingerprint = self.fingerprints.of_any(instruction.method, instruction.path, instruction.document)
        if key is None or fingerprint is None:
            return None
        with self.engine.connect() as connection:
            if find_key(connection, partner_id, key) is None:
                return None
            return _earlier(connection, partner_id, key, fingerprint)

    def _locked(
        self,
        connection: Connection,
        partner_id: str,
        instruction: Instruction,
        fingerprint: bytes,
        operation_id: str | None,
        act: Act,
    ) -> Accepted:
        key, payment_id = instruction.idempotency_key, instruction.payment_id
        require_recovered(connection)
        if key is not None and not take_key(
            connection, partner_id, key,
            fingerprint=fingerprint, payment_id=payment_id, operation_id=operation_id, now=self._now(),
        ):  # fmt: skip
            return _earlier(connection, partner_id, key, fingerprint)
        own = lock_own_payment(connection, partner_id, payment_id)
        if own is None:
            raise not_found()
        return Accepted(act(connection, own, self._now()), replayed=False)

    def _now(self) -> datetime:
        return to_the_millisecond(self.clock.now())


@dataclass(frozen=True, slots=True)
class OperatePayment:
    """`refund_window` counts from acceptance. `wake` is called after the commit."""

    once: OncePerKey
    refund_window: timedelta
    wake: Callable[[], None]

    def __call__(
        self,
        partner: PartnerConfiguration,
        instruction: Instruction,
        kind: OperationKind,
        wanted: Money | None,
    ) -> Accepted:
        """Queue the step behind what is queued already; RejectedError says why not."""
        operation_id = new_id("op", self.once.clock.now())

        def act(connection: Connection, own: OwnPayment, now: datetime) -> StoredPayment:
            amount = self._judge(own, kind, wanted, now)
            target = partner.target_at(own.sap_system, own.company_code)
            if target is not None:
                require_writable(amount, target)
            operation = Operation(operation_id, kind, OperationStatus.ACCEPTED, amount, now)
            not_before = now if has_its_turn(own.operations) else None
            queue_operation(
                connection, own, operation, not_before=not_before, traceparent=instruction.traceparent
            )
            payment = replace(own.payment, updated_at=now)
            return replace(own.stored, payment=payment, operations=[*own.operations, operation])

        accepted = self.once(partner.partner_id, instruction, act, operation_id=operation_id)
        if not accepted.replayed:
            self.wake()
        return accepted

    def _judge(self, own: OwnPayment, kind: OperationKind, wanted: Money | None, now: datetime) -> Money:
        """Return the amount of the step, if the payment will allow it when its turn comes."""
        payment = own.payment
        require_currency(wanted, payment.currency)
        if kind == OperationKind.REFUND and now > payment.created_at + self.refund_window:
            raise RejectedError(
                "retention-expired",
                409,
                f"A payment can be refunded for {self.refund_window.days} days after its acceptance.",
            )
        expected = expected_payment(payment, own.operations)
        available = available_minor(expected, kind)
        if available == 0:
            raise invalid_state(expected, f"A payment that is {expected.status} allows no {kind}.")
        if own.stored.is_erased:
            raise RejectedError(
                "retention-expired", 409, "What the payment said of its parties is not kept any more."
            )
        amount = Money(available, payment.currency) if wanted is None else wanted
        if amount.minor > available:
            most = Money(available, payment.currency)
            raise invalid_state(expected, f"This {kind} can be over {most.value} {most.currency} at most.")
        if waiting_follow_ups(own.operations) >= MAX_WAITING:
            raise RejectedError(
                "too-many-operations", 409, f"{MAX_WAITING} operations of this payment wait already."
            )
        return amount


def _earlier(connection: Connection, partner_id: str, key: str, fingerprint: bytes) -> Accepted:
    """Return what an earlier request with this key has made, as it stands now."""
    taken = find_key(connection, partner_id, key)
    if taken is None:  # it was not the key that was missing
        raise not_found()
    require_same(taken, fingerprint)
    stored = find_payment(connection, partner_id, taken.payment_id)
    if stored is None:
        raise not_found()
    return Accepted(stored, replayed=True)


def invalid_state(expected: Payment, detail: str) -> RejectedError:
    """Return the 409 for what the payment's expected state does not allow."""
    return RejectedError("invalid-state", 409, detail, members={"payment_status": str(expected.status)})
