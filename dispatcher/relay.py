"""The relay: claims outbox rows of a lane, publishes them in one call, deletes them.

A crash between only publishes again. No network call happens inside a transaction.
"""

import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import structlog
from sqlalchemy import Connection, Engine

from bridge.clock import Clock
from bridge.errors import TransientError
from bridge.lane import Lane
from bridge.messages import EVENTS_TOPIC, EventMessage, OperationMessage, operations_topic
from bridge.storage.lane_rows import save_lane
from bridge.storage.lanes import Traffic, count_traffic, lock_lane, next_due
from bridge.storage.outbox import Batch, Claim, claim_events, claim_operations, delete_published, release
from dispatcher.worker import Round

# Another relay is at the lane, or somebody at its operations: look again soon.
BUSY_SECONDS = 0.05
# A lane that is full has work ahead for longer than this: what comes free meanwhile is filled in one round.
FULL_SECONDS = 0.025

_log = structlog.get_logger(__name__)


class Publisher(Protocol):
    """What carries messages away."""

    def publish(self, topic: str, messages: Sequence[OperationMessage | EventMessage]) -> None:
        """Return when all are stored there, within a bounded time; else TransientError."""
        ...


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """`lease_seconds` outlasts the publisher's timeout; `max_batch` is in messages.

    Postings that take longer than `latency_target_seconds` on average shrink the lane's window.
    """

    lease_seconds: float
    max_batch: int
    latency_target_seconds: float = 5.0


class OperationsRelay:
    """Relays one SAP system's lane. Used by one thread."""

    def __init__(
        self, lane: str, engine: Engine, publisher: Publisher, clock: Clock, settings: RelaySettings
    ) -> None:
        self._lane = lane
        self._engine = engine
        self._publisher = publisher
        self._clock = clock
        self._settings = settings
        self._last_partner = ""

    def go_round(self) -> Round:
        """Publish what the lane has room for."""
        now = self._clock.now()
        with self._engine.begin() as connection:
            before = lock_lane(connection, self._lane)
            if before is None:
                return Round(next_seconds=BUSY_SECONDS)
            lane = before.probing() if before.is_probe_due(now) else before
            if lane.held or lane.call_window == 0:
                return self._when_due(connection, now)
            traffic = count_traffic(connection, self._lane, call_window=lane.call_window, now=now)
            lane = self._judged(lane, traffic, now)
            save_lane(connection, self._lane, before, lane)
            room = lane.room(out=traffic.out, calls=traffic.calls, settling=traffic.settling)
            if room == 0:
                # Whoever makes room wakes us.
                return Round(pause_seconds=FULL_SECONDS)
            limit = min(room, self._settings.max_batch)
            batch = self._claim(connection, lane, limit, now)
            then = self._after(connection, batch, limit, now, is_full=limit == room)
        self._last_partner = batch.last_partner
        if batch.messages:
            publish_batch(self._engine, self._publisher, operations_topic(self._lane), batch)
        return then

    def _after(
        self,
        connection: Connection,
        batch: Batch[OperationMessage],
        limit: int,
        now: datetime,
        *,
        is_full: bool,
    ) -> Round:
        """Return when to go round again: everything that is due is claimed, or the room is used up."""
        if len(batch.messages) < batch.found:
            return Round(next_seconds=BUSY_SECONDS)
        if batch.found < limit:
            # Other partners left room unused, so a partner that had its share may have more rows.
            return Round(again=True) if batch.is_more else self._when_due(connection, now)
        return Round(pause_seconds=FULL_SECONDS) if is_full else Round(again=True)

    def _judged(self, lane: Lane, traffic: Traffic, now: datetime) -> Lane:
        """Return the guard after a look at the answers since the last round."""
        return lane.folded_with(
            traffic.answers,
            is_behind=traffic.out + traffic.calls >= lane.call_window,
            latency_target_seconds=self._settings.latency_target_seconds,
            now=now,
        )

    def _claim(
        self, connection: Connection, lane: Lane, limit: int, now: datetime
    ) -> Batch[OperationMessage]:
        return claim_operations(
            connection,
            self._lane,
            new_claim(now, self._settings),
            limit=limit,
            after_partner=self._last_partner,
            # a probe that is to be a posting is none of the questions that have come back
            returned_first=not lane.is_half_open,
            unknown_first=lane.is_probed_by_question(),
            now=now,
        )

    def _when_due(self, connection: Connection, now: datetime) -> Round:
        return Round(
            next_seconds=seconds_until(next_due(connection, now, lane=self._lane).get(self._lane), now)
        )


class EventsRelay:
    """Relays the events that have their place in the feed. This lane is always open.

    Used by several threads: while one publishes, another claims. `more` is called when there is more to do
    than this round does.
    """

    def __init__(
        self,
        engine: Engine,
        publisher: Publisher,
        clock: Clock,
        settings: RelaySettings,
        more: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._publisher = publisher
        self._clock = clock
        self._settings = settings
        self._more = more
        # one claim at a time: a second would look at the same rows, and find them locked
        self._claiming = threading.Lock()
        self._last_partner = ""

    def go_round(self) -> Round:
        """Publish a batch of events."""
        with self._claiming:
            batch = self._claim()
        if not batch.messages:
            return Round(next_seconds=BUSY_SECONDS if batch.found else None)
        if batch.is_more:
            self._more()
        publish_batch(self._engine, self._publisher, EVENTS_TOPIC, batch)
        return Round(again=batch.is_more)

    def _claim(self) -> Batch[EventMessage]:
        now = self._clock.now()
        with self._engine.begin() as connection:
            batch = claim_events(
                connection,
                new_claim(now, self._settings),
                limit=self._settings.max_batch,
                after_partner=self._last_partner,
                now=now,
            )
        self._last_partner = batch.last_partner
        return batch


def new_claim(now: datetime, settings: RelaySettings) -> Claim:
    return Claim(uuid.uuid4(), now + timedelta(seconds=settings.lease_seconds))


def publish_batch(
    engine: Engine, publisher: Publisher, topic: str, batch: Batch[OperationMessage] | Batch[EventMessage]
) -> None:
    """Publish what was claimed and delete its rows; on TransientError give the rows back and raise it."""
    try:
        publisher.publish(topic, batch.messages)
    except TransientError:
        with engine.begin() as connection:
            release(connection, batch.claim, batch.identities, batch.messages)
        raise
    with engine.begin() as connection:
        deleted = delete_published(connection, batch.claim, batch.identities)
    _log.info("published", topic=topic, messages=len(batch.messages), kept=len(batch.messages) - deleted)


def seconds_until(due_at: datetime | None, now: datetime) -> float | None:
    """Return how long it is until then: never less than the shortest pause, None if there is nothing due."""
    return None if due_at is None else max(BUSY_SECONDS, (due_at - now).total_seconds())
