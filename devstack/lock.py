"""One supervisor per state folder: a lock that the kernel drops with its last holder, kill -9 included."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil

from devstack.preflight import StartError

# how long the reaper of a killed supervisor may take to clear up
LEFTOVER_TIMEOUT_SECONDS = 30.0
POLL_SECONDS = 0.1


class AlreadyRunningError(StartError):
    pass


@contextlib.contextmanager
def held(path: Path) -> Iterator[IO[bytes]]:
    """Hold the lock and write our pid into it; AlreadyRunningError if a living supervisor has it."""
    with path.open("a+b") as file:
        _acquire(file, path)
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        file.flush()
        try:
            yield file
        finally:
            file.truncate(0)


def _acquire(file: IO[bytes], path: Path) -> None:
    deadline = time.monotonic() + LEFTOVER_TIMEOUT_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = _pid_in(path)
            if (owner is not None and is_alive(owner)) or time.monotonic() > deadline:
                raise AlreadyRunningError(
                    f"a stack is already running here (supervisor pid {owner}); stop it with `make down`"
                ) from error
            time.sleep(POLL_SECONDS)
        else:
            return


def holder(path: Path) -> int | None:
    """The pid of the supervisor that holds the lock; None if nobody does (or its reaper is clearing up)."""
    try:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = _pid_in(path)
                return owner if owner is not None and is_alive(owner) else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    return None


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock: neither a supervisor nor its reaper."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except BlockingIOError:
        return False
    return True


def _pid_in(path: Path) -> int | None:
    text = path.read_bytes().strip()
    return int(text) if text.isdigit() else None


def is_alive(pid: int) -> bool:
    """Whether the process exists and is not merely waiting to be waited for."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
