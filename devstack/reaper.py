"""Kills what a killed supervisor leaves behind: no process of the stack outlives it.

The supervisor tells this process, line by line, what is to go when it dies. It holds the only write end of
the pipe, so that end of file means: the supervisor is gone, whatever ended it. The supervisor's lock is
inherited, so that the next stack does not start before the last process of this one is dead.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from devstack.strays import kill_processes_in

KILL_TIMEOUT_SECONDS = 4.0
END_TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.02


class ReaperLink:
    """The supervisor's side. It remembers what is to go, so that a new reaper can be told all of it."""

    def __init__(self, lock: IO[bytes], log: IO[bytes]) -> None:
        self._lock = lock
        self._log = log
        self._told: dict[str, None] = {}
        self._process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "devstack.reaper"],
            stdin=subprocess.PIPE, stdout=self._log, stderr=self._log,
            start_new_session=True, pass_fds=(self._lock.fileno(),),
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def add_group(self, group: int) -> None:
        self._tell(f"+group {group}")

    def remove_group(self, group: int) -> None:
        """Before the group's leader is waited for: its number may mean somebody else afterwards."""
        self._tell(f"-group {group}")

    def add_folder(self, folder: Path) -> None:
        """Kill what works in the folder, too."""
        self._tell(f"+folder {folder}")

    def add_file(self, file: Path) -> None:
        """Delete the file, too: it describes a stack that is gone."""
        self._tell(f"+file {file}")

    def _tell(self, line: str) -> None:
        if line.startswith("-"):
            self._told.pop("+" + line[1:], None)
        else:
            self._told[line] = None
        with contextlib.suppress(BrokenPipeError):  # a dead reaper is told everything by `ensure_running`
            self._write([line])

    def _write(self, lines: Iterable[str]) -> None:
        if self._process.stdin is not None:
            self._process.stdin.write("".join(f"{line}\n" for line in lines).encode())
            self._process.stdin.flush()

    def ensure_running(self) -> bool:
        """Replace a reaper that has died; True if it had."""
        if self._process.poll() is None:
            return False
        with contextlib.suppress(OSError):
            self._close()
        self._process = self._start()
        with contextlib.suppress(BrokenPipeError):
            self._write(self._told)
        return True

    def _close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()

    def finish(self) -> None:
        """End the reaper; it still kills and deletes whatever it has not been told is gone."""
        with contextlib.suppress(OSError):
            self._close()
        self._process.wait(END_TIMEOUT_SECONDS)


def read_until_end(lines: Iterable[bytes]) -> list[tuple[str, str]]:
    """What is to go once the supervisor is gone, as (kind, value)."""
    told: dict[tuple[str, str], None] = {}
    for line in lines:
        kind, _, value = line.decode().rstrip("\n").partition(" ")
        if kind.startswith("+"):
            told[kind[1:], value] = None
        else:
            told.pop((kind[1:], value), None)
    return list(told)


def kill_group(group: int) -> bool:
    """SIGKILL the process group; False once nobody is left in it."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return False
    except PermissionError:  # what is left has become somebody else's: not ours to kill
        return False
    return True


def kill_all(told: Iterable[tuple[str, str]]) -> None:
    told = list(told)
    for value in (value for kind, value in told if kind == "file"):
        Path(value).unlink(missing_ok=True)
    groups = {int(value) for kind, value in told if kind == "group"}
    deadline = time.monotonic() + KILL_TIMEOUT_SECONDS
    while groups and time.monotonic() < deadline:
        groups = {group for group in groups if kill_group(group)}
        time.sleep(POLL_SECONDS)
    for value in (value for kind, value in told if kind == "folder"):
        kill_processes_in(Path(value))


def main() -> None:
    # only the supervisor's end ends this process
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    kill_all(read_until_end(sys.stdin.buffer))


if __name__ == "__main__":
    main()
