"""The use case after a restore from backup: hold the lanes, begin the recovery, tell how far it has come."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Engine

from backoffice.order import Order, invalid_state
from bridge.clock import Clock, rfc3339
from bridge.errors import RejectedError
from bridge.ids import new_id
from bridge.storage import recoveries, restores
from bridge.storage.recoveries import Recovery

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

    def begin(self, since: datetime, order: Order, *, restart: bool = False) -> Begun:
        """Hold all lanes and begin; a recovery since the same moment is carried on if it runs already.

        `restart` abandons whichever recovery runs. RejectedError (409) if that is needed to begin this one.
        """
        now = self._clock.now()
        recovery_id = new_id("rec", now)
        with self._engine.begin() as connection:
            restores.close_gate(connection)
            latest = recoveries.latest(connection)
            running = latest if latest is not None and latest.finished_at is None else None
            if latest is not None and latest.since == since and not restart:
                is_carried_on = running.is_at_home if running else not restores.is_recovery_due(connection)
                if is_carried_on:
                    return Begun(False, recoveries.view(connection) or {})
            if running is not None and not restart:
                raise _is_running(running)
            recoveries.begin(
                connection, recovery_id,
                since=since, replaces=running, started_by=order.operator, now=now,
            )  # fmt: skip
            restores.hold_lanes(connection)
            if running is not None:
                order.note(connection, "recovery.abandon", running.recovery_id, now)
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


def _is_running(running: Recovery) -> RejectedError:
    if not running.is_at_home:
        return invalid_state(
            "PostgreSQL has started since the recovery was begun, perhaps on a backup that was made during"
            " it. It can't be carried on: begin with --restart; if it was such a backup, --since its moment."
        )
    return invalid_state(
        f"A recovery since {rfc3339(running.since)} is running; `bridge recover` tells how far it is. If the"
        " database was restored again in the meantime, or that moment is wrong, begin with --restart."
    )
