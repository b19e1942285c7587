"""One supervised process: started in a session of its own, ended with everything it has forked."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from devstack.reaper import ReaperLink, kill_group
from devstack.strays import kill_processes_in
from devstack.units import Unit

MAX_LOG_BYTES = 50 * 1024 * 1024
LAST_LINES = 12
LAST_BYTES = 8192


class Child:
    """A running process (or step) of the table."""

    def __init__(self, unit: Unit, log: Path, reaper: ReaperLink) -> None:
        self.unit = unit
        self.started_at = time.monotonic()
        self._reaper = reaper
        oversized = log.exists() and log.stat().st_size > MAX_LOG_BYTES
        with log.open("wb" if oversized else "ab") as output:
            self._process = subprocess.Popen(
                unit.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                cwd=unit.working_directory, env=dict(unit.environment), start_new_session=True, **unit.run_as,
            )  # fmt: skip
        reaper.add_group(self.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def age_seconds(self) -> float:
        return time.monotonic() - self.started_at

    def has_ended(self) -> bool:
        """Looks without collecting the process: until `collect` its number still means its group."""
        if self._process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def collect(self) -> int:
        """After its end: kill what is left of its group, return the exit code (negative: by a signal)."""
        if self._process.returncode is None:
            kill_group(self.pid)
            if self.unit.folder is not None:
                kill_processes_in(self.unit.folder)
            self._reaper.remove_group(self.pid)
        return self._process.wait()

    def ask_to_stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(self.unit.stop_signal)

    def kill(self) -> None:
        """SIGKILL the whole group; afterwards it has ended."""
        if self._process.returncode is None:
            kill_group(self.pid)
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            self.collect()


def stop_together(children: list[Child]) -> None:
    """Ask all of them to stop, wait for the longest of their times, kill the rest."""
    for child in children:
        child.ask_to_stop()
    deadline = time.monotonic() + max((child.unit.stop_timeout_seconds for child in children), default=0)
    while time.monotonic() < deadline and not all(child.has_ended() for child in children):
        time.sleep(0.02)
    for child in children:
        if child.has_ended():
            child.collect()
        else:
            child.kill()


def last_lines(log: Path) -> str:
    """The end of a log, for the message that says why a process did not start."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LAST_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return "\n".join(f"    {line}" for line in lines[-LAST_LINES:])


def describe_exit(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
