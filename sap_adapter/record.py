"""The second half of every claim: one transaction that records what SAP's answer made of the operation.

A claim whose lease has ended is still recorded, until the operation is dispatched again (decision 26): from
then on what its call came to is not recorded, because whoever took it over asks SAP.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from bridge.clock import Clock, moment
from bridge.errors import TransientError, UnknownOutcomeError
from bridge.keyring import KeyRing
from bridge.lane import GuardSettings
from bridge.payment import OperationKind, OperatorDecision, ParkReason
from bridge.storage import decisions, outcomes
from bridge.storage.guard import give_back_answered_slot, keep_settling_slot
from bridge.storage.operations import lock_operation, lock_payment
from bridge.storage.read_lag import raise_read_lag, read_lag_excess_seconds
from sap_adapter.classifier import PERIOD_CLOSED, Classifier, Whose
from sap_adapter.connector import AnswerForgottenError, FoundDocument, Posted, Refused
from sap_adapter.ending import MAX_ATTEMPTS, Claim, HeldClaim, pause_seconds
from sap_adapter.read_lag import MAX_LAGS

log = structlog.get_logger()

# Of documents that share a reference; an operator finds the rest in SAP.
MAX_DOCUMENTS_KEPT = 10
# A database that fails over is back within seconds; past that the lease's end takes over.
RECORD_RETRY_PAUSES_SECONDS = (0.1, 0.3, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class RecordSettings:
    """Times in seconds. `settling_seconds`: how long after a lost call SAP may still be booking it."""

    settling_seconds: float
    read_lag_seconds: float
    first_question_seconds: float
    guard: GuardSettings


class Recorder:
    """Writes outcomes; every public method is a transaction of its own and ends the claim."""

    def __init__(
        self,
        engine: Engine,
        key_ring: KeyRing,
        classifier: Classifier,
        clock: Clock,
        settings: RecordSettings,
        wake: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._key_ring = key_ring
        self._classifier = classifier
        self._clock = clock
        self._settings = settings
        self._wake = wake

    def give_back(self, claim: Claim, outcome: Posted | Refused) -> None:
        """SAP has answered a posting: its permit is free at once. Where that fails, `answered` gives it back.

        A refusal is an answer, but no success of the lane: it must not make attempts count.
        """
        now = self._clock.now()
        latency_ms = round((self._clock.monotonic() - claim.started_monotonic) * 1000)
        try:
            with self._engine.begin() as connection:
                give_back_answered_slot(
                    connection, claim.sap_system, claim.slot_number, claim.operation_id,
                    lease_until=claim.lease_until, outcome=_name(outcome),
                    success=isinstance(outcome, Posted), latency_ms=latency_ms, now=now,
                )  # fmt: skip
        except (DBAPIError, PoolTimeoutError) as error:
            log.warning("permit-kept", operation_id=claim.operation_id, reason=type(error).__name__)

    def answered(self, claim: Claim, outcome: Posted | Refused) -> None:
        """SAP has answered a posting with a clear yes or no."""
        self._record(claim, lambda held: self._answered(held, outcome))

    def not_posted(self, claim: Claim, error: TransientError, *, sap_to_blame: bool) -> None:
        """Nothing can have been booked: the same generation goes back to the lane.

        It is never the operation's fault, so it does not count as an attempt.
        """

        def write(held: HeldClaim) -> None:
            if sap_to_blame:
                held.blame_sap(self._settings.guard, error)
            held.end_call("not-posted", success=False)
            held.release_settling()
            outcomes.record_not_posted(
                held.connection, claim.operation_id, refused=False, counted=False, now=held.now
            )
            held.return_to_lane(pause_seconds(0, error.retry_after_seconds))

        log.warning("not-posted", operation_id=claim.operation_id, reason=str(error))
        self._record(claim, write)

    def unknown(self, claim: Claim, error: UnknownOutcomeError) -> None:
        """It may have been booked: SAP is asked before anything is posted again."""

        def write(held: HeldClaim) -> None:
            settled_at = held.moment.latest_in(self._settings.settling_seconds)
            # "forgotten" is an answer: neither SAP nor the operation is to blame for it
            forgotten = isinstance(error, AnswerForgottenError)
            counted = not forgotten and held.lost_answer_counts()
            if not forgotten:
                held.blame_sap(self._settings.guard, error)
            held.end_call("unknown", success=False)
            held.release_settling()
            keep_settling_slot(
                held.connection, claim.sap_system, claim.operation_id,
                settled_at=settled_at, now=held.moment.earliest,
            )  # fmt: skip
            outcomes.record_unknown(
                held.connection, claim.operation_id,
                settled_at=settled_at, forgotten=forgotten, counted=counted, now=held.now,
            )  # fmt: skip
            held.return_to_lane(max(self._settings.first_question_seconds, error.retry_after_seconds or 0.0))

        log.warning("outcome-unknown", operation_id=claim.operation_id, reason=str(error))
        self._record(claim, write)

    def question_failed(self, claim: Claim, error: TransientError, *, sap_to_blame: bool) -> None:
        """SAP did not answer the question: it stays open."""

        def write(held: HeldClaim) -> None:
            if sap_to_blame:
                held.blame_sap(self._settings.guard, error)
            held.end_call("question-failed", success=False)
            outcomes.record_still_unknown(
                held.connection, claim.operation_id, none_seen_at=None, now=held.now
            )
            held.return_to_lane(pause_seconds(0, error.retry_after_seconds))

        log.warning("question-failed", operation_id=claim.operation_id, reason=str(error))
        self._record(claim, write)

    def found(self, claim: Claim, documents: Sequence[FoundDocument]) -> None:
        """SAP has answered a question with the documents that carry the reference, or with none."""
        self._record(claim, lambda held: self._found(held, documents))

    def _record(self, claim: Claim, write: Callable[[HeldClaim], None]) -> None:
        """Write in one transaction, again if the database breaks off: SAP's answer is only known here.

        Repeating is safe: if the first try did commit, the claim is over and the second finds it lost.
        """
        for pause in (*RECORD_RETRY_PAUSES_SECONDS, None):
            try:
                self._record_once(claim, write)
            except (DBAPIError, PoolTimeoutError) as error:
                if pause is None:
                    raise
                log.warning("record-repeated", operation_id=claim.operation_id, reason=type(error).__name__)
                time.sleep(pause)
            else:
                self._wake()
                return

    def _record_once(self, claim: Claim, write: Callable[[HeldClaim], None]) -> None:
        with self._engine.begin() as connection:
            at, monotonic = moment(self._clock), self._clock.monotonic()
            payment = lock_payment(connection, claim.payment_id)
            row = lock_operation(connection, claim.operation_id)
            if payment is None or row is None:
                log.error("operation-gone", operation_id=claim.operation_id)
                return
            held = HeldClaim(connection, payment, row, claim, at, monotonic)
            if not held.is_current:
                log.warning("claim-lost", operation_id=claim.operation_id)
                held.come_back_too_late()
                return
            write(held)
            if row.operator_decision is not None:
                done = decisions.carry_out(connection, payment, claim.operation_id, now=at.now)
                log.info("operator-decision", operation_id=claim.operation_id, done=done and str(done))

    def _answered(self, held: HeldClaim, outcome: Posted | Refused) -> None:
        held.praise_sap()
        held.end_call(_name(outcome), success=isinstance(outcome, Posted))
        held.release_settling()
        if isinstance(outcome, Posted):
            held.succeed(outcome.document)
            return
        reason = self._classifier.classify(outcome.log)
        counted = held.refusal_counts()
        log.info("refused", operation_id=held.claim.operation_id, code=reason.failure.code)
        match reason.whose:
            case Whose.PARTNER:
                held.reject(reason.failure, outcome.log, self._key_ring)
            case Whose.OPERATOR if reason.failure.code == PERIOD_CLOSED and held.post_in_the_next_period():
                pass
            case Whose.OPERATOR:
                held.park_refused(ParkReason.OPERATOR, reason.failure, outcome.log, self._key_ring)
            case Whose.RETRY if counted and held.row.attempts + 1 >= MAX_ATTEMPTS:
                held.park_refused(ParkReason.NO_PROGRESS, reason.failure, outcome.log, self._key_ring)
            case Whose.RETRY:
                outcomes.record_not_posted(
                    held.connection, held.claim.operation_id,
                    refused=True, counted=counted, now=held.now,
                )  # fmt: skip
                # Each refusal starts a generation, whether it counts or not.
                held.return_to_lane(pause_seconds(held.row.generation))

    def _found(self, held: HeldClaim, documents: Sequence[FoundDocument]) -> None:
        held.note_answered_question()
        # Not a success of the lane: one operation's questions must not make others' attempts count.
        held.end_call("asked", success=False)
        if len(documents) == 1 and _is_ours(held, documents[0]):
            self._note_late_document(held)
            held.release_settling()
            held.succeed(documents[0].document)
        elif documents:
            log.error("reference-conflict", operation_id=held.claim.operation_id, documents=len(documents))
            found = [each.document for each in documents[:MAX_DOCUMENTS_KEPT]]
            settled_at = None
            listed_at = held.row.settled_at and held.row.settled_at + self._excess(held)
            if listed_at is not None and held.claim.claimed_at < listed_at:
                # asked too early, however late the answer came: the list is not final, nothing is disowned
                settled_at = held.moment.latest_in(self._settings.read_lag_seconds)
            held.park(
                ParkReason.REFERENCE_CONFLICT, definitely_not_posted=False, found=found, settled_at=settled_at
            )
        else:
            self._none(held)

    def _note_late_document(self, held: HeldClaim) -> None:
        """A document that a settled "none" denied was shown too late: SAP is slower than the settings say."""
        row = held.row
        if row.none_seen_at is None or row.settled_at is None:
            return
        late_seconds = (held.now - row.settled_at).total_seconds()
        log.error("found-after-none", operation_id=held.claim.operation_id, late_seconds=late_seconds)
        # after an outage it may have been there for days: not more than a measurement would come to
        most_seconds = MAX_LAGS * self._settings.read_lag_seconds
        raise_read_lag(held.connection, held.claim.sap_system, min(max(late_seconds, 0.0), most_seconds))

    def _none(self, held: HeldClaim) -> None:
        """Weigh a "none": it counts once settled, and decides when it comes again a read lag later.

        It is as old as its question: SAP may have looked long before its answer was here. Another process may
        have written what it is compared with: that is the latest moment it can mean, this the earliest.
        """
        row, now, operation_id = held.row, held.now, held.claim.operation_id
        asked_at = held.claim.claimed_at
        # where SAP's read side is later than configured, all of this takes as much longer
        excess = self._excess(held)
        counts_at = (row.settled_at or asked_at) + excess
        lag = timedelta(seconds=self._settings.read_lag_seconds) + excess
        if asked_at < counts_at:
            outcomes.record_still_unknown(held.connection, operation_id, none_seen_at=None, now=now)
            held.return_to_lane(self._next_question_seconds(counts_at, excess, now))
        elif row.none_seen_at is None or asked_at < row.none_seen_at + lag:
            seen_at = held.moment.latest
            outcomes.record_still_unknown(held.connection, operation_id, none_seen_at=seen_at, now=now)
            # asked a little earlier, it would not count
            held.return_to_lane(lag.total_seconds() + 2 * held.moment.uncertainty_seconds)
        elif row.is_recovered:
            # Only its document told of it: nobody is known who wants it sent. An operator may end it.
            held.release_settling()
            is_rejected = row.operator_decision == OperatorDecision.REJECT
            held.park(ParkReason.REFERENCE_CONFLICT, definitely_not_posted=is_rejected)
        elif row.attempts >= MAX_ATTEMPTS:
            held.release_settling()
            held.park_not_posted(ParkReason.NO_PROGRESS)
        else:
            log.info("resolved-not-posted", operation_id=operation_id, refused=row.sap_answer_forgotten)
            held.release_settling()
            outcomes.record_not_posted(
                held.connection, operation_id, refused=row.sap_answer_forgotten, counted=False, now=now
            )
            held.return_to_lane(0.0)

    @staticmethod
    def _excess(held: HeldClaim) -> timedelta:
        """By how much SAP's read side is later than configured."""
        return timedelta(seconds=read_lag_excess_seconds(held.connection, held.claim.sap_system))

    def _next_question_seconds(self, counts_at: datetime, excess: timedelta, now: datetime) -> float:
        """Ask again after as long as it has been unknown: early at first, then rarely, then when settled."""
        until_settled = max((counts_at - now).total_seconds(), 0.0)
        unknown_for = self._settings.settling_seconds + excess.total_seconds() - until_settled
        return min(until_settled, max(unknown_for, self._settings.first_question_seconds))


def _name(outcome: Posted | Refused) -> str:
    return type(outcome).__name__.lower()


def _is_ours(held: HeldClaim, found: FoundDocument) -> bool:
    """Whether the document is what the operation was sent as, and still stands.

    Somebody's reversal carries our reference too. SAP chooses the type of a reversal (transaction OBA7).
    """
    is_reversal = held.row.operation.kind == OperationKind.REVERSE
    return (
        found.document.company_code == held.payment.company_code
        # a document that was lost with a backup, or never rendered here, leaves nothing to compare with
        and (is_reversal or held.row.document_type in (None, found.document_type))
        and found.amount == held.row.operation.amount
        and found.is_reversal == is_reversal
        and not found.is_reversed
    )
