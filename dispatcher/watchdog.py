"""Puts back whatever makes no progress: dead claims, lost messages, stranded operations; tells long delays.

The broker may lose everything: what was dispatched and is not claimed goes out again after 1, 2, 4 … 60
minutes. An operation with a live lease is never touched.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import Connection, Engine

from bridge.clock import Clock, Moment, certain_moment, later
from bridge.lane import FailedCall, GuardSettings
from bridge.payment import OperationStatus, ParkReason
from bridge.storage.delays import tell_delay
from bridge.storage.events import put_back
from bridge.storage.guard import keep_settling_slot, note_failure
from bridge.storage.outbox import DISPATCHABLE
from bridge.storage.outcomes import record_parked
from bridge.storage.setbacks import Setbacks
from bridge.storage.watchdog import (
    ExpiredClaim,
    WaitingOperation,
    begin_day,
    end_expired_claim,
    lock_dispatched,
    lock_expired_claims,
    lock_stranded,
    mark_delayed,
    recall,
    release_held,
    waiting_page,
)
from dispatcher.worker import Round

MAX_EXPIRED = 100
MAX_DISPATCHED = 200
MAX_PAGE = 500
# Claims of one operation that were started and never came to an end before it counts as poison.
POISON_CLAIMS = 3
_START = (datetime(1970, 1, 1, tzinfo=UTC), "")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WatchdogSettings:
    """Times in seconds. `settling_seconds`: how long after a lost call SAP may still be booking it."""

    interval_seconds: float
    first_redispatch_seconds: float
    settling_seconds: float
    delayed_after_seconds: float
    guard: GuardSettings = field(default_factory=GuardSettings)


class Watchdog:
    """`put_back_some` is called when something has been put back. Used by one thread."""

    def __init__(
        self, engine: Engine, clock: Clock, settings: WatchdogSettings, put_back_some: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._settings = settings
        self._put_back_some = put_back_some
        # Two walks through what waits: one round and round, one that follows the delay's limit in time.
        self._round_walk = _START
        self._delay_walk = _START
        # through ended leases and lost messages: what can't be helped now must not hide the rest
        self._expired_walk = _START
        self._dispatched_walk = _START
        self._steps = Setbacks("watchdog", clock.monotonic)
        self._operations = Setbacks("watchdog, operations", clock.monotonic)

    def go_round(self) -> Round:
        """Look at everything once, in bounded batches; what fails, a step or an operation, stops no other."""
        now = self._clock.now()
        is_more = False
        for name, step in (
            ("expired claims", self._expired_claims),
            ("lost dispatches", self._lost_dispatches),
            ("delays", self._delays),
            ("released partners", self._released_partners),
            ("days begun", self._days_begun),
            ("stranded operations", self._stranded),
        ):
            if not self._steps.rests(name):
                with self._steps.contained(name):
                    is_more = step(now) or is_more
        return Round(again=is_more, next_seconds=self._settings.interval_seconds)

    def _expired_claims(self, now: datetime) -> bool:
        began_after = self._expired_walk
        with self._engine.begin() as connection:
            at = certain_moment(self._clock)
            claims = lock_expired_claims(connection, after=began_after, limit=MAX_EXPIRED, now=at.earliest)
            for claim in claims:
                with self._operations.contained(claim.operation_id), connection.begin_nested():
                    self._end_claim(connection, claim, at)
        if claims:
            self._blame_lanes(claims, now)
            self._put_back_some()
        # one that could not be ended is passed by, and met again in the next walk
        is_end = len(claims) < MAX_EXPIRED
        self._expired_walk = _START if is_end else (claims[-1].lease_until, claims[-1].operation_id)
        return not is_end

    def _blame_lanes(self, claims: Sequence[ExpiredClaim], now: datetime) -> None:
        """Tell each lane's guard that its calls did not come back: else it would look healthy.

        After the claims have ended, lane by lane: nobody may hold two lanes at once.
        """
        for claim in claims:
            failure = FailedCall(claim.operation_id, claim.lease_until, is_overload=False)
            lane = f"lane {claim.sap_system}"
            with self._operations.contained(lane), self._engine.begin() as connection:
                note_failure(connection, claim.sap_system, failure, self._settings.guard, now=now)

    def _end_claim(self, connection: Connection, claim: ExpiredClaim, at: Moment) -> None:
        """The call's outcome is unknown, and its permit free; one is kept until SAP must have settled."""
        now = at.now
        settled_at = later(claim.lease_until, self._settings.settling_seconds)
        if claim.status == OperationStatus.PROCESSING:
            end_expired_claim(connection, claim.operation_id, settled_at=settled_at, now=now)
            # after the claim has ended: at least its own permit is free then, and only to us
            keep_settling_slot(
                connection, claim.sap_system, claim.operation_id, settled_at=settled_at, now=at.earliest
            )
        else:
            end_expired_claim(connection, claim.operation_id, settled_at=claim.settled_at, now=now)
        is_poison = claim.claims_unfinished >= POISON_CLAIMS
        _log.warning("claim expired", operation_id=claim.operation_id, poison=is_poison)
        if not is_poison:
            put_back(connection, claim.operation_id, not_before=now, now=now)
            return
        record_parked(
            connection, claim.operation_id, ParkReason.POISON,
            definitely_not_posted=False, refused=False, claimed=False, now=now,
        )  # fmt: skip
        if claim.delayed_at is None:
            tell_delay(connection, claim.operation_id, now=now)

    def _lost_dispatches(self, now: datetime) -> bool:
        first_seconds = self._settings.first_redispatch_seconds
        lost = []
        with self._engine.begin() as connection:
            found = lock_dispatched(
                connection,
                first_seconds=first_seconds,
                after=self._dispatched_walk,
                limit=MAX_DISPATCHED,
                now=now,
            )
            for operation in found:
                is_lost = operation.redispatch_at(first_seconds) <= now
                with self._operations.contained(operation.operation_id), connection.begin_nested():
                    if operation.status not in DISPATCHABLE:
                        recall(connection, operation.operation_id, is_lost=False)
                    elif is_lost:
                        recall(connection, operation.operation_id, is_lost=True)
                        put_back(connection, operation.operation_id, not_before=now, now=now)
                        lost.append(operation.operation_id)
        if lost:
            _log.warning("dispatched and not claimed", operations=len(lost), first=lost[0])
            self._put_back_some()
        # what is not quite due stays, and must not hide what is due behind it
        is_end = len(found) < MAX_DISPATCHED
        self._dispatched_walk = _START if is_end else (found[-1].dispatched_at, found[-1].operation_id)
        return not is_end

    def _released_partners(self, now: datetime) -> bool:
        """Let go on what waited for its partner; an adapter that has not heard of it yet parks it again."""
        with self._engine.begin() as connection:
            released = release_held(connection, limit=MAX_PAGE, now=now)
        if released:
            _log.info("postings of partners go on", operations=released)
            self._put_back_some()
        return released == MAX_PAGE

    def _days_begun(self, now: datetime) -> bool:
        with self._engine.begin() as connection:
            return begin_day(connection, limit=MAX_PAGE, now=now) == MAX_PAGE

    def _delays(self, now: datetime) -> bool:
        """Follow the limit in time: everything that waits since before it is looked at once."""
        limit = now - timedelta(seconds=self._settings.delayed_after_seconds)
        with self._engine.begin() as connection:
            page = waiting_page(connection, after=self._delay_walk, limit=MAX_PAGE)
        page = [operation for operation in page if operation.waits_since < limit]
        for operation in page:
            with self._operations.contained(operation.operation_id):
                self._tell_if_delayed(operation, now)
        if page:
            # one that failed is met again by the walk that goes round
            self._delay_walk = (page[-1].waits_since, page[-1].operation_id)
        return len(page) == MAX_PAGE

    def _stranded(self, now: datetime) -> bool:
        """Walk one page further through all that waits; at the end begin anew. Never in a hurry."""
        with self._engine.begin() as connection:
            page = waiting_page(connection, after=self._round_walk, limit=MAX_PAGE)
        for operation in page:
            with self._operations.contained(operation.operation_id):
                if operation.is_stranded:
                    self._rescue(operation, now)
                self._tell_if_delayed(operation, now)
        is_end = len(page) < MAX_PAGE
        self._round_walk = _START if is_end else (page[-1].waits_since, page[-1].operation_id)
        return False

    def _rescue(self, operation: WaitingOperation, now: datetime) -> None:
        with self._engine.begin() as connection:
            is_stranded = lock_stranded(connection, operation.operation_id)
            if is_stranded:
                not_before = max(now, operation.waits_since)
                put_back(connection, operation.operation_id, not_before=not_before, now=now)
        if is_stranded:
            # It must not happen: whoever let it fall has to be found.
            _log.error("operation was stranded", operation_id=operation.operation_id)
            self._put_back_some()

    def _tell_if_delayed(self, operation: WaitingOperation, now: datetime) -> None:
        is_late = (now - operation.waits_since).total_seconds() > self._settings.delayed_after_seconds
        is_parked = operation.status == OperationStatus.PARKED
        if operation.delayed_at is not None or not (is_late or is_parked):
            return
        with self._engine.begin() as connection:
            if mark_delayed(connection, operation.operation_id, now=now):
                tell_delay(connection, operation.operation_id, now=now)
                _log.warning("operation is delayed", operation_id=operation.operation_id)
