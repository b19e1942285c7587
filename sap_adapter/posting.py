"""One message, one step: claim the operation, post it or ask SAP about it, record what came of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy import Connection, Engine

from bridge.clock import Clock
from bridge.errors import PermanentError, TransientError, UnknownOutcomeError
from bridge.ids import sap_message_uuid
from bridge.keyring import KeyRing
from bridge.messages import OperationMessage
from bridge.partner import JournalEntryMapping, SapRoute
from bridge.payment import FINAL_OPERATION_STATUSES, OperationStatus, ParkReason
from bridge.ports import PartnerDirectory
from bridge.storage.events import put_back
from bridge.storage.guard import give_back_slot, take_slot
from bridge.storage.operations import (
    LockedOperation,
    LockedPayment,
    lock_operation,
    lock_payment,
    spend_dispatch,
    start_post,
    start_question,
)
from bridge.storage.outcomes import record_parked
from sap_adapter.connector import Connector, JournalFacts, Sending
from sap_adapter.ending import Claim, tell_delay
from sap_adapter.journal_entry import render
from sap_adapter.record import Recorder

log = structlog.get_logger()

# A dispatch that found no permit or no configuration comes back after this pause.
NO_PERMIT_PAUSE_SECONDS = 0.25
NO_CONFIGURATION_PAUSE_SECONDS = 30.0
MAX_UNFINISHED_CLAIMS = 3
OWN_DELAY = TransientError("too much of the lease had passed before the call")


@dataclass(frozen=True, slots=True)
class PostingSettings:
    """Times in seconds: the longest call, and how much longer a claim's lease lasts."""

    call_seconds: float
    lease_margin_seconds: float

    @property
    def lease_seconds(self) -> float:
        return self.call_seconds + self.lease_margin_seconds


@dataclass(frozen=True, slots=True)
class PostClaim:
    """The right to send this document once."""

    claim: Claim
    sending: Sending


@dataclass(frozen=True, slots=True)
class QuestionClaim:
    """The right to ask SAP once for the operation's reference, with the values frozen at acceptance."""

    claim: Claim
    company_code: str
    reference: str


class Posting:
    """The adapter's use case."""

    def __init__(
        self,
        engine: Engine,
        directory: PartnerDirectory,
        connectors: Mapping[str, Connector],
        key_ring: KeyRing,
        recorder: Recorder,
        clock: Clock,
        settings: PostingSettings,
    ) -> None:
        self._engine = engine
        self._directory = directory
        self._connectors = connectors
        self._key_ring = key_ring
        self._recorder = recorder
        self._clock = clock
        self._settings = settings

    def handle(self, message: OperationMessage) -> None:
        """Take the operation's next step. Returns once something is recorded; raises only if nothing was."""
        route = self._route(message.partner_id)
        claimed = self._claim(message, route)
        if isinstance(claimed, PostClaim):
            self._post(claimed)
        elif isinstance(claimed, QuestionClaim):
            self._ask(claimed)

    def _route(self, partner_id: str) -> SapRoute | None:
        # Read before the transaction: the directory may go to Firestore.
        try:
            partner = self._directory.partner(partner_id)
        except TransientError:
            return None
        return partner.route if partner else None

    def _claim(self, message: OperationMessage, route: SapRoute | None) -> PostClaim | QuestionClaim | None:
        started = self._clock.monotonic()
        now = self._clock.now()
        with self._engine.begin() as connection:
            payment = lock_payment(connection, message.payment_id)
            row = lock_operation(connection, message.operation_id)
            if payment is None or row is None or row.dispatch_number != message.dispatch_number:
                log.info("message-out-of-date", operation_id=message.operation_id)
                return None
            number = spend_dispatch(connection, message.operation_id)
            status = row.operation.status
            if status in FINAL_OPERATION_STATUSES or status == OperationStatus.PARKED:
                return None
            if row.claims_unfinished >= MAX_UNFINISHED_CLAIMS:
                self._park(connection, payment, row, ParkReason.POISON, now)
                return None
            if row.sap_system not in self._connectors:
                log.error("sap-system-not-configured", sap_system=row.sap_system)
                self._put_back(connection, row, NO_CONFIGURATION_PAUSE_SECONDS, now)
                return None
            return self._start(connection, payment, row, number, route, started, now)

    def _start(
        self,
        connection: Connection,
        payment: LockedPayment,
        row: LockedOperation,
        number: int,
        route: SapRoute | None,
        started: float,
        now: datetime,
    ) -> PostClaim | QuestionClaim | None:
        operation_id = row.operation.operation_id
        question = row.operation.status == OperationStatus.UNKNOWN
        if not question and row.encrypted_document is None and route is None:
            self._put_back(connection, row, NO_CONFIGURATION_PAUSE_SECONDS, now)
            return None
        lease_until = now + timedelta(seconds=self._settings.lease_seconds)
        slot = take_slot(connection, row.sap_system, operation_id, lease_until=lease_until, now=now)
        if slot is None:
            self._put_back(connection, row, NO_PERMIT_PAUSE_SECONDS, now)
            return None
        claim = Claim(payment.payment.payment_id, operation_id, row.sap_system, number, slot, started)
        if question:
            start_question(connection, operation_id, lease_until=lease_until, now=now)
            return QuestionClaim(claim, payment.company_code, row.sap_reference)
        try:
            content, document_type, encrypted = self._document(payment, row, route, now)
        except PermanentError as error:
            log.error("not-mappable", operation_id=operation_id, reason=str(error))  # noqa: TRY400 - no names
            give_back_slot(
                connection, row.sap_system, slot, operation_id,
                outcome="not-called", success=False, latency_ms=0, now=now,
            )  # fmt: skip
            self._park(connection, payment, row, ParkReason.MAPPING, now)
            return None
        start_post(
            connection,
            operation_id,
            lease_until=lease_until,
            encrypted_document=encrypted,
            document_type=document_type,
            now=now,
        )
        uuid = str(sap_message_uuid(operation_id, row.generation))
        return PostClaim(claim, Sending(operation_id, uuid, row.operation.created_at, content))

    def _document(
        self, payment: LockedPayment, row: LockedOperation, route: SapRoute | None, now: datetime
    ) -> tuple[bytes, str, str]:
        """Return the frozen document, rendering and freezing it if this is the first claim."""
        place = {
            "table": "operations",
            "column": "encrypted_document",
            "row": row.operation.operation_id,
        }
        if row.encrypted_document is not None and row.document_type is not None:
            content = self._key_ring.decrypt(row.encrypted_document, **place)
            return content, row.document_type, row.encrypted_document
        mapping = _mapping(route, payment, row)
        try:
            entry = render(self._facts(payment, row, now), mapping)
        except (ValueError, KeyError) as error:
            # It would fail in every claim, and each would be undone with all that counts claims.
            raise PermanentError(f"not renderable ({type(error).__name__})") from error
        return entry.content, entry.document_type, self._key_ring.encrypt(entry.content, **place)

    def _facts(self, payment: LockedPayment, row: LockedOperation, now: datetime) -> JournalFacts:
        zone = ZoneInfo(payment.time_zone)
        return JournalFacts(
            kind=row.operation.kind,
            reference=row.sap_reference,
            external_id=payment.payment.external_id,
            amount=row.operation.amount,
            company_code=payment.company_code,
            document_date=_day(payment.payment.created_at, zone).isoformat(),
            posting_date=_day(now, zone).isoformat(),
            counterparty_text=self._counterparty_text(payment),
        )

    def _counterparty_text(self, payment: LockedPayment) -> str:
        """Return what the customer's line says: the remittance information, else the debtor's name."""
        if payment.encrypted_parties is None:
            return ""
        plain = self._key_ring.decrypt(
            payment.encrypted_parties,
            table="payments",
            column="encrypted_parties",
            row=payment.payment.payment_id,
        )
        parties = json.loads(plain)
        debtor = parties.get("debtor") or {}
        return str(parties.get("remittance_information") or debtor.get("name") or "")

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

    def _post(self, claimed: PostClaim) -> None:
        claim = claimed.claim
        if not self._lease_outlives_the_call(claim):
            self._recorder.not_posted(claim, OWN_DELAY, sap_to_blame=False)
            return
        try:
            outcome = self._connectors[claim.sap_system].post(claimed.sending)
        except TransientError as error:
            self._recorder.not_posted(claim, error, sap_to_blame=True)
        except UnknownOutcomeError as error:
            self._recorder.unknown(claim, error)
        else:
            self._recorder.answered(claim, outcome)

    def _ask(self, question: QuestionClaim) -> None:
        claim = question.claim
        if not self._lease_outlives_the_call(claim):
            self._recorder.question_failed(claim, OWN_DELAY, sap_to_blame=False)
            return
        try:
            found = self._connectors[claim.sap_system].find(question.company_code, question.reference)
        except TransientError as error:
            self._recorder.question_failed(claim, error, sap_to_blame=True)
        else:
            self._recorder.found(claim, found)

    def _lease_outlives_the_call(self, claim: Claim) -> bool:
        """Look at the clock that never jumps: past this point somebody else may take the operation over."""
        spent_seconds = self._clock.monotonic() - claim.started_monotonic
        return spent_seconds + self._settings.call_seconds < self._settings.lease_seconds


def _mapping(route: SapRoute | None, payment: LockedPayment, row: LockedOperation) -> JournalEntryMapping:
    """Return the partner's mapping; PermanentError unless it is for where the payment was accepted to go.

    The accounts of one SAP system or company code are somebody else's in another.
    """
    mapping = route.mappings.get(row.operation.kind) if route else None
    if route is None or mapping is None:
        raise PermanentError(f"no mapping for {row.operation.kind}")
    if (route.sap_system, route.company_code) != (row.sap_system, payment.company_code):
        raise PermanentError("the partner's route leads elsewhere than at acceptance")
    return mapping


def _day(moment: datetime, zone: ZoneInfo) -> date:
    return moment.astimezone(zone).date()
