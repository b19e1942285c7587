"""How lanes, outbox, feed, webhooks and dead letters stand, as gauges.

They are told by this service and no other: whoever does the work may hang, and somebody else must say so.
docs/decisions/0019-how-metrics-leave-the-processes.md
"""

import threading
from collections.abc import Iterator
from datetime import datetime

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from bridge.clock import Clock
from bridge.messages import EVENTS_LANE
from bridge.metrics import Attributes, Figures, Metrics
from bridge.storage.lane_figures import LaneFigures, LaneState, lane_figures
from bridge.storage.state_figures import (
    StateFigures,
    feeds_with_holes,
    overdue_delivery,
    state_figures,
    unknown_by_lane,
)

# However often, and by however many, the metrics are asked for.
READ_INTERVAL_SECONDS = 5.0
NAMES = (
    "bridge.outbox.depth",
    "bridge.outbox.age",
    "bridge.lane.state",
    "bridge.lane.window",
    "bridge.lane.closed.time",
    "bridge.lane.read_lag.excess",
    "bridge.operation.unknown",
    "bridge.operation.unknown.age",
    "bridge.operation.parked",
    "bridge.document.unplaced",
    "bridge.webhook.delivery.age",
    "bridge.webhook.endpoint.disabled",
    "bridge.dead_letter.open",
    "bridge.feed.lag",
    "bridge.feed.holes",
)
_Figure = tuple[str, float, Attributes]

_log = structlog.get_logger(__name__)


class StateMetrics:
    """Reads the figures when somebody looks. While the database is away there are none: an alert as well."""

    def __init__(self, engine: Engine, clock: Clock, *, settling_seconds: float) -> None:
        self._engine = engine
        self._clock = clock
        self._settling_seconds = settling_seconds
        self._reading = threading.Lock()
        self._figures: Figures = {}
        self._read_at_monotonic: float | None = None

    def register(self, metrics: Metrics) -> None:
        metrics.gauges(NAMES, self.read)

    def read(self) -> Figures:
        """Return the figures, not older than READ_INTERVAL_SECONDS."""
        with self._reading:
            last = self._read_at_monotonic
            if last is None or self._clock.monotonic() - last >= READ_INTERVAL_SECONDS:
                self._figures = self._read()
                # its end: a database that takes longer than the interval is not asked again for each name
                self._read_at_monotonic = self._clock.monotonic()
            return self._figures

    def _read(self) -> Figures:
        now = self._clock.now()
        found: dict[str, list[tuple[float, Attributes]]] = {name: [] for name in NAMES}
        try:
            with self._engine.connect() as connection:
                for name, value, attributes in self._all(connection, now):
                    found[name].append((value, attributes))
        except (DBAPIError, PoolTimeoutError) as error:
            _log.warning("state not read", reason=type(error).__name__)
            return {}
        return found

    def _all(self, connection: Connection, now: datetime) -> Iterator[_Figure]:
        lanes = lane_figures(connection, now)
        for lane in lanes:
            yield from _of_lane(lane, now)
        unknown = unknown_by_lane(connection, now, settling_seconds=self._settling_seconds)
        for sap_system in {lane.sap_system for lane in lanes} | unknown.keys():
            waiting = unknown.get(sap_system)
            on = {"bridge.lane": sap_system}
            yield "bridge.operation.unknown", waiting.count if waiting else 0, on
            yield "bridge.operation.unknown.age", waiting.age_seconds(now) if waiting else 0.0, on
        yield from _elsewhere(state_figures(connection, now), now)
        yield "bridge.feed.holes", feeds_with_holes(connection), {}
        due_at = overdue_delivery(connection, now)
        yield "bridge.webhook.delivery.age", (now - due_at).total_seconds() if due_at else 0.0, {}


def _of_lane(lane: LaneFigures, now: datetime) -> Iterator[_Figure]:
    on = {"bridge.lane": lane.sap_system}
    age = lane.oldest_age(now) if lane.state is LaneState.OPEN else None
    yield "bridge.outbox.depth", lane.waiting, on
    yield "bridge.outbox.age", age.total_seconds() if age else 0.0, on
    yield "bridge.lane.window", lane.call_window, on
    yield "bridge.lane.closed.time", lane.closed_seconds(now), on
    yield "bridge.lane.read_lag.excess", lane.read_lag_excess_seconds, on
    for state in LaneState:
        yield "bridge.lane.state", int(lane.state is state), {**on, "bridge.state": str(state)}


def _elsewhere(state: StateFigures, now: datetime) -> Iterator[_Figure]:
    events = {"bridge.lane": EVENTS_LANE}
    yield "bridge.outbox.depth", state.unpublished.count, events
    yield "bridge.outbox.age", state.unpublished.age_seconds(now), events
    yield "bridge.feed.lag", state.unsequenced.age_seconds(now), {}
    yield "bridge.operation.parked", state.parked_for_operators, {}
    yield "bridge.document.unplaced", state.unplaced_documents, {}
    yield "bridge.webhook.endpoint.disabled", state.disabled_endpoints, {}
    yield "bridge.dead_letter.open", state.dead_letters.count, {}
