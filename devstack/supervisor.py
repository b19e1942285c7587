"""Starts the units in order, keeps the processes alive, stops them in reverse order. One thread decides."""

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from devstack.child import Child, describe_exit, last_lines, stop_together
from devstack.layout import Layout
from devstack.preflight import StartError
from devstack.reaper import ReaperLink
from devstack.units import Unit, dependents_of

log = logging.getLogger("devstack")

# A process that dies at once again and again is started more and more rarely, but always within 3 s.
BACKOFF_SECONDS = (0.0, 0.25, 0.5, 1.0, 2.0)
TICK_STARTING_SECONDS = 0.05
TICK_RUNNING_SECONDS = 0.25
MAX_CHECKS_AT_ONCE = 8
# A start that takes longer says what it waits for, this often.
PROGRESS_SECONDS = 5.0
# A step asks a server that has just started; on a busy machine the answer may come too late.
STEP_TRIES = 3


@dataclass
class State:
    """What the supervisor knows of one unit."""

    unit: Unit
    child: Child | None = None
    is_ready: bool = False
    was_ready: bool = False
    quick_deaths: int = 0
    tries: int = 0
    start_at: float = 0.0
    check: "Future[bool] | None" = field(default=None)


class Supervisor:
    """Runs the table until it is told to stop.

    `on_change` is called with the pids by name: first when all is ready, then whenever one, or the reaper's,
    has changed. `on_progress` gets lines that say how far the start has come. `on_stopping` is called before
    a stack that was ready is stopped.
    """

    def __init__(
        self,
        units: list[Unit],
        layout: Layout,
        reaper: ReaperLink,
        *,
        on_change: Callable[[Mapping[str, int]], None],
        on_progress: Callable[[str], None],
        on_stopping: Callable[[], None] = lambda: None,
    ) -> None:
        self._units = {unit.name: unit for unit in units}
        self._states = {unit.name: State(unit) for unit in units}
        self._layout = layout
        self._reaper = reaper
        self._on_change = on_change
        self._on_progress = on_progress
        self._on_stopping = on_stopping
        self._published: dict[str, int] = {}
        self._is_outdated = False
        self._all_ready = False
        self._started_at = self._last_line_at = time.monotonic()
        self._stop_asked = False

    def run(self) -> None:
        """Return after a stop was asked for and done; StartError if a unit fails before all were ready."""
        with self._signals() as wake_up, ThreadPoolExecutor(MAX_CHECKS_AT_ONCE) as checks:
            try:
                while not self._stop_asked:
                    self._tick(checks)
                    tick = TICK_RUNNING_SECONDS if self._is_settled() else TICK_STARTING_SECONDS
                    if select.select([wake_up], [], [], tick)[0]:
                        os.read(wake_up, 4096)
            finally:
                self._stop_all()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[int]:
        """A child's death or a wish to stop ends the waiting at once."""
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        os.set_blocking(read_end, False)
        before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        handlers = {
            number: signal.signal(number, handler)
            for number, handler in (
                (signal.SIGCHLD, lambda *_: None),
                (signal.SIGTERM, self._ask_to_stop),
                (signal.SIGINT, self._ask_to_stop),
                (signal.SIGHUP, self._ask_to_stop),
            )
        }
        try:
            yield read_end
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before)
            os.close(read_end)
            os.close(write_end)

    def _ask_to_stop(self, *_: object) -> None:
        self._stop_asked = True

    def _is_settled(self) -> bool:
        return self._all_ready and all(state.is_ready for state in self._states.values())

    def _tick(self, checks: ThreadPoolExecutor) -> None:
        if self._reaper.ensure_running():
            log.warning("the reaper had died and is back as pid %d", self._reaper.pid)
            self._is_outdated = True
        for state in self._states.values():
            if state.child is not None and state.child.has_ended():
                self._ended(state, state.child)
            elif state.child is None and not (state.unit.is_step and state.is_ready):
                self._start_if_due(state)
            elif state.child is not None and not state.is_ready:
                self._check(state, state.child, checks)
        if not self._all_ready:
            self._look_at_the_start()
        self._publish()

    def _look_at_the_start(self) -> None:
        now = time.monotonic()
        if all(state.is_ready for state in self._states.values()):
            self._all_ready = True
            log.info("all is ready")
        elif now >= self._last_line_at + PROGRESS_SECONDS:
            running = [name for name, state in self._states.items() if state.child is not None]
            waited_for = ", ".join(name for name in running if not self._states[name].is_ready)
            self._tell(f"waiting for {waited_for}, {now - self._started_at:.0f} s so far")

    def _tell(self, line: str) -> None:
        self._last_line_at = time.monotonic()
        self._on_progress(line)

    def _start_if_due(self, state: State) -> None:
        first = not state.was_ready
        if first and not all(self._states[name].was_ready for name in state.unit.after):
            return
        if time.monotonic() < state.start_at:
            return
        state.child = Child(state.unit, self._layout.log(state.unit.name), self._reaper)
        state.check = None
        log.info("%s started as pid %d", state.unit.name, state.child.pid)

    def _ended(self, state: State, child: Child) -> None:
        code = child.collect()
        state.child = None
        if state.unit.is_step and code == 0:
            self._became_ready(state)
            return
        log.warning("%s ended: %s", state.unit.name, describe_exit(code))
        if not state.was_ready:
            state.tries += 1
            if not state.unit.is_step or state.tries == STEP_TRIES:
                raise StartError(self._why_not_started(state.unit, describe_exit(code)))
            self._tell(f"{state.unit.name} failed and is tried again")
        # only one that dies again before it is of any use is in a crash loop
        state.quick_deaths = 0 if state.is_ready else state.quick_deaths + 1
        state.is_ready = False
        delay = BACKOFF_SECONDS[min(state.quick_deaths, len(BACKOFF_SECONDS) - 1)]
        state.start_at = time.monotonic() + delay
        # restarting at once is worth more than this tick's order
        self._start_if_due(state)

    def _check(self, state: State, child: Child, checks: ThreadPoolExecutor) -> None:
        if state.unit.ready is not None:
            if state.check is None:
                state.check = checks.submit(state.unit.ready)
            elif state.check.done():
                if state.check.result():
                    self._became_ready(state)
                state.check = None
        if not state.is_ready and child.age_seconds > state.unit.start_timeout_seconds:
            why = f"not ready after {state.unit.start_timeout_seconds:.0f} s"
            if not state.was_ready:
                raise StartError(self._why_not_started(state.unit, why))
            log.warning("%s: %s, killed", state.unit.name, why)
            child.kill()

    def _became_ready(self, state: State) -> None:
        again = state.was_ready
        state.is_ready = state.was_ready = True
        log.info("%s is ready", state.unit.name)
        if not again:
            self._tell(f"{state.unit.name} is ready")
        elif not state.unit.is_step:
            for other in self._states.values():
                if state.unit.name in other.unit.again_after:
                    self._repeat(other)

    def _repeat(self, state: State) -> None:
        """Run a step again. One that is running may have seen the process before its restart."""
        if state.child is not None:
            state.child.kill()
            state.child = None
        state.is_ready = False
        state.start_at = 0.0

    def _why_not_started(self, unit: Unit, why: str) -> str:
        path = self._layout.log(unit.name)
        return f"{unit.name} did not start ({why}); the end of {path}:\n{last_lines(path)}"

    def _publish(self) -> None:
        pids = {
            name: state.child.pid
            for name, state in self._states.items()
            if state.child is not None and not state.unit.is_step
        }
        # between a death and the restart the old pid stands: a reader need not handle a missing name
        pids = {**self._published, **pids}
        if self._all_ready and (self._is_outdated or pids != self._published):
            self._published = pids
            self._is_outdated = False
            self._on_change(pids)

    def _stop_all(self) -> None:
        """Stop in waves: a process ends only after everything that was started because of it."""
        if self._all_ready:
            self._on_stopping()
        left = {name: state for name, state in self._states.items() if state.child is not None}
        while left:
            wave = {n: s for n, s in left.items() if not dependents_of(self._units, n) & set(left)}
            stop_together([state.child for state in wave.values() if state.child is not None])
            for name, state in wave.items():
                state.child = None
                del left[name]
                log.info("%s stopped", name)
