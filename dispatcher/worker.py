"""A thread that goes round when woken, when something is due, and again at once while there is more."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import SQLAlchemyError

from bridge.errors import TransientError

FIRST_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 2.0
# A failure that goes on is logged at the first and at each so-many-th time.
LOGGED_EACH = 30
_MAX_DOUBLINGS = 16

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Round:
    """How a round ended.

    `again`: there is more; `next_seconds`: go again then without being woken; `pause_seconds`: not before,
    whoever wakes.
    """

    again: bool = False
    next_seconds: float | None = None
    pause_seconds: float = 0.0


def backoff_seconds(failures: int, fraction: float) -> float:
    """Return the pause after that many failures in a row: doubling, half of it by chance (0..1)."""
    doublings = min(failures - 1, _MAX_DOUBLINGS)
    full = min(FIRST_BACKOFF_SECONDS * float(2**doublings), MAX_BACKOFF_SECONDS)
    return full * (0.5 + fraction / 2)


class Worker:
    """Runs `go_round` until `stop`. Its failures concern no other worker."""

    def __init__(self, name: str, go_round: Callable[[], Round], stop: threading.Event) -> None:
        self.name = name
        self._go_round = go_round
        self._stop = stop
        self._wanted = threading.Event()
        self._failures = 0
        self._round_began: float | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Go round soon; a worker that has just failed finishes its pause first."""
        self._wanted.set()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the round under way to end; return whether it did."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def is_stuck(self, longest_round_seconds: float) -> bool:
        """Tell whether its thread has died, or has been in one round for longer than any round takes."""
        began = self._round_began
        hangs = began is not None and time.monotonic() - began > longest_round_seconds
        died = self._thread.ident is not None and not self._thread.is_alive()
        return not self._stop.is_set() and (hangs or died)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wanted.clear()
            self._round_began = time.monotonic()
            done = self._safely()
            self._round_began = None
            if done is None:
                # Numbers that nobody could guess are not needed for spreading load.
                self._stop.wait(backoff_seconds(self._failures, random.random()))  # noqa: S311 - see above
            elif not done.again:
                if done.pause_seconds > 0:
                    self._stop.wait(done.pause_seconds)
                self._wanted.wait(done.next_seconds)

    def _safely(self) -> Round | None:
        """Return how the round ended, None if it failed. Texts of foreign errors may quote contents."""
        try:
            done = self._go_round()
        except (TransientError, SQLAlchemyError) as error:
            reason = str(error) if isinstance(error, TransientError) else type(error).__name__
            self._failed(lambda: _log.warning("round failed", worker=self.name, reason=reason))
            return None
        except Exception as error:  # noqa: BLE001 - one worker's fault must not end the process's other work
            caught = error
            self._failed(lambda: _log.error("round failed", worker=self.name, exc_info=caught))
            return None
        if self._failures:
            _log.info("round succeeded again", worker=self.name, failures=self._failures)
            self._failures = 0
        return done

    def _failed(self, report: Callable[[], None]) -> None:
        if self._failures % LOGGED_EACH == 0:
            report()
        self._failures += 1
