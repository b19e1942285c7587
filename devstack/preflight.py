"""Checks before a server of the local stack starts, so that what is wrong is one clear line."""

import fcntl
import socket
import time
from pathlib import Path
from typing import IO


class StartError(Exception):
    """The process can't start; the text is the one line to show."""


PORT_POLL_SECONDS = 0.05


def require_free_port(host: str, port: int, *, patience_seconds: float = 0.0) -> None:
    """Raise StartError when nobody could listen on `host`:`port`, now and for `patience_seconds` on.

    Servers either retry for seconds or print their own page of logs when the port is taken. Patience is for a
    server whose workers hold the port a moment longer than their killed master lived.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return _probe(host, port)
        except StartError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(PORT_POLL_SECONDS)


def _probe(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise StartError(f"can't listen on {host}:{port}: {error}") from error


def lock_beside(path: Path) -> IO[bytes]:
    """Take `<path>.lock` for as long as the returned file is open; raise StartError when somebody has it.

    The kernel drops the lock with its holder, kill -9 included.
    """
    lock_path = path.with_name(path.name + ".lock")
    try:
        lock = lock_path.open("ab")
    except OSError as error:
        raise StartError(f"can't write beside {path}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise StartError(f"{path} is in use by another process") from error
    return lock
