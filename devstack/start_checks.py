"""What can be known to be wrong before anything is started: one clear line each, nothing left behind."""

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import psutil

from devstack.layout import MAX_PORT, Layout
from devstack.preflight import StartError, require_free_port

MIN_FREE_BYTES = 400 * 1024 * 1024
PROBE_BYTES = 1024 * 1024
# what is suggested when a port is taken: no two services meet there
ANOTHER_OFFSET = 100
COMMAND_CHARACTERS = 80


def create_folders(layout: Layout) -> None:
    """Create the stack's folders; StartError names the folder that can't be made."""
    for folder in (layout.state_folder, layout.logs_folder, layout.keys_folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StartError(f"can't create the folder {folder}: {error.strerror}") from error


def require_room(folder: Path) -> None:
    """StartError if the folder's disk is nearly full, or a file can't be written and read back."""
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_BYTES:
        needed = MIN_FREE_BYTES // 2**20
        raise StartError(
            f"the disk of {folder} is nearly full: {free // 2**20} MiB free, {needed} MiB needed"
        )
    probe = folder / f".probe-{os.getpid()}"
    try:
        # quotas show only when the bytes really go to the disk
        with probe.open("wb") as file:
            file.write(b"\0" * PROBE_BYTES)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StartError(f"can't write to the folder {folder}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def require_free_ports(layout: Layout, names: Iterable[str]) -> None:
    """StartError names the first port that is taken, what needs it and the process that has it."""
    for name in names:
        port = layout.ports[name]
        if not 0 < port <= MAX_PORT:
            raise StartError(f"port offset {layout.port_offset}: port {port} for {name} does not exist")
        try:
            require_free_port("127.0.0.1", port)
        except StartError as error:
            raise StartError(
                f"port {port} for {name} is in use by {holder_of(port)}: stop it, or take other ports with "
                f"PORT_OFFSET={layout.port_offset + ANOTHER_OFFSET}"
            ) from error


def holder_of(port: int) -> str:
    """The process that listens there, in words; of another user's processes the system tells no number."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.pid is not None:
                command = " ".join(psutil.Process(connection.pid).cmdline())
                return f"pid {connection.pid} ({command[:COMMAND_CHARACTERS]})"
    return "a process of another user"
