"""The worker's wiring: one thread for each thing that may hang, and one that knows when there is work.

sequencer → events relay; one relay for each SAP lane; the watchdog; the keeper of the high-water mark. Each
has its own round and its own failures, so that a hanging topic, lane or partner holds up nothing else.
"""

import threading
from datetime import datetime

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from bridge.clock import Clock
from bridge.messages import EVENTS_LANE
from bridge.storage.lanes import next_due, sap_systems
from bridge.storage.wake import WakeListener
from dispatcher.mark_keeper import MarkKeeper
from dispatcher.relay import EventsRelay, OperationsRelay, Publisher
from dispatcher.sequencer import Sequencer
from dispatcher.settings import Settings
from dispatcher.watchdog import Watchdog
from dispatcher.worker import Round, Worker

# The process has 10 s from SIGTERM to SIGKILL on Cloud Run.
STOP_SECONDS = 7.5
LANES_INTERVAL_SECONDS = 30.0
MIN_PAUSE_SECONDS = 0.02
MAX_WAIT_SECONDS = 0.5
# How long a start waits for the first look at the high-water mark. The gate is closed without it where
# PostgreSQL has started; this is for a database that was made after that, in the place of another.
FIRST_LOOK_SECONDS = 5.0
# No round takes so long: each of its statements and publishes ends by its own timeout within seconds.
LONGEST_ROUND_SECONDS = 300.0

_log = structlog.get_logger(__name__)


class Dispatcher:
    """Runs until `stop` is set. Several may run at once, on one machine or many."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        publisher: Publisher,
        clock: Clock,
        stop: threading.Event,
        keeper: MarkKeeper | None = None,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._publisher = publisher
        self._clock = clock
        self._stop = stop
        self._listener = WakeListener(engine)
        self._lanes: dict[str, Worker] = {}
        relay = EventsRelay(engine, publisher, clock, settings.relay, self._help_with_events)
        self._events = Worker("events relay", relay.go_round, stop)
        # claims the next batch while the first publishes one; woken by it alone
        self._events_help = Worker("events relay, help", relay.go_round, stop)
        self._sequencer = Worker(
            "sequencer", Sequencer(engine, self._events.wake, clock.monotonic).go_round, stop
        )
        watchdog = Watchdog(engine, clock, settings.watchdog, self._wake_all)
        self._watchdog = Worker("watchdog", watchdog.go_round, stop)
        self._keeper = keeper
        self._has_looked = threading.Event()
        self._mark = Worker("mark keeper", self._keep_mark, stop)
        if keeper is not None:
            keeper.opened = self._wake_all
        self._poll_at = 0.0
        self._read_lanes_at = 0.0
        self._poll_failed = False
        self._turned_at = clock.monotonic()

    def stuck(self, longest_round_seconds: float = LONGEST_ROUND_SECONDS) -> list[str]:
        """Return the names of the threads that no longer go round: what only a restart mends."""
        names = [
            worker.name for worker in (*self._workers(), self._mark) if worker.is_stuck(longest_round_seconds)
        ]
        if self._clock.monotonic() - self._turned_at > longest_round_seconds:
            names.append("poll")
        return names

    def run(self) -> bool:
        """Work until stopped, then let every round end; return whether all did in time."""
        if self._keeper is not None:
            self._mark.start()
            self._wait_for_first_look()
        for worker in (self._sequencer, self._events, self._events_help, self._watchdog):
            worker.start()
        _log.info("ready")
        while not self._stop.is_set():
            self._turned_at = self._clock.monotonic()
            wait_seconds = min(max(self._poll_at - self._clock.monotonic(), 0.0), MAX_WAIT_SECONDS)
            if self._listener.wait(wait_seconds, self._stop):
                self._wake_all()
            if self._clock.monotonic() >= self._poll_at:
                self._poll()
        return self._end()

    def _keep_mark(self) -> Round:
        try:
            return Round() if self._keeper is None else self._keeper.go_round()
        finally:
            self._has_looked.set()

    def _wait_for_first_look(self) -> None:
        give_up_at = self._clock.monotonic() + FIRST_LOOK_SECONDS
        while not self._has_looked.wait(MIN_PAUSE_SECONDS):
            if self._stop.is_set() or self._clock.monotonic() >= give_up_at:
                return

    def _poll(self) -> None:
        """Wake who has something to do, in case that nobody did; know when the next thing is due."""
        monotonic = self._clock.monotonic()
        pause_seconds = self._settings.poll_seconds
        try:
            with self._engine.begin() as connection:
                if monotonic >= self._read_lanes_at:
                    self._start_lanes(sap_systems(connection))
                    self._read_lanes_at = monotonic + LANES_INTERVAL_SECONDS
                now = self._clock.now()
                due = next_due(connection, now)
        except SQLAlchemyError as error:
            if not self._poll_failed:
                _log.warning("poll failed", reason=type(error).__name__)
            self._poll_failed = True
        else:
            if self._poll_failed:
                # PostgreSQL is back, perhaps with other files
                self._mark.wake()
            self._poll_failed = False
            pause_seconds = self._wake_due(due, now)
        self._poll_at = self._clock.monotonic() + pause_seconds

    def _wake_due(self, due: dict[str, datetime], now: datetime) -> float:
        """Wake the lanes with something due; return the seconds until the next is, or the poll interval."""
        pause_seconds = self._settings.poll_seconds
        for lane, due_at in due.items():
            until_due = (due_at - now).total_seconds()
            if until_due <= 0:
                self._wake_lane(lane)
            else:
                pause_seconds = min(pause_seconds, max(until_due, MIN_PAUSE_SECONDS))
        return pause_seconds

    def _start_lanes(self, lanes: list[str]) -> None:
        for lane in lanes:
            if lane not in self._lanes:
                relay = OperationsRelay(
                    lane, self._engine, self._publisher, self._clock, self._settings.relay
                )
                self._lanes[lane] = Worker(f"relay {lane}", relay.go_round, self._stop)
                self._lanes[lane].start()

    def _wake_lane(self, lane: str) -> None:
        if lane == EVENTS_LANE:
            self._sequencer.wake()
            self._events.wake()
        elif lane in self._lanes:
            self._lanes[lane].wake()

    def _wake_all(self) -> None:
        # A copy: the watchdog's thread comes here too, while a lane may be added.
        for worker in (self._sequencer, *list(self._lanes.values())):
            worker.wake()

    def _help_with_events(self) -> None:
        self._events_help.wake()

    def _workers(self) -> tuple[Worker, ...]:
        # A copy of the lanes: others come here too, while one may be added.
        return (self._sequencer, self._events, self._events_help, self._watchdog, *list(self._lanes.values()))

    def _end(self) -> bool:
        workers = self._workers()
        # not the mark keeper: a mark that was proposed and not written is proposed again
        for worker in workers:
            worker.wake()
        deadline = self._clock.monotonic() + STOP_SECONDS
        late = [
            worker.name for worker in workers if not worker.join(max(0.0, deadline - self._clock.monotonic()))
        ]
        self._listener.close()
        _log.info("stopped", late=late)
        return not late
