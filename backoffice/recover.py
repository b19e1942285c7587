"""The use case after a restore from backup: hold the lanes, begin the recovery, tell how far it has come."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Engine

from backoffice.order import Order, invalid_state
from bridge.clock import Clock, rfc3339
from bridge.ids import new_id
from bridge.storage import recoveries, restores

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Begun:
    """Whether the order has begun a recovery; if not, the one it asked for runs or has run already."""

    is_new: bool
    recovery: dict[str, Any]


class Recover:
    """Begins; the job `python -m sap_adapter.recover` carries on, because only the adapter may ask SAP."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    def begin(self, since: datetime, order: Order) -> Begun:
        """Hold all lanes and begin; RejectedError (409) if another recovery runs."""
        now = self._clock.now()
        recovery_id = new_id("rec", now)
        with self._engine.begin() as connection:
            restores.close_gate(connection)
            latest = recoveries.latest(connection)
            is_the_same = latest is not None and latest.since == since
            is_running = latest is not None and latest.finished_at is None
            if is_the_same and (is_running or not restores.is_recovery_due(connection)):
                return Begun(False, recoveries.view(connection) or {})
            is_begun = recoveries.begin(
                connection, recovery_id, since=since, started_by=order.operator, now=now
            )
            if not is_begun:
                raise invalid_state("Another recovery is running; `bridge recover` tells how far it is.")
            restores.hold_lanes(connection)
            order.note(connection, f"recovery.begin since {rfc3339(since)}", recovery_id, now)
            view = recoveries.view(connection) or {}
        _log.warning("recovery begun", recovery_id=recovery_id, since=rfc3339(since))
        return Begun(True, view)

    def latest(self) -> dict[str, Any]:
        """Return the recovery that runs or ran last, if any, and whether one has to be begun.

        `suspicion` is there only if the high-water mark tells against the database.
        """
        with self._engine.connect() as connection:
            found: dict[str, Any] = {
                "is_due": restores.is_recovery_due(connection),
                "recovery": recoveries.view(connection),
            }
            suspicion = restores.suspicion(connection)
        return found if suspicion is None else {**found, "suspicion": suspicion}
