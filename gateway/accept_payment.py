"""Accepting a payment: judge, sign, encrypt, write once, or say what the key stands for already."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Engine

from bridge.clock import Clock, to_the_millisecond
from bridge.errors import FieldError, RejectedError, TransientError
from bridge.ids import new_id
from bridge.keyring import KeyRing
from bridge.parties import COLUMN, TABLE
from bridge.partner import PartnerConfiguration, SapTarget
from bridge.payment import Operation, OperationStatus, Payment, PaymentStatus, first_operation_kind
from bridge.storage.accept import (
    AcceptAgainError,
    ExternalIdTakenError,
    KeyInProgressError,
    NewPayment,
    accept,
    find_external_id,
    find_key,
)
from bridge.storage.payments import StoredPayment, find_payment
from gateway.idempotency import Fingerprints, in_progress, require_same
from gateway.payment_request import PaymentRequest, invalid_request, read_payment, require_writable
from gateway.receipts import Receipts

MAX_DAYS_AHEAD = 365
MAX_TRIES = 4


@dataclass(frozen=True, slots=True)
class Submission:
    """A request to accept a payment: `body` as it came, `document` parsed from it."""

    method: str
    path: str
    idempotency_key: str
    body: bytes
    document: dict[str, Any]
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The payment as it stands now; `replayed` when an earlier request with the key made it."""

    stored: StoredPayment
    replayed: bool


@dataclass(frozen=True, slots=True)
class AcceptPayment:
    """`engine` makes every statement a transaction (make_statement_engine). `wake` is called after it."""

    engine: Engine
    clock: Clock
    key_ring: KeyRing
    fingerprints: Fingerprints
    receipts: Receipts
    wake: Callable[[], None]

    def __call__(self, partner: PartnerConfiguration, submission: Submission) -> Accepted:
        """Accept once; RejectedError says why not, TransientError that the same request may be repeated."""
        prepared = self.prepare(partner, submission)
        if isinstance(prepared, Accepted):
            return prepared
        with self.engine.connect() as connection:
            accepted = self._write(connection, prepared)
        if not accepted.replayed:
            self.wake()
        return accepted

    def prepare(self, partner: PartnerConfiguration, submission: Submission) -> NewPayment | Accepted:
        """Return what is to be written, or what an earlier request has made of it; RejectedError: neither."""
        now = to_the_millisecond(self.clock.now())
        try:
            request = read_payment(submission.document)
            target = partner.target_of(request.amount)
            require_writable(request.amount, target)
            not_before = _not_before(request.requested_execution_date, ZoneInfo(target.time_zone), now)
        except RejectedError:
            # what was fine when it was accepted may not be any more: its day is past, a release is stricter
            earlier = self._repeated(partner.partner_id, submission)
            if earlier is None:
                raise
            return earlier
        fingerprint = self.fingerprints.of(submission.method, submission.path, submission.document)
        return self._prepare(partner, target, submission, request, fingerprint, not_before, now)

    def _repeated(self, partner_id: str, submission: Submission) -> Accepted | None:
        """Return what an earlier request with this key has made, if this is the same one."""
        fingerprint = self.fingerprints.of_any(submission.method, submission.path, submission.document)
        if fingerprint is None:
            return None
        with self.engine.connect() as connection:
            return self._earlier(connection, partner_id, submission.idempotency_key, fingerprint)

    def _write(self, connection: Connection, new: NewPayment) -> Accepted:
        partner_id = new.payment.partner_id
        for _ in range(MAX_TRIES):
            try:
                if accept(connection, new):
                    stored = StoredPayment(
                        new.payment, [new.operation], dict(new.metadata), new.receipt, new.sap_system
                    )
                    return Accepted(stored, replayed=False)
            except KeyInProgressError as error:
                raise in_progress() from error
            except ExternalIdTakenError as error:
                winner = self._earlier(connection, partner_id, new.idempotency_key, new.fingerprint)
                if winner is not None:
                    return winner
                holder = find_external_id(connection, partner_id, new.payment.external_id)
                if holder is not None:
                    raise _duplicate(holder) from error
                # its holder was rejected just now: the external id is free again
            except AcceptAgainError:
                pass
            else:
                winner = self._earlier(connection, partner_id, new.idempotency_key, new.fingerprint)
                if winner is not None:
                    return winner
        raise TransientError("the payment could not be written against the others", retry_after_seconds=1)

    def _earlier(
        self, connection: Connection, partner_id: str, idempotency_key: str, fingerprint: bytes
    ) -> Accepted | None:
        """Return what an earlier request with this key has made, as it stands now."""
        taken = find_key(connection, partner_id, idempotency_key)
        if taken is None:
            return None
        require_same(taken, fingerprint)
        stored = find_payment(connection, partner_id, taken.payment_id)
        return None if stored is None else Accepted(stored, replayed=True)

    def _prepare(
        self,
        partner: PartnerConfiguration,
        target: SapTarget,
        submission: Submission,
        request: PaymentRequest,
        fingerprint: bytes,
        not_before: datetime,
        now: datetime,
    ) -> NewPayment:
        scheduled = not_before > now
        payment_id, operation_id = new_id("pay", now), new_id("op", now)
        payment = Payment(
            payment_id=payment_id,
            partner_id=partner.partner_id,
            external_id=request.external_id,
            status=PaymentStatus.SCHEDULED if scheduled else PaymentStatus.ACCEPTED,
            currency=request.amount.currency,
            amount_minor=request.amount.minor,
            captured_minor=0,
            refunded_minor=0,
            capture=request.capture,
            requested_execution_date=request.requested_execution_date,
            created_at=now,
            updated_at=now,
        )
        operation = Operation(
            operation_id=operation_id,
            kind=first_operation_kind(request.capture),
            status=OperationStatus.SCHEDULED if scheduled else OperationStatus.ACCEPTED,
            amount=request.amount,
            created_at=now,
        )
        encrypted = None
        if request.parties:
            plaintext = request.parties.to_bytes()
            encrypted = self.key_ring.encrypt(plaintext, table=TABLE, column=COLUMN, row=payment_id)
        return NewPayment(
            payment=payment,
            operation=operation,
            idempotency_key=submission.idempotency_key,
            fingerprint=fingerprint,
            sap_system=target.sap_system,
            company_code=target.company_code,
            time_zone=target.time_zone,
            encrypted_parties=encrypted,
            metadata=request.metadata,
            receipt=self.receipts.sign(
                payment_id=payment_id,
                external_id=request.external_id,
                amount=request.amount,
                body=submission.body,
                accepted_at=now,
            ),
            event_id=new_id("evt", now),
            not_before=not_before,
            traceparent=submission.traceparent,
        )


def _not_before(on: date | None, zone: ZoneInfo, now: datetime) -> datetime:
    """Return 00:00 of a future day in the company code's time zone, or now."""
    if on is None:
        return now
    today = now.astimezone(zone).date()
    if on < today or on > today + timedelta(days=MAX_DAYS_AHEAD):
        detail = f"must be neither past nor more than {MAX_DAYS_AHEAD} days ahead"
        raise invalid_request([FieldError("/requested_execution_date", detail)])
    return now if on == today else datetime.combine(on, time.min, zone).astimezone(UTC)


def _duplicate(payment_id: str) -> RejectedError:
    return RejectedError(
        "duplicate-external-id",
        409,
        "Another payment has this external_id.",
        members={"payment_id": payment_id},
    )
