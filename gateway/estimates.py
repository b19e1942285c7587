"""When a payment that waits will have been posted, as far as anybody can tell."""

import math
import threading
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from bridge.clock import Clock
from bridge.payment import FINAL_OPERATION_STATUSES, Operation, OperationStatus
from bridge.storage.lane_figures import LaneBacklog, lane_backlog
from bridge.storage.payments import StoredPayment

# How old a lane's figures may be: they are read once in this time, however often payments are.
MAX_AGE_SECONDS = 2.0
# A lane that is done within this keeps up: there is nothing to tell.
BEHIND_SECONDS = 5.0

_log = structlog.get_logger(__name__)


class Estimates:
    """One per process, for all threads. `engine` makes every statement a transaction."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._reading = threading.Lock()
        self._lanes: dict[str, tuple[float, LaneBacklog | None]] = {}

    def completion(self, stored: StoredPayment) -> datetime | None:
        """Return when the payment's next step will be done, to the second.

        None if it does not wait for its lane, if the lane keeps up, and if nobody knows: while SAP is away,
        while operators hold the lane, or before it was ever behind.
        """
        step = _next_step(stored)
        if step is None or step.status != OperationStatus.ACCEPTED:
            return None
        backlog = self._backlog(stored.sap_system)
        if backlog is None:
            return None
        seconds = backlog.seconds_until(stored.payment.partner_id, step.created_at)
        if seconds < BEHIND_SECONDS:
            return None
        return self._clock.now().replace(microsecond=0) + timedelta(seconds=math.ceil(seconds))

    def _backlog(self, sap_system: str) -> LaneBacklog | None:
        read_at, backlog = self._lanes.get(sap_system, (-math.inf, None))
        is_fresh = self._clock.monotonic() - read_at < MAX_AGE_SECONDS
        # One reads, the others go on with what they have.
        if is_fresh or not self._reading.acquire(blocking=False):
            return backlog
        try:
            with self._engine.connect() as connection:
                backlog = lane_backlog(connection, sap_system, self._clock.now())
        except SQLAlchemyError as error:
            _log.warning("no estimate", reason=type(error).__name__)
            backlog = None
        finally:
            self._reading.release()
        self._lanes[sap_system] = (self._clock.monotonic(), backlog)
        return backlog


def _next_step(stored: StoredPayment) -> Operation | None:
    unfinished = (step for step in stored.operations if step.status not in FINAL_OPERATION_STATUSES)
    return next(unfinished, None)
