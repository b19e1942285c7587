"""How late SAP's read side shows a document, measured now and then on one that SAP has just confirmed.

A "none" counts because SAP must have shown the document by then. Where the read side lags more than
SAP_READ_LAG_SECONDS says, two of them prove nothing and the document is posted twice. The lane keeps by how
much the lag exceeds the setting: settling is longer by that until a later measurement is within it again.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from bridge.clock import Clock, moment
from bridge.errors import TransientError
from bridge.payment import SapDocument
from bridge.storage.guard import give_back_slot, take_slot
from bridge.storage.read_lag import record_read_lag
from sap_adapter.connector import Connector

log = structlog.get_logger()

# One question in so many lags: a measurement costs a permit and a read.
LAGS_BETWEEN_MEASUREMENTS = 5
# A document that is not there after so many lags is given up; the lane keeps the excess seen so far.
MAX_LAGS = 32
# A question asked so much later than the setting still tells whether the lag is within it.
TOLERANCE = 1.1
PERMIT = "read-lag"


@dataclass(frozen=True, slots=True)
class ReadLagSettings:
    """Times in seconds: the lag that is configured, and how long a question's permit lasts."""

    read_lag_seconds: float
    lease_seconds: float


class ReadLag:
    """Measures one SAP system. Thread-safe; at most one measurement runs per process."""

    def __init__(
        self,
        engine: Engine,
        connector: Connector,
        clock: Clock,
        sap_system: str,
        settings: ReadLagSettings,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine = engine
        self._connector = connector
        self._clock = clock
        self._sap_system = sap_system
        self._settings = settings
        self._sleep = sleep
        self._lock = threading.Lock()
        self._not_before_monotonic = 0.0

    def confirmed(self, document: SapDocument, reference: str) -> None:
        """SAP has just confirmed the document: measure with it in the background, if it is time to."""
        now = self._clock.monotonic()
        with self._lock:
            if now < self._not_before_monotonic:
                return
            # at the latest: the measurement moves it when it ends
            self._not_before_monotonic = now + 2 * MAX_LAGS * self._settings.read_lag_seconds
        try:
            threading.Thread(
                target=self._run, args=(document, reference, now), name="read-lag", daemon=True
            ).start()
        except RuntimeError:  # no thread left: the next confirmation tries again
            self._end()

    def measure(self, document: SapDocument, reference: str, confirmed_monotonic: float) -> None:
        """Look once a read lag has passed, and go on at twice the time until the document is shown."""
        setting = self._settings.read_lag_seconds
        look_at, exceeded = setting, False
        while look_at <= MAX_LAGS * setting:
            elapsed = self._clock.monotonic() - confirmed_monotonic
            if elapsed < look_at:
                self._sleep(look_at - elapsed)
            elapsed = self._clock.monotonic() - confirmed_monotonic
            is_shown = self._look(document, reference)
            if is_shown is None:
                return
            if is_shown:
                if exceeded or elapsed <= setting * TOLERANCE:
                    self._record(elapsed - setting if exceeded else 0.0)
                return
            exceeded = True
            look_at = 2 * elapsed
            # not less than until the next look: meanwhile nobody knows
            self._record(look_at - setting)

    def _run(self, document: SapDocument, reference: str, confirmed_monotonic: float) -> None:
        try:
            self.measure(document, reference, confirmed_monotonic)
        except (TransientError, DBAPIError, PoolTimeoutError) as error:
            log.info("read-lag-not-measured", sap_system=self._sap_system, reason=type(error).__name__)
        finally:
            self._end()

    def _end(self) -> None:
        pause = LAGS_BETWEEN_MEASUREMENTS * self._settings.read_lag_seconds
        with self._lock:
            self._not_before_monotonic = self._clock.monotonic() + pause

    def _look(self, document: SapDocument, reference: str) -> bool | None:
        """Ask under a permit of the lane; None: there is none to be had."""
        at = moment(self._clock)
        lease_until = at.latest_in(self._settings.lease_seconds)
        with self._engine.begin() as connection:
            slot = take_slot(connection, self._sap_system, PERMIT, lease_until=lease_until, now=at.earliest)
        if slot is None:
            return None
        started, outcome = self._clock.monotonic(), "question-failed"
        try:
            found = self._connector.find(document.company_code, reference)
            outcome = "asked"
        finally:
            latency_ms = round((self._clock.monotonic() - started) * 1000)
            with self._engine.begin() as connection:
                give_back_slot(
                    connection, self._sap_system, slot, PERMIT, lease_until=lease_until,
                    outcome=outcome, success=False, latency_ms=latency_ms, now=self._clock.now(),
                )  # fmt: skip
        return any(each.document == document for each in found)

    def _record(self, excess_seconds: float) -> None:
        if excess_seconds > 0:
            log.error(
                "read-lag-exceeds-setting",
                sap_system=self._sap_system,
                read_lag_seconds=self._settings.read_lag_seconds + excess_seconds,
                setting_seconds=self._settings.read_lag_seconds,
            )
        with self._engine.begin() as connection:
            record_read_lag(connection, self._sap_system, excess_seconds)
