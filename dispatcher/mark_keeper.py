"""Keeps the high-water mark outside of the database: compares the database with it, and moves it on.

Every round reads the mark before the database, so that a mark that another dispatcher has just moved is not
taken for one that the database does not know. Nothing outside is called in a transaction.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Engine

from bridge.clock import Clock, rfc3339
from bridge.errors import PermanentError, TransientError, UnknownOutcomeError
from bridge.high_water_mark import HighWaterMark, StandingMark, Suspicion
from bridge.ports import MarkStore, VersionConflictError
from bridge.storage import high_water_marks, restores
from bridge.storage.high_water_marks import MarkState
from dispatcher.worker import Round

# After a mark that could not be read or written.
RETRY_SECONDS = 1.0
# How often to look whether a recovery is over.
RECOVERY_SECONDS = 5.0
# A mark that could not be written for so long is worth a line in the log, and then as often again.
LOUD_AFTER_SECONDS = 30.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class MarkSettings:
    """Times in seconds.

    `interval_seconds`: how often the mark moves. `patience_seconds`: how long after a start of PostgreSQL
    nothing is decided because the mark can't be read. `may_forget`: what keeps the mark loses it at times.
    """

    interval_seconds: float = 2.0
    patience_seconds: float = 60.0
    may_forget: bool = False


class MarkKeeper:
    """`opened` is called when the gate has opened. Used by one thread; `age_seconds` by any."""

    def __init__(
        self,
        engine: Engine,
        store: MarkStore,
        clock: Clock,
        settings: MarkSettings,
        opened: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._store = store
        self._clock = clock
        self._settings = settings
        self.opened = opened
        self._fresh_at: float | None = clock.monotonic()
        self._loud_at = self._fresh_at + LOUD_AFTER_SECONDS
        # since when the gate is closed because the mark can't be read
        self._closed_since: float | None = None

    def age_seconds(self) -> float | None:
        """Return how long ago the mark was last seen to be new; None while a recovery is due."""
        fresh_at = self._fresh_at
        return None if fresh_at is None else self._clock.monotonic() - fresh_at

    def go_round(self) -> Round:
        """Compare and move the mark, if it is due."""
        now = self._clock.now()
        with self._engine.begin() as connection:
            state = high_water_marks.read_state(connection)
        if not state.is_recovered:
            self._fresh_at = None
            return Round(next_seconds=RECOVERY_SECONDS)
        if self._fresh_at is None:
            self._is_fresh()
        if state.noted_at is not None and state.marks.is_compared:
            wait = state.noted_at + timedelta(seconds=self._settings.interval_seconds) - now
            if timedelta() < wait <= timedelta(seconds=self._settings.interval_seconds):
                self._is_fresh()
                return Round(next_seconds=wait.total_seconds())
        try:
            return self._move()
        except VersionConflictError:
            # another dispatcher was quicker
            return Round(next_seconds=RETRY_SECONDS)
        except (TransientError, UnknownOutcomeError, PermanentError) as error:
            self._is_away(state, error)
            return Round(next_seconds=RETRY_SECONDS)

    def _move(self) -> Round:
        standing = self._store.read()
        outside = None if standing is None else standing.mark
        now = self._clock.now()
        with self._engine.begin() as connection:
            state = high_water_marks.lock_state(connection)
            if not state.is_recovered:
                return Round(again=True)
            suspicion = state.marks.suspicion(outside, may_forget=self._settings.may_forget)
            if suspicion is None:
                mark = high_water_marks.propose(connection, state, outside, now=now)
        if suspicion is not None:
            self._suspect(outside)
            return Round(again=True)
        self._store.write(mark, standing)
        self._note(state, mark, standing)
        return Round(next_seconds=self._settings.interval_seconds)

    def _note(self, before: MarkState, mark: HighWaterMark, over: StandingMark | None) -> None:
        with self._engine.begin() as connection:
            is_noted = high_water_marks.note(connection, mark, before.started_at, now=self._clock.now())
        if not is_noted:
            return
        self._is_fresh()
        marks = before.marks
        if over is None and marks.serial > 0:
            _log.warning("the high-water mark was gone and is written again", serial=mark.serial)
        elif over is not None and over.mark.serial < marks.noted_serial and not marks.takes_over:
            _log.warning("the high-water mark was older than the database", serial=over.mark.serial)
        if marks.takes_over:
            _log.info("the high-water mark follows the recovery", serial=mark.serial, epoch=mark.epoch)
        if not before.is_trusted:
            _log.info("compared with the high-water mark", serial=mark.serial)
            self.opened()

    def _suspect(self, outside: HighWaterMark | None) -> None:
        """Close the gate; lock order: the gate, then the state, which may have changed."""
        now = self._clock.now()
        with self._engine.begin() as connection:
            restores.close_gate(connection)
            state = high_water_marks.lock_state(connection)
            suspicion = state.marks.suspicion(outside, may_forget=self._settings.may_forget)
            if suspicion is None or not state.is_recovered:
                return
            restores.suspect(connection, suspicion, now=now)
        _log.error(
            "the database was put back",
            reason=str(suspicion),
            explanation=EXPLANATIONS[suspicion],
            database_id=state.marks.database_id,
            serial=state.marks.serial,
            proposed_at=_shown(state.proposed_at),
            outside_database_id=None if outside is None else outside.database_id,
            outside_serial=None if outside is None else outside.serial,
            outside_proposed_at=None if outside is None else _shown(outside.proposed_at),
        )

    def _is_fresh(self) -> None:
        monotonic = self._clock.monotonic()
        self._fresh_at, self._loud_at = monotonic, monotonic + LOUD_AFTER_SECONDS
        self._closed_since = None

    def _is_away(self, state: MarkState, error: Exception) -> None:
        """Go on as the database says; after the patience also where PostgreSQL has started since."""
        monotonic = self._clock.monotonic()
        if monotonic >= self._loud_at:
            self._loud_at = monotonic + LOUD_AFTER_SECONDS
            _log.warning("the high-water mark can't be kept", reason=str(error))
        if state.is_trusted:
            self._closed_since = None
            return
        if self._closed_since is None:
            self._closed_since = monotonic
            _log.warning("nothing is posted before the high-water mark can be read", reason=str(error))
        elif monotonic - self._closed_since >= self._settings.patience_seconds:
            with self._engine.begin() as connection:
                high_water_marks.trust_without_mark(connection, state.started_at)
            _log.error("goes on without the high-water mark", reason=str(error))
            self._closed_since = None
            self.opened()


EXPLANATIONS = {
    Suspicion.BEHIND: "the mark outside is newer: an earlier state of the database was put back",
    Suspicion.ANOTHER_DATABASE: (
        "the mark outside is another database's: the database of another environment was put here,"
        " or this one was made anew"
    ),
    Suspicion.MARK_MISSING: (
        "there is no mark outside, though the database has had one: it was put into another project,"
        " or the mark was deleted"
    ),
}


def _shown(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)
