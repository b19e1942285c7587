"""The sweeper: whatever a lost doorbell, a lost task or a crash has left behind is picked up here.

It runs in a thread of its own, and with requests as well, because Cloud Run gives a process no CPU between
them. Any number of instances may sweep at once. Each step, and each partner, that fails stops only itself.
"""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Connection, Engine

from bridge.clock import Clock
from bridge.storage import webhook_ended, webhook_sweeps, webhook_turns
from bridge.storage.setbacks import Setbacks
from bridge.storage.wake import WakeListener
from bridge.storage.webhook_turns import Turn, Wanted
from webhooks.fan_out import FanOut
from webhooks.tasks import EARLY_TOLERANCE, DeliveryTasks, tasks_for
from webhooks.turns import Turns

MAX_PARTNERS = 50
MAX_KNOWN_PARTNERS = 20
MAX_OVERDUE = 100
MAX_OVERDUE_ROUNDS = 20
LONGEST_WAIT_SECONDS = 320.0
MAX_WANTED = 200
MAX_WANTED_ROUNDS = 20
MAX_CANCELLED = 1000
MAX_CANCELLED_ROUNDS = 10
MAX_HELD = 500
MAX_HELD_ROUNDS = 10
_FIRST = ""

_log = structlog.get_logger(__name__)


class _Pages:
    """Whose turn it is among keys that are read by page, in order: the first page follows the last one."""

    def __init__(self) -> None:
        self._after = _FIRST

    def page(self, read: Callable[[str], list[str]], limit: int) -> list[str]:
        """Read the next page. `read(after)` returns up to `limit` keys above `after`, one for each row."""
        keys = read(self._after)
        is_end = len(keys) < limit
        if is_end and self._after != _FIRST:
            keys += read(_FIRST)
        self._after = _FIRST if is_end else max(keys)
        return keys


class Sweeper:
    """`sweep()` once; `sweep_if_due()` at most every `interval_seconds`; `start()` for the thread.

    A delivery counts as overdue after `grace_seconds`: its task is probably only late until then.
    """

    def __init__(
        self,
        engine: Engine,
        fan_out: FanOut,
        tasks: DeliveryTasks,
        turns: Turns,
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
        self._turns = turns
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
        self._forgotten_after = _FIRST
        self._ended_after = _FIRST
        self._held_pages = _Pages()
        self._wanted_pages = _Pages()
        self._waiting_pages = _Pages()
        self._steps = Setbacks("sweeper", clock.monotonic)
        self._partners = Setbacks("sweeper, fan-out", clock.monotonic)

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
        for name, step in (
            ("wanted deliveries", self.sweep_wanted),
            ("overdue deliveries", self._sweep_overdue),
            ("forgotten deliveries", self._sweep_forgotten),
            ("feeds", self._sweep_feeds),
            ("disabled endpoints", self._sweep_disabled),
            ("deleted endpoints", self._sweep_deleted),
        ):
            if not self._steps.rests(name):
                with self._steps.contained(name):
                    step()

    def sweep_wanted(self) -> None:
        """Release what was held for endpoints that are enabled, and make the tasks that were asked for."""
        for _ in range(MAX_WANTED_ROUNDS):
            now = self._clock.now()
            with self._engine.begin() as connection:
                released = self._release_held(connection)
                wanted = self._take_wanted(connection, now)
            if not self._tasks.create(tasks_for(wanted.due, now)):
                return
            for partner_id in wanted.waiting:
                # their places may have become free before anybody could see that they wait
                self._turns.call(Turn(partner_id))
            if len(wanted.partner_ids) < MAX_WANTED and len(released) < MAX_WANTED:
                return

    def _take_wanted(self, connection: Connection, now: datetime) -> Wanted:
        taken = []

        def read(after: str) -> list[str]:
            wanted = webhook_turns.take_wanted(
                connection,
                now=now,
                due_by=now + EARLY_TOLERANCE,
                lost_after=timedelta(seconds=self._grace_seconds),
                after=after,
                limit=MAX_WANTED,
            )
            taken.append(wanted)
            return wanted.partner_ids

        partner_ids = self._wanted_pages.page(read, MAX_WANTED)
        due = [each for wanted in taken for each in wanted.due]
        return Wanted(partner_ids, due, set().union(*(wanted.waiting for wanted in taken)))

    def _release_held(self, connection: Connection) -> list[str]:
        now = self._clock.now()
        return self._held_pages.page(
            lambda after: webhook_sweeps.release_held(connection, now=now, after=after, limit=MAX_WANTED),
            MAX_WANTED,
        )

    def _sweep_deleted(self) -> None:
        with self._engine.begin() as connection:
            ended = webhook_ended.end_gone(connection)
        if ended:
            _log.warning("endpoints ended that their partners' documents have lost", endpoint_ids=ended)
        for _ in range(MAX_CANCELLED_ROUNDS):
            began_after = self._ended_after
            with self._engine.begin() as connection:
                endpoint_id = webhook_ended.cancel_deleted(
                    connection, now=self._clock.now(), after=began_after, limit=MAX_CANCELLED
                )
            self._ended_after = endpoint_id or _FIRST
            if endpoint_id is None and began_after == _FIRST:
                return

    def _sweep_disabled(self) -> None:
        now = self._clock.now()
        for _ in range(MAX_HELD_ROUNDS):
            with self._engine.begin() as connection:
                held = self._hold_waiting(connection, now)
            if len(held) < MAX_HELD:
                return

    def _hold_waiting(self, connection: Connection, now: datetime) -> list[str]:
        return self._waiting_pages.page(
            lambda after: webhook_sweeps.hold_waiting(connection, now=now, after=after, limit=MAX_HELD),
            MAX_HELD,
        )

    def _sweep_overdue(self) -> None:
        for _ in range(MAX_OVERDUE_ROUNDS):
            now = self._clock.now()
            with self._engine.begin() as connection:
                overdue = webhook_sweeps.take_overdue(
                    connection,
                    now=now,
                    grace_seconds=self._grace_seconds,
                    longest_wait_seconds=LONGEST_WAIT_SECONDS,
                    limit=MAX_OVERDUE,
                )
            if overdue:
                _log.warning("deliveries without a task", deliveries=len(overdue))
            if not self._tasks.create(tasks_for(overdue, now)):
                # the queue is away: that they are overdue says nothing of their tasks
                with self._engine.begin() as connection:
                    until = now + timedelta(seconds=self._grace_seconds)
                    webhook_sweeps.try_soon(connection, overdue, until=until)
                return
            if len(overdue) < MAX_OVERDUE:
                return

    def _sweep_forgotten(self) -> None:
        now = self._clock.now()
        with self._engine.begin() as connection:
            forgotten, endpoints = webhook_sweeps.take_forgotten(
                connection,
                now=now,
                grace_seconds=self._grace_seconds,
                after=self._forgotten_after,
                limit=MAX_OVERDUE,
            )
        self._forgotten_after = max(endpoints) if len(endpoints) == MAX_OVERDUE else _FIRST
        self._tasks.create(tasks_for(forgotten, now))

    def _sweep_feeds(self) -> None:
        with self._engine.begin() as connection:
            behind = webhook_sweeps.partners_behind(connection, after=self._behind_after, limit=MAX_PARTNERS)
            # the mirror may not know of a new endpoint yet: all partners are looked at in turn
            known = webhook_sweeps.partners_with_feed(
                connection, after=self._known_after, limit=MAX_KNOWN_PARTNERS
            )
        for partner_id in behind:
            # before it is tried: whatever it raises, the next sweep begins behind it
            self._behind_after = partner_id
            if not self._fan_out_partner(partner_id):
                return
        for partner_id in known:
            self._known_after = partner_id
            if partner_id not in behind and not self._fan_out_partner(partner_id):
                return
        # a short page is the last one: begin again
        if len(behind) < MAX_PARTNERS:
            self._behind_after = _FIRST
        if len(known) < MAX_KNOWN_PARTNERS:
            self._known_after = _FIRST

    def _fan_out_partner(self, partner_id: str) -> bool:
        """Return False if the queue is away: waiting for it once per sweep is enough."""
        if not self._partners.rests(partner_id):
            with self._partners.contained(partner_id):
                return self._fan_out.fan_out(partner_id)
        return True

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
