"""The payment and its operations: words, states, what each outcome makes of them, how they are shown.

Pure: no storage, no network. Two services would break over it if they disagreed, so it is kernel.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, datetime
from enum import StrEnum
from typing import Any

from bridge.clock import rfc3339
from bridge.money import Money


class OperationKind(StrEnum):
    PAYMENT = "payment"
    AUTHORIZE = "authorize"
    CAPTURE = "capture"
    REVERSE = "reverse"
    REFUND = "refund"


class OperationStatus(StrEnum):
    SCHEDULED = "scheduled"
    ACCEPTED = "accepted"
    PROCESSING = "processing"
    UNKNOWN = "unknown"
    SUCCEEDED = "succeeded"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    PARKED = "parked"


FINAL_OPERATION_STATUSES = frozenset(
    {OperationStatus.SUCCEEDED, OperationStatus.REJECTED, OperationStatus.CANCELLED}
)


class PaymentStatus(StrEnum):
    SCHEDULED = "scheduled"
    ACCEPTED = "accepted"
    AUTHORIZED = "authorized"
    PAID = "paid"
    PARTIALLY_REFUNDED = "partially_refunded"
    REFUNDED = "refunded"
    REVERSED = "reversed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"


# From which (expected) status a later step of a payment is allowed.
ALLOWED_FROM = {
    OperationKind.CAPTURE: frozenset({PaymentStatus.AUTHORIZED}),
    OperationKind.REVERSE: frozenset({PaymentStatus.AUTHORIZED}),
    OperationKind.REFUND: frozenset({PaymentStatus.PAID, PaymentStatus.PARTIALLY_REFUNDED}),
}


class EventType(StrEnum):
    ACCEPTED = "payment.accepted"
    AUTHORIZED = "payment.authorized"
    PAID = "payment.paid"
    REJECTED = "payment.rejected"
    REVERSED = "payment.reversed"
    REFUNDED = "payment.refunded"
    CANCELLED = "payment.cancelled"
    CAPTURE_REJECTED = "payment.capture_rejected"
    REFUND_REJECTED = "payment.refund_rejected"
    REVERSAL_REJECTED = "payment.reversal_rejected"
    DELAYED = "payment.delayed"


class ParkReason(StrEnum):
    """Why an operation waits for an operator."""

    NO_PROGRESS = "no-progress"
    POISON = "poison"
    REFERENCE_CONFLICT = "reference-conflict"
    OPERATOR = "operator"
    MAPPING = "mapping"
    INVALID_STATE = "invalid-state"
    # an operator has stopped it
    HELD = "held"
    # its partner's postings are held; it goes on by itself when they are not any more
    PARTNER_HELD = "partner-held"


class OperatorDecision(StrEnum):
    """What an operator wants of an operation once it is sure what SAP has of it."""

    PARK = "park"
    REJECT = "reject"
    # render the document again
    REMAP = "remap"


@dataclass(frozen=True, slots=True)
class SapDocument:
    """The key of an accounting document in SAP."""

    company_code: str
    fiscal_year: str
    number: str

    def __str__(self) -> str:
        return f"{self.company_code}/{self.fiscal_year}/{self.number}"

    def as_json(self) -> dict[str, str]:
        return {"company_code": self.company_code, "fiscal_year": self.fiscal_year, "number": self.number}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an operation was refused, in the partner's terms; never SAP's own text, which carries names.

    `pointer` is a JSON Pointer into the partner's request, where one field is to blame.
    """

    code: str
    message: str
    pointer: str | None = None

    def as_json(self) -> dict[str, str | None]:
        return {"code": self.code, "message": self.message, "pointer": self.pointer}


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of a payment that SAP has to book."""

    operation_id: str
    kind: OperationKind
    status: OperationStatus
    amount: Money
    created_at: datetime
    sap_document: SapDocument | None = None
    failure: Failure | None = None
    completed_at: datetime | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the operation as the public API shows it (docs/openapi.json, `Operation`)."""
        return {
            "id": self.operation_id,
            "kind": str(self.kind),
            "status": str(self.status),
            "amount": self.amount.as_json(),
            "sap_document": self.sap_document.as_json() if self.sap_document else None,
            "failure": self.failure.as_json() if self.failure else None,
            "created_at": rfc3339(self.created_at),
            "completed_at": rfc3339(self.completed_at) if self.completed_at else None,
        }


@dataclass(frozen=True, slots=True)
class Payment:
    """The partner's instruction. Amounts are minor units of `currency`."""

    payment_id: str
    partner_id: str
    external_id: str
    status: PaymentStatus
    currency: str
    amount_minor: int
    captured_minor: int
    refunded_minor: int
    capture: str
    requested_execution_date: date | None
    created_at: datetime
    updated_at: datetime

    def as_json(self, operations: Sequence[Operation]) -> dict[str, Any]:
        """Return the payment without names, accounts, texts and metadata: the shape that events carry.

        The API adds `metadata` and `receipt`.
        """
        view: dict[str, Any] = {
            "id": self.payment_id,
            "external_id": self.external_id,
            "status": str(self.status),
            "amount": Money(self.amount_minor, self.currency).as_json(),
            "captured": Money(self.captured_minor, self.currency).as_json(),
            "refunded": Money(self.refunded_minor, self.currency).as_json(),
            "capture": self.capture,
            "operations": [operation.as_json() for operation in operations],
            "created_at": rfc3339(self.created_at),
            "updated_at": rfc3339(self.updated_at),
        }
        if self.requested_execution_date is not None:
            view["requested_execution_date"] = self.requested_execution_date.isoformat()
        return view


REJECTED_BY_OPERATOR = Failure("rejected-by-operator", "It was rejected by an operator and is not posted.")
PREDECESSOR_REJECTED = Failure("predecessor-rejected", "A step before this one was rejected.")

OVERTAKEN = Failure("overtaken", "What was booked before it leaves nothing for this step.")


class InvalidTransitionError(Exception):
    """The operation's kind does not fit the payment's state; a fault of ours, not of the partner."""


def first_operation_kind(capture: str) -> OperationKind:
    """Return what a new payment starts with: `automatic` is one step, `manual` authorizes first."""
    return OperationKind.AUTHORIZE if capture == "manual" else OperationKind.PAYMENT


def after_success(payment: Payment, kind: OperationKind, amount_minor: int, now: datetime) -> Payment:
    """Return the payment as it is once SAP has booked an operation of `kind` over `amount_minor`."""
    S = PaymentStatus  # noqa: N806 - a short name for the table below
    status, captured, refunded = payment.status, payment.captured_minor, payment.refunded_minor
    match kind:
        case OperationKind.PAYMENT if status in (S.ACCEPTED, S.SCHEDULED):
            status, captured = S.PAID, amount_minor
        case OperationKind.AUTHORIZE if status in (S.ACCEPTED, S.SCHEDULED):
            status = S.AUTHORIZED
        case OperationKind.CAPTURE if status == S.AUTHORIZED and amount_minor <= payment.amount_minor:
            # what a partial capture leaves over is released with it: the payment is paid
            status, captured = S.PAID, amount_minor
        case OperationKind.REVERSE if status == S.AUTHORIZED:
            status = S.REVERSED
        case OperationKind.REFUND if status in (S.PAID, S.PARTIALLY_REFUNDED):
            refunded += amount_minor
            if refunded > captured:
                raise InvalidTransitionError(f"refund above what was captured on {payment.payment_id}")
            status = S.REFUNDED if refunded == captured else S.PARTIALLY_REFUNDED
        case _:
            raise InvalidTransitionError(f"{kind} succeeded on {payment.payment_id}, which is {status}")
    return replace(payment, status=status, captured_minor=captured, refunded_minor=refunded, updated_at=now)


def as_booked(payment: Payment, kind: OperationKind, amount_minor: int, now: datetime) -> Payment:
    """Return the payment as SAP's books have it after a step that the payment did not allow.

    Only for a document that an operator has accepted: more may then be captured than the payment is over, and
    more refunded than was captured.
    """
    S = PaymentStatus  # noqa: N806 - as above
    captured, refunded, status = payment.captured_minor, payment.refunded_minor, payment.status
    match kind:
        case OperationKind.PAYMENT | OperationKind.CAPTURE:
            captured += amount_minor
        case OperationKind.REFUND:
            refunded += amount_minor
        case OperationKind.REVERSE if captured == 0:
            status = S.REVERSED
        case OperationKind.AUTHORIZE if captured == 0:
            status = S.AUTHORIZED
    if refunded:
        status = S.REFUNDED if refunded >= captured else S.PARTIALLY_REFUNDED
    elif captured:
        status = S.PAID
    return replace(payment, status=status, captured_minor=captured, refunded_minor=refunded, updated_at=now)


def after_rejection(payment: Payment, kind: OperationKind, now: datetime) -> Payment:
    """Return the payment as it is once an operation of `kind` was refused: only a first step ends it."""
    if kind in (OperationKind.PAYMENT, OperationKind.AUTHORIZE):
        return replace(payment, status=PaymentStatus.REJECTED, updated_at=now)
    return replace(payment, updated_at=now)


def expected_payment(payment: Payment, operations: Sequence[Operation]) -> Payment:
    """Return the payment as it will be if everything that is queued succeeds.

    `operations` are all of the payment's, in order. What does not fit any more, because something before it
    was refused, changes nothing: it will be refused too.
    """
    expected = payment
    for operation in operations:
        if operation.status not in FINAL_OPERATION_STATUSES:
            with suppress(InvalidTransitionError):
                expected = after_success(expected, operation.kind, operation.amount.minor, payment.updated_at)
    return expected


def available_minor(expected: Payment, kind: OperationKind) -> int:
    """Return the most that a later step may be over, in minor units; 0: the expected state allows none."""
    if expected.status not in ALLOWED_FROM[kind]:
        return 0
    if kind == OperationKind.REFUND:
        return expected.captured_minor - expected.refunded_minor
    return expected.amount_minor


def waiting_follow_ups(operations: Sequence[Operation]) -> int:
    """Return how many later steps wait: neither with SAP nor at their end."""
    not_waiting = FINAL_OPERATION_STATUSES | {OperationStatus.PROCESSING, OperationStatus.UNKNOWN}
    return sum(
        operation.kind in ALLOWED_FROM and operation.status not in not_waiting for operation in operations
    )


def has_its_turn(earlier: Sequence[Operation]) -> bool:
    """Tell whether a step's turn has come: nothing before it is unfinished."""
    return all(operation.status in FINAL_OPERATION_STATUSES for operation in earlier)


def allows(payment: Payment, operation: Operation) -> bool:
    """Tell whether the payment, as it stands now, can take the step: asked before SAP is."""
    try:
        after_success(payment, operation.kind, operation.amount.minor, payment.updated_at)
    except InvalidTransitionError:
        return False
    return True


SUCCESS_EVENTS = {
    OperationKind.PAYMENT: EventType.PAID,
    OperationKind.AUTHORIZE: EventType.AUTHORIZED,
    OperationKind.CAPTURE: EventType.PAID,
    OperationKind.REVERSE: EventType.REVERSED,
    OperationKind.REFUND: EventType.REFUNDED,
}
REJECTION_EVENTS = {
    OperationKind.PAYMENT: EventType.REJECTED,
    OperationKind.AUTHORIZE: EventType.REJECTED,
    OperationKind.CAPTURE: EventType.CAPTURE_REJECTED,
    OperationKind.REVERSE: EventType.REVERSAL_REJECTED,
    OperationKind.REFUND: EventType.REFUND_REJECTED,
}
