"""After a restore from backup: find what SAP has and this database has lost, before a lane goes on.

Step by step, each a transaction that notes how far it has come; whoever starts the job again goes on there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from bridge.clock import Clock
from bridge.errors import TransientError
from bridge.payment import OperationKind, OperationStatus
from bridge.storage import audit, recovered, recovered_steps, recoveries, restores, unplaced_documents
from bridge.storage.failures import constraint_of, sqlstate
from bridge.storage.read_lag import read_lag_excess_seconds
from bridge.storage.recovered import FeedStart
from bridge.storage.recovered_steps import KnownReference, LostStep
from bridge.storage.recoveries import LaneWalk, Recovery
from bridge.storage.unplaced_documents import NO_VALID_STEP, SettledAs, Unplaced
from sap_adapter.connector import DocumentPage, DocumentSource, PostedDocument, UnreadableDocument
from sap_adapter.document_mark import partners_by_hash, read_mark

_log = structlog.get_logger(__name__)

MARK_PAGE = 500
MAX_EXTERNAL_ID_CHARACTERS = 35
# A day before the backup: SAP enters documents by its own calendar, not by UTC.
EARLIER = timedelta(days=1)
RETRY_SECONDS = 5.0
# Classes of SQLSTATE: a value that a column can't hold, a constraint that a row breaks.
BROKEN_CONSTRAINT = "23"
UNWRITABLE = ("22", BROKEN_CONSTRAINT)
# Payments before what follows them; a refund follows a capture.
PASSES = (
    frozenset({OperationKind.PAYMENT, OperationKind.AUTHORIZE}),
    frozenset({OperationKind.CAPTURE, OperationKind.REVERSE}),
    frozenset({OperationKind.REFUND}),
)


class NotConfiguredError(Exception):
    """A SAP system has no connection here; the text names it."""


@dataclass
class Placed:
    """What came of the documents of a page."""

    operations: int = 0
    unplaced: int = 0


class RecoveryJob:
    """`wait` sleeps. Several jobs do each other no harm: each takes its step under the recovery's lock."""

    def __init__(
        self,
        engine: Engine,
        sources: Mapping[str, DocumentSource],
        clock: Clock,
        *,
        settling_seconds: float,
        wait: Callable[[float], None],
    ) -> None:
        self._engine = engine
        self._sources = sources
        self._clock = clock
        self._settling = timedelta(seconds=settling_seconds)
        self._wait = wait

    def run(self) -> bool:
        """Work until the recovery is finished, or another one has taken its place; False if there is none.

        NotConfiguredError, RestoredRecoveryError: it can't be, and the text says what to do.
        """
        recovery = self._running()
        if recovery is None:
            return False
        while self._mark():
            pass
        with self._engine.begin() as connection:
            walks = recoveries.lane_walks(connection, recovery.recovery_id)
            excesses = [read_lag_excess_seconds(connection, walk.sap_system) for walk in walks]
        self._wait_until_settled(recovery, max(excesses, default=0.0))
        for walk in walks:
            self._walk(recovery, walk)
        self._finish()
        return True

    def _running(self) -> Recovery | None:
        with self._engine.begin() as connection:
            latest = recoveries.latest(connection)
        return None if latest is None or latest.finished_at is not None else latest

    def _mark(self) -> bool:
        """Take the next step before the documents: the feeds, then page by page the operations."""
        now = self._clock.now()
        with self._engine.begin() as connection:
            recovery = recoveries.lock_running(connection)
            if recovery is None or recovery.is_marked:
                return False
            feeds_resumed = recovery.feeds_resumed
            feed_start = FeedStart.at(recovery.started_at)
            page: list[str] = []
            if feeds_resumed is None:
                feeds_resumed = recovered.resume_feeds(connection, feed_start)
            else:
                page = recovered.mark_page(
                    connection, after=recovery.marked_to, until=recovery.started_at,
                    settling=self._settling, limit=MARK_PAGE, now=now,
                )  # fmt: skip
            recoveries.save(
                connection, recovery,
                feeds_resumed=feeds_resumed, feed_start=feed_start, operations_marked=len(page),
                marked_to=page[-1] if page else recovery.marked_to,
                is_marked=recovery.feeds_resumed is not None and len(page) < MARK_PAGE, now=now,
            )  # fmt: skip
        _log.info("recovery marked", feeds=feeds_resumed, operations=len(page))
        return True

    def _wait_until_settled(self, recovery: Recovery, excess_seconds: float) -> None:
        """Let SAP end, and its read side show, what was on its way when the old database went away.

        `excess_seconds`: by how much the slowest read side is known to be later than configured.
        """
        settled_at = recovery.started_at + self._settling + timedelta(seconds=excess_seconds)
        seconds = (settled_at - self._clock.now()).total_seconds()
        if seconds > 0:
            _log.info("recovery waits until SAP has settled", seconds=round(seconds))
            self._wait(seconds)

    def _walk(self, recovery: Recovery, walk: LaneWalk) -> None:
        source = self._sources.get(walk.sap_system)
        if source is None:
            raise NotConfiguredError(f"SAP_CONNECTIONS_FILE has no connection to {walk.sap_system}")
        day = (recovery.reads_since - EARLIER).date()
        while walk.finished_at is None:
            try:
                page = source.documents_since(day, walk.next_offset)
            except TransientError as error:
                _log.warning("recovery waits for SAP", sap_system=walk.sap_system, reason=str(error))
                self._wait(RETRY_SECONDS)
            else:
                walk = self._place(recovery, walk, page)

    def _place(self, recovery: Recovery, walk: LaneWalk, page: DocumentPage) -> LaneWalk:
        """Place a page's documents and note where the next begins, in one transaction."""
        now = self._clock.now()
        with self._engine.begin() as connection:
            running = recoveries.lock_running(connection)
            if running is None or running.recovery_id != recovery.recovery_id:
                # what this one takes for the moment of the backup may be wrong
                _log.warning("recovery is over or abandoned", recovery_id=recovery.recovery_id)
                return replace(walk, finished_at=now)
            (stored,) = [
                each
                for each in recoveries.lane_walks(connection, recovery.recovery_id)
                if each.sap_system == walk.sap_system
            ]
            if stored != walk:
                # another job has been quicker: go on where it is
                return stored
            partners = partners_by_hash(recovered.known_partners(connection))
            placed = Placed()
            for document in page.documents:
                _place_one(connection, recovery, walk, document, partners, placed, now)
            for unreadable in page.unreadable if walk.pass_number == 0 else ():
                _note_unreadable(connection, recovery, walk, unreadable, placed)
            after = _next(walk, page, now)
            recoveries.save_lane(
                connection, recovery, after,
                documents_read=len(page.documents) + len(page.unreadable) if walk.pass_number == 0 else 0,
                operations_made=placed.operations, documents_unplaced=placed.unplaced,
            )  # fmt: skip
        _log.info(
            "recovery placed documents", sap_system=walk.sap_system, pass_number=walk.pass_number,
            read=len(page.documents), made=placed.operations, unplaced=placed.unplaced,
        )  # fmt: skip
        return after

    def _finish(self) -> None:
        now = self._clock.now()
        with self._engine.begin() as connection:
            recovery = recoveries.lock_running(connection)
            if recovery is None:
                return
            walks = recoveries.lane_walks(connection, recovery.recovery_id)
            if not recovery.is_marked or any(walk.finished_at is None for walk in walks):
                return
            restores.end_recovery(connection)
            recoveries.finish(connection, recovery, now=now)
            audit.append(
                connection, actor=recovery.started_by, action="recovery.finish",
                subject=recovery.recovery_id, reason=None, now=now,
            )  # fmt: skip
        _log.info("recovery finished", recovery_id=recovery.recovery_id)


def _next(walk: LaneWalk, page: DocumentPage, now: datetime) -> LaneWalk:
    if page.next_offset is not None:
        return replace(walk, next_offset=page.next_offset)
    if walk.pass_number + 1 < len(PASSES):
        return replace(walk, pass_number=walk.pass_number + 1, next_offset=0)
    return replace(walk, finished_at=now)


def _place_one(
    connection: Connection,
    recovery: Recovery,
    walk: LaneWalk,
    document: PostedDocument,
    partners: Mapping[str, str],
    placed: Placed,
    now: datetime,
) -> None:
    try:
        with connection.begin_nested():
            why = _place_document(connection, recovery, walk, document, partners, placed, now)
    except DBAPIError as error:
        error_class = (sqlstate(error) or "")[:2]
        if error_class not in UNWRITABLE:
            raise
        # what the document says makes no row: it stops only itself
        _log.error("document not placed", sap_system=walk.sap_system, constraint=constraint_of(error))
        lost = _lost_step(walk.sap_system, document, partners)
        # what can be written is kept: nothing is sent of the payment that the document names
        why = NO_VALID_STEP, None
        if isinstance(lost, LostStep) and error_class == BROKEN_CONSTRAINT:
            why = NO_VALID_STEP, lost
    if why is None:
        return
    reason, step = why
    amount = document.found.amount
    found = Unplaced(
        walk.sap_system, document.found.document, amount.minor, amount.currency, document.reference,
        reason, step,
    )  # fmt: skip
    _note(connection, recovery, found, placed)


def _note_unreadable(
    connection: Connection, recovery: Recovery, walk: LaneWalk, document: UnreadableDocument, placed: Placed
) -> None:
    """Keep it in sight, unless an operation has its reference: SAP is asked about that one in its turn."""
    if recovered_steps.find_reference(connection, document.reference) is None:
        found = Unplaced(
            walk.sap_system, document.document, None, None, document.reference, "unreadable", None
        )  # fmt: skip
        _note(connection, recovery, found, placed)


def _note(connection: Connection, recovery: Recovery, found: Unplaced, placed: Placed) -> None:
    _log.error("document in SAP without an operation", sap_system=found.sap_system, reason=found.reason)
    unplaced_documents.note(connection, recovery.recovery_id, found)
    placed.unplaced += 1


def _place_document(
    connection: Connection,
    recovery: Recovery,
    walk: LaneWalk,
    document: PostedDocument,
    partners: Mapping[str, str],
    placed: Placed,
    now: datetime,
) -> tuple[str, LostStep | None] | None:
    """Give the document its operation in the pass of its kind; return why it has none, and whose it is."""
    lost = _lost_step(walk.sap_system, document, partners)
    step = lost if isinstance(lost, LostStep) else None
    if walk.pass_number != (_pass_of(step.kind) if step else 0):
        return None
    key = document.found.document
    if unplaced_documents.is_dismissed(connection, walk.sap_system, key):
        return None
    known = recovered_steps.find_reference(connection, document.reference)
    if known is not None:
        reason = _contradiction(known, document)
    elif not isinstance(lost, LostStep):
        reason = lost
    elif unplaced_documents.is_found_earlier(connection, walk.sap_system, key):
        reason = unplaced_documents.FOUND_EARLIER
    else:
        reason = recovered_steps.place(
            connection, lost, since=recovery.reads_since, lanes_are_held=True, now=now
        )
        placed.operations += reason is None
    if reason is not None:
        return reason, step
    # an earlier recovery may have put it on the list
    unplaced_documents.settle(connection, walk.sap_system, key, SettledAs.PLACED, now=now)
    return None


def _pass_of(kind: OperationKind) -> int:
    return next(number for number, kinds in enumerate(PASSES) if kind in kinds)


def _contradiction(known: KnownReference, document: PostedDocument) -> str | None:
    """Return what is wrong with a document whose reference an operation has."""
    if known.status in (OperationStatus.CANCELLED, OperationStatus.REJECTED):
        return "booked-though-ended"
    key = document.found.document
    # SAP copies the reference to a reversal that an accountant makes
    is_another = known.document not in (None, (key.company_code, key.fiscal_year, key.number))
    return "second-document" if is_another and not document.is_reversal else None


def _lost_step(sap_system: str, document: PostedDocument, partners: Mapping[str, str]) -> LostStep | str:
    """Return what the document says of itself, or why that is too little."""
    mark = read_mark(document.mark)
    if mark is None:
        return "no-mark"
    kind, partner_hash = mark
    if partner_hash not in partners:
        return "partner-unknown"
    if not 1 <= len(document.external_id) <= MAX_EXTERNAL_ID_CHARACTERS:
        return "no-external-id"
    return LostStep(
        kind=OperationKind.REVERSE if document.is_reversal else kind,
        reference=document.reference,
        partner_id=partners[partner_hash],
        external_id=document.external_id,
        amount=document.found.amount,
        sap_system=sap_system,
        company_code=document.found.document.company_code,
    )
