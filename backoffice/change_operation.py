"""The use cases on one operation: park, redrive, redrive with a new document, reject.

Each is idempotent: what has been done is "unchanged" the second time. While something was sent to SAP and is
not resolved, nothing goes past the resolver: a decision then waits for SAP's answer ("pending").
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import structlog
from sqlalchemy import Connection, Engine

from backoffice.order import Order, invalid_state, not_found
from bridge.clock import Clock, Moment, moment, rfc3339
from bridge.payment import FINAL_OPERATION_STATUSES, OperationStatus, OperatorDecision, ParkReason
from bridge.storage import decisions
from bridge.storage.accept import ExternalIdTakenError
from bridge.storage.operations import LockedOperation, LockedPayment, lock_operation, lock_payment
from bridge.storage.operator_views import find_target
from bridge.storage.read_lag import read_lag_excess_seconds
from bridge.storage.restores import require_recovered

_log = structlog.get_logger(__name__)


class Outcome(StrEnum):
    """What came of an order. PENDING: SAP is asked first, and the decision carried out by its answer."""

    PARKED = "parked"
    REDRIVEN = "redriven"
    REMAPPED = "remapped"
    REJECTED = "rejected"
    ACCEPTED = "accepted"
    PENDING = "pending"
    WITHDRAWN = "withdrawn"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class Changed:
    """The operation that an order was about, and what came of it."""

    operation_id: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class _Held:
    """Payment and operation, locked by the transaction of `connection`."""

    connection: Connection
    payment: LockedPayment
    row: LockedOperation
    moment: Moment

    @property
    def now(self) -> datetime:
        return self.moment.now

    @property
    def operation_id(self) -> str:
        return self.row.operation.operation_id

    @property
    def status(self) -> OperationStatus:
        return self.row.operation.status

    @property
    def is_final(self) -> bool:
        return self.status in FINAL_OPERATION_STATUSES

    @property
    def is_claimed(self) -> bool:
        """Somebody is at it, or died at it and the watchdog has not looked yet."""
        return self.row.lease_until is not None

    @property
    def is_unresolved(self) -> bool:
        return self.row.sent_unresolved or self.status == OperationStatus.UNKNOWN

    def decide(self, decision: OperatorDecision) -> Outcome:
        if self.row.operator_decision == decision:
            return Outcome.UNCHANGED
        decisions.decide(self.connection, self.operation_id, decision, now=self.now)
        return Outcome.PENDING


class Operations:
    """Changes one operation per transaction, with its line in the audit trail."""

    def __init__(
        self, engine: Engine, clock: Clock, wake: Callable[[], None], *, settling_seconds: float
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._wake = wake
        self._settling_seconds = settling_seconds

    def park(self, target: str, order: Order) -> Changed:
        """Stop an operation until it is redriven or rejected; one that is with SAP stops after the answer."""
        return self._change(target, "park", order, _park)

    def redrive(self, target: str, order: Order, *, remap: bool) -> Changed:
        """Let a parked operation go on. `remap`: by a document rendered anew from the partner's mapping."""
        action = "redrive-remapped" if remap else "redrive"
        return self._change(target, action, order, self._remap if remap else self._redrive)

    def reject(self, target: str, order: Order) -> Changed:
        """End an operation as refused, once it is sure that SAP has not got it; what SAP has stays."""
        return self._change(target, "reject", order, self._reject)

    def accept(self, target: str, document: str | None, order: Order) -> Changed:
        """Record a document that SAP has under the operation's reference and that did not fit.

        `document` is company code/fiscal year/number; it may be left out if SAP has one only.
        """
        return self._change(target, "accept", order, lambda held: _accept(held, document))

    def disown(self, target: str, order: Order) -> Changed:
        """End an operation as refused although SAP lists documents under its reference: they are not its."""
        return self._change(target, "disown", order, _disown)

    def redrive_within(self, connection: Connection, operation_id: str, at: Moment) -> Outcome:
        """Redrive in the caller's transaction, which has locked nothing yet."""
        return self._redrive(_lock(connection, operation_id, at))

    def _change(self, target: str, action: str, order: Order, act: Callable[[_Held], Outcome]) -> Changed:
        at = moment(self._clock)
        with self._engine.begin() as connection:
            held = _lock(connection, target, at)
            outcome = act(held)
            if outcome != Outcome.UNCHANGED:
                order.note(connection, f"operation.{action}", held.operation_id, at.now)
        if outcome != Outcome.UNCHANGED:
            _log.info("operation changed", operation_id=held.operation_id, action=action, outcome=outcome)
            self._wake()
        return Changed(held.operation_id, outcome)

    def _release(self, held: _Held, decision: OperatorDecision | None) -> None:
        decisions.release(
            held.connection, held.row,
            decision=decision, settled_at=held.moment.latest_in(self._settling_seconds), now=held.now,
        )  # fmt: skip

    def _redrive(self, held: _Held) -> Outcome:
        if held.status == OperationStatus.PARKED:
            self._release(held, None)
            return Outcome.REDRIVEN
        if held.row.operator_decision is not None and not held.is_final:
            decisions.decide(held.connection, held.operation_id, None, now=held.now)
            return Outcome.WITHDRAWN
        return Outcome.UNCHANGED

    def _remap(self, held: _Held) -> Outcome:
        if held.is_final:
            raise invalid_state(f"The operation is {held.status}; there is nothing to send anew.")
        if held.is_claimed and not held.is_unresolved:
            raise invalid_state("The operation is being worked on; try again in a moment.")
        if held.is_unresolved:
            if held.status == OperationStatus.PARKED:
                self._release(held, OperatorDecision.REMAP)
                return Outcome.PENDING
            return held.decide(OperatorDecision.REMAP)
        is_parked = held.status == OperationStatus.PARKED
        if held.row.encrypted_document is None and not is_parked:
            return Outcome.UNCHANGED
        decisions.remap(held.connection, held.operation_id, now=held.now)
        if is_parked:
            self._release(held, None)
        return Outcome.REMAPPED

    def _reject(self, held: _Held) -> Outcome:
        if held.status == OperationStatus.REJECTED:
            return Outcome.UNCHANGED
        if held.is_final:
            raise invalid_state(f"The operation is {held.status}; it can't be rejected any more.")
        if held.status == OperationStatus.PARKED and held.is_unresolved:
            self._release(held, OperatorDecision.REJECT)
            return Outcome.PENDING
        if held.is_unresolved or held.is_claimed:
            return held.decide(OperatorDecision.REJECT)
        decisions.reject(held.connection, held.payment, held.row, now=held.now)
        return Outcome.REJECTED


def _park(held: _Held) -> Outcome:
    if held.status == OperationStatus.PARKED:
        return Outcome.UNCHANGED
    if held.is_final:
        raise invalid_state(f"The operation is {held.status}; it can't be parked any more.")
    if held.is_claimed:
        return held.decide(OperatorDecision.PARK)
    decisions.park(held.connection, held.row, now=held.now)
    return Outcome.PARKED


def _accept(held: _Held, document: str | None) -> Outcome:
    if held.status == OperationStatus.SUCCEEDED:
        return Outcome.UNCHANGED
    found = held.row.found_documents
    _require_documents(held)
    chosen = [one for one in found if document in (None, str(one))]
    if len(chosen) != 1:
        keys = ", ".join(map(str, found))
        raise invalid_state(f"Say which document it is; SAP has {keys} under the operation's reference.")
    try:
        decisions.accept(held.connection, held.payment, held.row, chosen[0], now=held.now)
    except ExternalIdTakenError as error:
        raise invalid_state(
            "The payment had ended, and another one of the partner has its external id now:"
            f" {held.payment.payment.external_id}. Reject that one if it has not been sent, and accept the"
            " document then; or have it reversed in SAP, and `disown` it."
        ) from error
    return Outcome.ACCEPTED


def _disown(held: _Held) -> Outcome:
    if held.status == OperationStatus.REJECTED:
        return Outcome.UNCHANGED
    _require_documents(held)
    is_conflict = held.row.parked_reason == ParkReason.REFERENCE_CONFLICT
    if is_conflict and held.row.settled_at is not None:
        # SAP shows what it has booked as much later as its read side is later than configured
        excess = timedelta(seconds=read_lag_excess_seconds(held.connection, held.row.sap_system))
        listed_at = held.row.settled_at + excess
        if held.row.updated_at < listed_at:
            raise invalid_state(
                "SAP may have booked the operation since it was asked; `redrive` it after"
                f" {rfc3339(listed_at)}, and disown what SAP lists then."
            )
    decisions.reject(held.connection, held.payment, held.row, now=held.now)
    return Outcome.REJECTED


def _require_documents(held: _Held) -> None:
    if held.status != OperationStatus.PARKED or not held.row.found_documents:
        raise invalid_state(
            "The operation is not parked over a document in SAP; `redrive` has SAP asked again."
        )


def _lock(connection: Connection, target: str, at: Moment) -> _Held:
    """Lock what `target` names: an operation, or a payment's first operation that has not ended."""
    require_recovered(connection)
    found = find_target(connection, target)
    payment = lock_payment(connection, found.payment_id) if found else None
    if found is None or payment is None:
        raise not_found("payment or operation")
    # a payment's operation is looked up again: the last holder of the lock may have ended it
    again = find_target(connection, target)
    row = lock_operation(connection, again.operation_id) if again else None
    if row is None:
        raise not_found("payment or operation")
    return _Held(connection, payment, row, at)
