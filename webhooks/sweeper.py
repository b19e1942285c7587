"""The sweeper: whatever a lost doorbell, a lost task or a crash has left behind is picked up here.

It runs in a thread of its own, and with requests as well, because Cloud Run gives a process no CPU between
them. Any number of instances may sweep at once.
"""

import threading

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from bridge.clock import Clock
from bridge.storage import webhook_sweeps
from bridge.storage.failures import is_passing
from bridge.storage.wake import WakeListener
from webhooks.fan_out import FanOut
from webhooks.tasks import DeliveryTasks, tasks_for

MAX_PARTNERS = 50
MAX_KNOWN_PARTNERS = 20
MAX_OVERDUE = 100
MAX_GRACE_DOUBLINGS = 4
MAX_WANTED = 200
MAX_WANTED_ROUNDS = 20
MAX_CANCELLED = 500
MAX_HELD = 500
_FIRST = ""

_log = structlog.get_logger(__name__)


class Sweeper:
    """`sweep()` once; `sweep_if_due()` at most every `interval_seconds`; `start()` for the thread.

    A delivery counts as overdue after `grace_seconds`: its task is probably only late until then.
    """

    def __init__(
        self,
        engine: Engine,
        fan_out: FanOut,
        tasks: DeliveryTasks,
        clock: Clock,
        *,
        interval_seconds: float,
        grace_seconds: float,
        listener: WakeListener | None = None,
    ) -> None:
        """`listener` wakes the thread when deliveries are wanted that no event rings for."""
        self._engine = engine
        self._fan_out = fan_out
        self._tasks = tasks
        self._clock = clock
        self._interval_seconds = interval_seconds
        self._grace_seconds = grace_seconds
        self._sweeping = threading.Lock()
        self._next_at_monotonic = clock.monotonic() + interval_seconds
        self._stop = threading.Event()
        self._listener = listener
        self._thread: threading.Thread | None = None
        self._behind_after = _FIRST
        self._known_after = _FIRST

    def start(self) -> None:
        """Sweep in the background from now on; call it in the process that serves, not before its fork."""
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(self._interval_seconds)

    def sweep_if_due(self) -> None:
        """Sweep if the interval is over and nobody in this process is at it; never fails."""
        if self._clock.monotonic() < self._next_at_monotonic or not self._sweeping.acquire(blocking=False):
            return
        try:
            self._next_at_monotonic = self._clock.monotonic() + self._interval_seconds
            self.sweep()
        except Exception as error:  # noqa: BLE001 - the next sweep may succeed, a request must not fail by it
            _log.warning("sweep broken off", exc_info=error)
        finally:
            self._sweeping.release()

    def sweep(self) -> None:
        """Do one bounded round over all kinds of what may be left behind."""
        self._sweep_deleted()
        self._sweep_disabled()
        self.sweep_wanted()
        self._sweep_overdue()
        self._sweep_feeds()

    def sweep_wanted(self) -> None:
        """Release what was held for endpoints that are enabled, and make the tasks that were asked for."""
        for _ in range(MAX_WANTED_ROUNDS):
            now = self._clock.now()
            with self._engine.begin() as connection:
                webhook_sweeps.release_held(connection, now=now, limit=MAX_WANTED)
                wanted = webhook_sweeps.take_wanted(connection, limit=MAX_WANTED)
            if not self._tasks.create(tasks_for(wanted, now)) or len(wanted) < MAX_WANTED:
                return

    def _sweep_deleted(self) -> None:
        with self._engine.begin() as connection:
            ended = webhook_sweeps.end_gone(connection)
            webhook_sweeps.cancel_deleted(connection, now=self._clock.now(), limit=MAX_CANCELLED)
        if ended:
            _log.warning("endpoints ended that their partners' documents have lost", endpoint_ids=ended)

    def _sweep_disabled(self) -> None:
        with self._engine.begin() as connection:
            webhook_sweeps.hold_waiting(connection, now=self._clock.now(), limit=MAX_HELD)

    def _sweep_overdue(self) -> None:
        now = self._clock.now()
        with self._engine.begin() as connection:
            overdue = webhook_sweeps.take_overdue(
                connection,
                now=now,
                grace_seconds=self._grace_seconds,
                max_doublings=MAX_GRACE_DOUBLINGS,
                limit=MAX_OVERDUE,
            )
            forgotten = webhook_sweeps.take_forgotten(
                connection, now=now, grace_seconds=self._grace_seconds, limit=MAX_OVERDUE
            )
        if overdue:
            _log.warning("deliveries without a task", deliveries=len(overdue))
        self._tasks.create(tasks_for([*overdue, *forgotten], now))

    def _sweep_feeds(self) -> None:
        with self._engine.begin() as connection:
            behind = webhook_sweeps.partners_behind(connection, after=self._behind_after, limit=MAX_PARTNERS)
            # the mirror may not know of a new endpoint yet: all partners are looked at in turn
            known = webhook_sweeps.partners_with_feed(
                connection, after=self._known_after, limit=MAX_KNOWN_PARTNERS
            )
        # a short page is the last one: begin again
        self._behind_after = behind[-1] if len(behind) == MAX_PARTNERS else _FIRST
        self._known_after = known[-1] if len(known) == MAX_KNOWN_PARTNERS else _FIRST
        for partner_id in dict.fromkeys([*behind, *known]):
            try:
                if not self._fan_out.fan_out(partner_id):
                    return  # the queue is away: waiting for it once per sweep is enough
            except Exception as error:
                if isinstance(error, PoolTimeoutError) or (
                    isinstance(error, DBAPIError) and is_passing(error)
                ):
                    raise  # the database is away, for the others too
                _log.warning("partner not fanned out", partner_id=partner_id, exc_info=error)

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._is_rung():
                try:
                    self.sweep_wanted()
                except Exception as error:  # noqa: BLE001 - the sweep at its time makes up for it
                    _log.warning("wanted deliveries have to wait", exc_info=error)
            self.sweep_if_due()

    def _is_rung(self) -> bool:
        if self._listener is None:
            self._stop.wait(self._interval_seconds)
            return False
        return self._listener.wait(self._interval_seconds, self._stop)
