"""The use cases on lanes: how they stand, hold, release, the cap on calls at once."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Engine

from backoffice.order import Order, not_found
from bridge.clock import Clock, rfc3339
from bridge.storage import lane_control
from bridge.storage.lane_control import LockedLane
from bridge.storage.lane_figures import LaneFigures, lane_figures
from bridge.storage.restores import require_recovered

_log = structlog.get_logger(__name__)


class Lanes:
    """Changes one lane per transaction, with its line in the audit trail. Repeating changes nothing."""

    def __init__(self, engine: Engine, clock: Clock, wake: Callable[[], None]) -> None:
        self._engine = engine
        self._clock = clock
        self._wake = wake

    def status(self) -> list[dict[str, Any]]:
        """Return how every lane stands."""
        now = self._clock.now()
        with self._engine.connect() as connection:
            figures = lane_figures(connection, now)
        return [_view(lane, now) for lane in figures]

    def hold(self, sap_system: str, order: Order) -> bool:
        """Stop dispatching to the SAP system; calls that run end. Return whether that changed anything."""
        return self._set_held(sap_system, order, held=True)

    def release(self, sap_system: str, order: Order) -> bool:
        """Let the lane go on; return whether that changed anything."""
        return self._set_held(sap_system, order, held=False)

    def set_cap(self, sap_system: str, hard_cap: int, order: Order) -> bool:
        """Set the most calls at once, 1 to MAX_HARD_CAP_CALLS; return whether that changed anything."""
        with self._engine.begin() as connection:
            lane = _known(lane_control.lock_lane(connection, sap_system))
            if lane.hard_cap == hard_cap:
                return False
            lane_control.set_cap(connection, sap_system, hard_cap)
            action = f"lane.set-cap {lane.hard_cap} -> {hard_cap}"
            order.note(connection, action, sap_system, self._clock.now())
        _log.warning("lane changed", sap_system=sap_system, hard_cap=hard_cap)
        self._wake()
        return True

    def _set_held(self, sap_system: str, order: Order, *, held: bool) -> bool:
        with self._engine.begin() as connection:
            if not held:
                require_recovered(connection)
            lane = _known(lane_control.lock_lane(connection, sap_system))
            # a recovery releases what it holds when it ends, not what an operator holds as well
            if lane.held_by == ("operator" if held else None):
                return False
            lane_control.set_held(connection, sap_system, held=held)
            order.note(connection, f"lane.{'hold' if held else 'release'}", sap_system, self._clock.now())
        _log.warning("lane changed", sap_system=sap_system, held=held)
        self._wake()
        return True


def _known(lane: LockedLane | None) -> LockedLane:
    if lane is None:
        raise not_found("SAP system")
    return lane


def _view(lane: LaneFigures, now: datetime) -> dict[str, Any]:
    age = lane.oldest_age(now)
    return {
        "sap_system": lane.sap_system,
        "state": str(lane.state),
        "hard_cap": lane.hard_cap,
        "window": lane.call_window,
        "calls": lane.calls,
        "settling": lane.settling,
        "backlog": lane.backlog,
        "oldest_age_seconds": age and age.total_seconds(),
        "answers_per_second": lane.answers_per_second,
        "latency_ms": lane.latency_ms,
        "drain_seconds": lane.drain_seconds,
        "failed_probes": lane.failed_probes,
        "probe_not_before": lane.probe_not_before and rfc3339(lane.probe_not_before),
    }
