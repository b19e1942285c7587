"""A claim under lock, and the few ways it can end. Everything here happens in the caller's transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy import Connection

from bridge.clock import Earliest, Latest, Moment
from bridge.errors import TransientError, UnknownOutcomeError
from bridge.keyring import KeyRing
from bridge.lane import FailedCall, GuardSettings
from bridge.payment import (
    PREDECESSOR_REJECTED,
    REJECTION_EVENTS,
    SUCCESS_EVENTS,
    EventType,
    Failure,
    InvalidTransitionError,
    OperationStatus,
    ParkReason,
    Payment,
    SapDocument,
    after_rejection,
    after_success,
)
from bridge.storage import outcomes
from bridge.storage.cancel import reject_successors
from bridge.storage.events import append_event, put_back
from bridge.storage.guard import (
    fails_alone,
    free_settling_slots,
    give_back_slot,
    note_answer,
    note_failure,
    note_success,
    others_succeeded,
)
from bridge.storage.operate import let_next_go
from bridge.storage.operations import (
    LockedOperation,
    LockedPayment,
    note_returned_claim,
    operations_of_payment,
    resume_unknown,
)
from sap_adapter.connector import LogItem

log = structlog.get_logger()

MAX_ATTEMPTS = 8
# Claims that were started and did not come back before the operation counts as poison.
MAX_UNFINISHED_CLAIMS = 3
RETRY_PAUSE_SECONDS = 1.0
MAX_RETRY_PAUSE_SECONDS = 300.0
# Enough to reach the longest pause; keeps 2**n a small number.
MAX_DOUBLINGS = 16


@dataclass(frozen=True, slots=True)
class Claim:
    """What one process took over: an operation, a permit, and the number that proves it.

    `claimed_at`: when that was, at the earliest; the call was made after it.
    """

    payment_id: str
    operation_id: str
    sap_system: str
    number: int
    slot_number: int
    claimed_at: Earliest
    lease_until: Latest
    started_monotonic: float


@dataclass(frozen=True, slots=True)
class HeldClaim:
    """A claim whose payment and operation are locked by the transaction of `connection`.

    Lock order from here on: lane, slot, event; so a method that touches the guard comes before `end_call`.
    """

    connection: Connection
    payment: LockedPayment
    row: LockedOperation
    claim: Claim
    moment: Moment
    monotonic: float

    @property
    def now(self) -> datetime:
        return self.moment.now

    @property
    def is_current(self) -> bool:
        """Whether nothing has happened to the operation since the claim, but perhaps the end of its lease.

        The watchdog ends a claim by making the operation unknown. Until it is dispatched again, the number is
        still this claim's, and what its call came to may be recorded as if it had come in time.
        """
        if self.row.dispatch_number != self.claim.number:
            return False
        if self.row.lease_until is None:
            return self.row.operation.status == OperationStatus.UNKNOWN and self.row.claims_unfinished > 0
        return self.row.lease_until == self.claim.lease_until

    def come_back_too_late(self) -> None:
        """Give the permit back, if it is still this claim's, and let the claim not count as unfinished.

        What made the operation look like poison may have been calls that took long: it is asked about then.
        """
        self.end_call("too-late", success=False)
        note_returned_claim(self.connection, self.claim.operation_id)
        is_poison = self.row.parked_reason == ParkReason.POISON
        if is_poison and self.row.claims_unfinished <= MAX_UNFINISHED_CLAIMS and self.row.sent_unresolved:
            resume_unknown(self.connection, self.claim.operation_id, now=self.now)
            self.return_to_lane(0.0)

    def end_call(self, outcome: str, *, success: bool) -> None:
        """Give the permit back with what became of the call."""
        latency_ms = round((self.monotonic - self.claim.started_monotonic) * 1000)
        log.info("call-ended", operation_id=self.claim.operation_id, outcome=outcome, latency_ms=latency_ms)
        give_back_slot(
            self.connection, self.claim.sap_system, self.claim.slot_number, self.claim.operation_id,
            lease_until=self.claim.lease_until, outcome=outcome, success=success, latency_ms=latency_ms,
            now=self.now,
        )  # fmt: skip

    def blame_sap(self, guard: GuardSettings, error: TransientError | UnknownOutcomeError) -> None:
        """Tell the lane's guard that SAP gave no definite answer."""
        failure = FailedCall(
            self.claim.operation_id,
            self.claim.claimed_at,
            error.is_overload,
            error.retry_after_seconds or 0.0,
        )
        note_failure(self.connection, self.claim.sap_system, failure, guard, now=self.now)

    def praise_sap(self) -> None:
        """Tell the lane's guard that SAP answers postings."""
        note_success(self.connection, self.claim.sap_system)

    def note_answered_question(self) -> None:
        """Tell the lane's guard that SAP answers questions."""
        note_answer(self.connection, self.claim.sap_system)

    def release_settling(self) -> None:
        """Nothing of the operation can be running in SAP any more."""
        free_settling_slots(self.connection, self.claim.sap_system, self.claim.operation_id)

    def return_to_lane(self, pause_seconds: float) -> None:
        """Queue the operation's next dispatch."""
        not_before = self.now + timedelta(seconds=pause_seconds)
        put_back(self.connection, self.claim.operation_id, not_before=not_before, now=self.now)

    def post_in_the_next_period(self) -> bool:
        """Move the document to the first day of the next month, where its mapping allows that.

        The month after today's is the last that is tried: what SAP does not take there, an operator has to
        look at.
        """
        posting_date = self.row.posting_date
        if not self.row.next_open_day or posting_date is None:
            return False
        today = self.now.astimezone(ZoneInfo(self.payment.time_zone)).date()
        moved_to = _first_of_next_month(posting_date)
        if moved_to > _first_of_next_month(today):
            return False
        operation_id = self.claim.operation_id
        log.info("posting-date-moved", operation_id=operation_id, posting_date=moved_to.isoformat())
        outcomes.record_not_posted(self.connection, operation_id, refused=True, counted=False, now=self.now)
        outcomes.move_posting_date(self.connection, operation_id, moved_to, now=self.now)
        self.return_to_lane(0.0)
        return True

    def refusal_counts(self) -> bool:
        """Whether the attempt counts: only while others in the lane succeed is it the operation's fault."""
        since = self.row.last_attempt_at or self.row.operation.created_at
        return others_succeeded(self.connection, self.claim.sap_system, since=since)

    def lost_answer_counts(self) -> bool:
        """The same of a call without an answer; it counts too when nothing else is left to succeed."""
        sap_system, accepted_at = self.claim.sap_system, self.row.operation.created_at
        return self.refusal_counts() or fails_alone(
            self.connection, sap_system, self.claim.operation_id, since=accepted_at
        )

    def succeed(self, document: SapDocument) -> None:
        """Record the document and what it makes of the payment, let the next step go, and tell it.

        SAP has booked it, whatever the payment allows: a document that does not fit is kept for an operator.
        """
        kind, amount = self.row.operation.kind, self.row.operation.amount
        try:
            payment = after_success(self.payment.payment, kind, amount.minor, self.now)
        except InvalidTransitionError as error:
            log.error("document-does-not-fit", operation_id=self.claim.operation_id, reason=str(error))  # noqa: TRY400
            self.park(ParkReason.INVALID_STATE, definitely_not_posted=False, found=[document])
            return
        outcomes.record_success(self.connection, self.claim.operation_id, document, now=self.now)
        outcomes.update_payment(self.connection, payment)
        let_next_go(self.connection, payment.payment_id, now=self.now)
        tell(self.connection, payment, self.row, SUCCESS_EVENTS[kind], self.now)

    def reject(self, failure: Failure, sap_log: Sequence[LogItem], key_ring: KeyRing) -> None:
        """Record a refusal that the partner can mend, reject what waits behind it, and tell both."""
        kind = self.row.operation.kind
        outcomes.record_rejection(
            self.connection, self.claim.operation_id, failure,
            encrypted_sap_log=self._sealed(sap_log, key_ring), now=self.now,
        )  # fmt: skip
        payment = after_rejection(self.payment.payment, kind, self.now)
        outcomes.update_payment(self.connection, payment)
        successors = reject_successors(
            self.connection, payment.payment_id, self.claim.operation_id, PREDECESSOR_REJECTED, now=self.now
        )
        let_next_go(self.connection, payment.payment_id, now=self.now)
        tell(self.connection, payment, self.row, REJECTION_EVENTS[kind], self.now)
        operations = operations_of_payment(self.connection, payment.payment_id)
        for successor in successors:
            append_event(
                self.connection,
                partner_id=payment.partner_id,
                payment_id=payment.payment_id,
                operation_id=successor.operation_id,
                event_type=REJECTION_EVENTS[successor.kind],
                payment=payment.as_json(operations),
                traceparent=successor.traceparent,
                now=self.now,
            )

    def park_refused(
        self, reason: ParkReason, failure: Failure, sap_log: Sequence[LogItem], key_ring: KeyRing
    ) -> None:
        """Park what SAP has definitely refused: its next sending is a new generation."""
        outcomes.record_parked(
            self.connection, self.claim.operation_id, reason,
            definitely_not_posted=True, refused=True, claimed=True, now=self.now,
            failure=failure, encrypted_sap_log=self._sealed(sap_log, key_ring),
        )  # fmt: skip
        tell_delay(self.connection, self.payment.payment, self.row, self.now)

    def park_not_posted(self, reason: ParkReason) -> None:
        """Park what SAP has not got; if it had processed the message, it has refused it, and would again."""
        outcomes.record_parked(
            self.connection, self.claim.operation_id, reason,
            definitely_not_posted=True, refused=self.row.sap_answer_forgotten, claimed=True, now=self.now,
        )  # fmt: skip
        tell_delay(self.connection, self.payment.payment, self.row, self.now)

    def park(
        self,
        reason: ParkReason,
        *,
        definitely_not_posted: bool,
        found: Sequence[SapDocument] = (),
        settled_at: Latest | None = None,
    ) -> None:
        """Park the operation; unless definitely not posted, SAP is asked before it is ever posted again.

        `found`: documents that SAP has under its reference and that can't be recorded; until `settled_at`,
        if that is later than the operation's own, it may show others.
        """
        outcomes.record_parked(
            self.connection, self.claim.operation_id, reason,
            definitely_not_posted=definitely_not_posted, refused=False, claimed=True, now=self.now,
            found=found, settled_at=settled_at,
        )  # fmt: skip
        tell_delay(self.connection, self.payment.payment, self.row, self.now)

    def _sealed(self, sap_log: Sequence[LogItem], key_ring: KeyRing) -> str:
        lines = "\n".join(f"{item.type_id} {item.severity} {item.note}" for item in sap_log)
        return key_ring.encrypt(
            lines.encode(), table="operations", column="encrypted_sap_log", row=self.claim.operation_id
        )


def pause_seconds(failures: int, retry_after_seconds: float | None = None) -> float:
    """Return how long an operation waits before its next dispatch: doubling, or as SAP wished."""
    doubled = RETRY_PAUSE_SECONDS * float(2 ** min(failures, MAX_DOUBLINGS))
    return max(retry_after_seconds or 0.0, min(doubled, MAX_RETRY_PAUSE_SECONDS))


def tell(
    connection: Connection, payment: Payment, row: LockedOperation, event: EventType, now: datetime
) -> None:
    """Append an event with the payment as it now stands."""
    append_event(
        connection,
        partner_id=payment.partner_id,
        payment_id=payment.payment_id,
        operation_id=row.operation.operation_id,
        event_type=event,
        payment=payment.as_json(operations_of_payment(connection, payment.payment_id)),
        traceparent=row.traceparent,
        now=now,
    )


def tell_delay(connection: Connection, payment: Payment, row: LockedOperation, now: datetime) -> None:
    """Append `payment.delayed`, once per operation."""
    if row.delayed_at is None:
        tell(connection, payment, row, EventType.DELAYED, now)


def _first_of_next_month(day: date) -> date:
    return date(day.year + day.month // 12, day.month % 12 + 1, 1)
