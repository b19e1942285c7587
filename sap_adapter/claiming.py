"""The claim: one transaction that looks under lock whether the step may be taken, and takes a permit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Connection, Engine

from bridge.clock import Clock, Moment, certain_moment
from bridge.errors import PermanentError
from bridge.ids import sap_message_uuid
from bridge.keyring import KeyRing
from bridge.messages import OperationMessage
from bridge.partner import PartnerConfiguration
from bridge.payment import (
    FINAL_OPERATION_STATUSES,
    OVERTAKEN,
    Operation,
    OperationStatus,
    ParkReason,
    allows,
    has_its_turn,
)
from bridge.storage.decisions import reject
from bridge.storage.events import put_back
from bridge.storage.guard import give_back_slot, take_slot
from bridge.storage.operations import (
    LockedOperation,
    LockedPayment,
    lock_operation,
    lock_payment,
    operations_of_payment,
    spend_dispatch,
    start_post,
    start_question,
)
from bridge.storage.outcomes import record_parked
from sap_adapter.connector import Connector, Sending
from sap_adapter.ending import MAX_UNFINISHED_CLAIMS, Claim, tell_delay
from sap_adapter.frozen_document import frozen_document
from sap_adapter.permits import PAUSE_SECONDS, PermitQueue

log = structlog.get_logger()

# A dispatch that found no configuration comes back after this pause.
NO_CONFIGURATION_PAUSE_SECONDS = 30.0
# A claim may come that much before the payment's day begins: its posting date is that day all the same.
MAX_EARLY_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class PostClaim:
    """The right to send this document once."""

    claim: Claim
    sending: Sending
    reference: str


@dataclass(frozen=True, slots=True)
class QuestionClaim:
    """The right to ask SAP once for the operation's reference, with the values frozen at acceptance."""

    claim: Claim
    company_code: str
    reference: str


class NoPermitError(Exception):
    """Every permit within the lane's window is taken; nothing has been changed."""


class Claiming:
    """What may be done with an operation, decided under lock. Claims last `lease_seconds`."""

    def __init__(
        self,
        engine: Engine,
        connectors: Mapping[str, Connector],
        key_ring: KeyRing,
        clock: Clock,
        lease_seconds: float,
        permits: Mapping[str, PermitQueue],
    ) -> None:
        self._engine = engine
        self._connectors = connectors
        self._key_ring = key_ring
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._permits = permits

    def claim(
        self, message: OperationMessage, partner: PartnerConfiguration | None, *, may_wait: bool
    ) -> PostClaim | QuestionClaim | None:
        """Return the claim; None if there is nothing to do now, NoPermitError if waiting might help.

        TransientError, and nothing is changed, while this process does not know the time well enough.
        """
        started = self._clock.monotonic()
        with self._engine.begin() as connection:
            # after the connection was had: where it was time to, it has compared the clocks
            moment = certain_moment(self._clock)
            now = moment.now
            payment = lock_payment(connection, message.payment_id)
            row = lock_operation(connection, message.operation_id)
            if payment is None or row is None or row.dispatch_number != message.dispatch_number:
                log.info("message-out-of-date", operation_id=message.operation_id)
                return None
            number = spend_dispatch(connection, message.operation_id, traceparent=message.traceparent)
            status = row.operation.status
            if status in FINAL_OPERATION_STATUSES or status == OperationStatus.PARKED:
                return None
            pause_seconds = self._pause_before_claim(row)
            if pause_seconds is not None:
                self._put_back(connection, row, pause_seconds, now)
                return None
            if row.claims_unfinished >= MAX_UNFINISHED_CLAIMS:
                self._park(connection, payment, row, ParkReason.POISON, now)
                return None
            earlier = _earlier_steps(connection, row)
            may_be_sent = status != OperationStatus.UNKNOWN
            if may_be_sent and not self._is_next(connection, payment, row, earlier, partner, now):
                return None
            return self._start(connection, payment, row, earlier, number, partner, started, moment, may_wait)

    def _pause_before_claim(self, row: LockedOperation) -> float | None:
        """Return how long to wait before anything is decided about the operation; None: not at all."""
        if row.is_lane_held:
            # what an operator or a recovery changes meanwhile is seen by the next claim
            return self._no_permit_pause_seconds(row.sap_system)
        if row.sap_system not in self._connectors:
            log.error("sap-system-not-configured", sap_system=row.sap_system)
            return NO_CONFIGURATION_PAUSE_SECONDS
        return None

    def _is_next(
        self,
        connection: Connection,
        payment: LockedPayment,
        row: LockedOperation,
        earlier: Sequence[Operation],
        partner: PartnerConfiguration | None,
        now: datetime,
    ) -> bool:
        """Look once more, under lock: its day has come, nothing before it is unfinished, all allow it.

        Past this point SAP books it, and what does not fit the payment could not be recorded.
        """
        operation_id = row.operation.operation_id
        is_early = row.due_at is not None and row.due_at > now + timedelta(seconds=MAX_EARLY_SECONDS)
        if is_early and not row.sent_unresolved:
            log.error("dispatched-too-early", operation_id=operation_id)
            put_back(connection, operation_id, not_before=row.due_at, now=now)
            return False
        if not has_its_turn(earlier):
            log.error("dispatched-out-of-turn", operation_id=operation_id)
            put_back(connection, operation_id, not_before=None, now=now)
            return False
        if not row.sent_unresolved and partner is not None and partner.posting == "held":
            self._park(connection, payment, row, ParkReason.PARTNER_HELD, now)
            return False
        if not row.sent_unresolved and row.has_unplaced_document:
            # it may be this very step, booked before a restore
            log.error("unplaced-document", operation_id=operation_id)
            self._park(connection, payment, row, ParkReason.REFERENCE_CONFLICT, now)
            return False
        if not row.sent_unresolved and not allows(payment.payment, row.operation):
            log.error("not-allowed-any-more", operation_id=operation_id, status=payment.payment.status)
            if row.position == 1:
                self._park(connection, payment, row, ParkReason.INVALID_STATE, now)
            else:
                reject(connection, payment, row, failure=OVERTAKEN, now=now)
            return False
        return True

    def _start(
        self,
        connection: Connection,
        payment: LockedPayment,
        row: LockedOperation,
        earlier: Sequence[Operation],
        number: int,
        partner: PartnerConfiguration | None,
        started: float,
        moment: Moment,
        may_wait: bool,
    ) -> PostClaim | QuestionClaim | None:
        now, operation_id = moment.now, row.operation.operation_id
        # whatever its status: what may have been sent is asked about
        question = row.sent_unresolved or row.operation.status == OperationStatus.UNKNOWN
        if not question and row.encrypted_document is None and partner is None:
            self._put_back(connection, row, NO_CONFIGURATION_PAUSE_SECONDS, now)
            return None
        lease_until = moment.latest_in(self._lease_seconds)
        slot = take_slot(
            connection, row.sap_system, operation_id, lease_until=lease_until, now=moment.earliest
        )
        if slot is None and may_wait:
            raise NoPermitError  # which undoes the claim
        if slot is None:
            self._put_back(connection, row, self._no_permit_pause_seconds(row.sap_system), now)
            return None
        if row.sap_system in self._permits:
            self._permits[row.sap_system].taken()
        claim = Claim(
            payment.payment.payment_id, operation_id, row.sap_system, number, slot,
            moment.earliest, lease_until, started,
        )  # fmt: skip
        if question:
            start_question(connection, operation_id, lease_until=lease_until, now=now)
            return QuestionClaim(claim, payment.company_code, row.sap_reference)
        try:
            document = frozen_document(
                self._key_ring, self._connectors[row.sap_system], payment, row, earlier, partner, now
            )
        except PermanentError as error:
            log.error("not-mappable", operation_id=operation_id, reason=str(error))  # noqa: TRY400 - no names
            give_back_slot(
                connection, row.sap_system, slot, operation_id, lease_until=lease_until,
                outcome="not-called", success=False, latency_ms=0, now=now,
            )  # fmt: skip
            self._park(connection, payment, row, ParkReason.MAPPING, now)
            return None
        start_post(
            connection,
            operation_id,
            lease_until=lease_until,
            encrypted_document=document.encrypted,
            document_type=document.document_type,
            posting_date=document.posting_date,
            next_open_day=document.next_open_day,
            now=now,
        )
        uuid = str(sap_message_uuid(operation_id, row.generation))
        sending = Sending(operation_id, uuid, row.operation.created_at, document.content)
        return PostClaim(claim, sending, row.sap_reference)

    def _no_permit_pause_seconds(self, sap_system: str) -> float:
        if sap_system not in self._permits:
            return PAUSE_SECONDS
        return self._permits[sap_system].pause_seconds(self._clock.monotonic())

    @staticmethod
    def _park(
        connection: Connection,
        payment: LockedPayment,
        row: LockedOperation,
        reason: ParkReason,
        now: datetime,
    ) -> None:
        """Park before anything of this claim was sent; what an earlier one may have sent stays unresolved."""
        record_parked(
            connection, row.operation.operation_id, reason,
            definitely_not_posted=False, refused=False, claimed=False, now=now,
        )  # fmt: skip
        tell_delay(connection, payment.payment, row, now)

    @staticmethod
    def _put_back(connection: Connection, row: LockedOperation, pause_seconds: float, now: datetime) -> None:
        put_back(
            connection,
            row.operation.operation_id,
            not_before=now + timedelta(seconds=pause_seconds),
            now=now,
        )


def _earlier_steps(connection: Connection, row: LockedOperation) -> Sequence[Operation]:
    """Return the payment's steps before this one, in order."""
    if row.position == 1:
        return ()
    return operations_of_payment(connection, row.payment_id)[: row.position - 1]
