"""Processes that belong together by the folder they work in.

PostgreSQL's backends are session leaders of their own, so no process group holds them together; what they
share with their postmaster, dead or alive, is the data folder as their working directory.
"""

import contextlib
from pathlib import Path

import psutil

GONE_TIMEOUT_SECONDS = 3.0


def processes_in(folder: Path) -> list[psutil.Process]:
    """Every process whose working directory is exactly this folder."""
    wanted = str(folder.resolve())
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.cwd() == wanted:
                found.append(process)
    return found


def kill_processes_in(folder: Path) -> None:
    """SIGKILL them and wait until they are gone."""
    left = processes_in(folder)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=GONE_TIMEOUT_SECONDS)
