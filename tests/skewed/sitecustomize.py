"""Gives a service of a test's stack a wrong wall clock: Python loads this at its start (PYTHONPATH).

The file `skew/<name>` in the stack's state folder says how many seconds it is ahead, and may change at any
time. All of Python sees the wrong time (time-machine); monotonic clocks are left alone. Only gRPC is handed
the true time: its core, which is not Python, compares deadlines with it. See wrong_clocks.py.
"""

import os
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import time_machine

POLL_SECONDS = 0.05


def true_time() -> float:
    is_wrong = time_machine.escape_hatch.is_travelling()
    return time_machine.escape_hatch.time.time() if is_wrong else time.time()


class Skew:
    """The wrong clock of this process; a fork inherits it, but not the thread that follows the file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.ahead_seconds = 0.0
        self.traveller = None

    def follow(self) -> None:
        threading.Thread(target=self._follow, name="skew", daemon=True).start()

    def _follow(self) -> None:
        pause = threading.Event()
        while True:
            if channel := sys.modules.get("grpc._channel"):
                channel.time = TIME_OF_GRPC
            self._set(float(self.file.read_text()) if self.file.exists() else 0.0)
            pause.wait(POLL_SECONDS)

    def _set(self, ahead_seconds: float) -> None:
        if ahead_seconds != self.ahead_seconds and self.traveller is None:
            self.traveller = time_machine.travel(time.time() + ahead_seconds, tick=True).start()
        elif ahead_seconds != self.ahead_seconds:
            self.traveller.shift(ahead_seconds - self.ahead_seconds)
        self.ahead_seconds = ahead_seconds


def module() -> str | None:
    """Return what `python -m` was told to run."""
    arguments = sys.orig_argv
    return arguments[arguments.index("-m") + 1] if "-m" in arguments else None


TIME_OF_GRPC = SimpleNamespace(**{**vars(time), "time": true_time})
folder, name = os.environ.get("DEVSTACK"), os.environ.get("SKEWED_AS") or module()
if folder and name:
    skew = Skew(Path(folder) / "skew" / name)
    skew.follow()
    os.register_at_fork(after_in_child=skew.follow)
