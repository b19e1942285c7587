"""What is measured, as processes: started, waited for, weighed, stopped."""

import contextlib
import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from devstack.postgres import free_port
from devstack.preflight import StartError

READY_SECONDS = 120.0
STOP_SECONDS = 60.0
POLL_SECONDS = 0.002
MIB = 1024 * 1024


@dataclass(frozen=True)
class Server:
    """A running server. `start_seconds`: from the start of the process to the first 200."""

    name: str
    port: int
    pid: int
    start_seconds: float

    def worker_cpu_seconds(self) -> float:
        """Processor time that the worker has used so far; says more than throughput on a busy machine."""
        (worker,) = psutil.Process(self.pid).children()
        times = worker.cpu_times()
        used: float = times.user + times.system
        return used

    def worker_rss_mib(self) -> float:
        """Resident memory of the gunicorn worker (the master's only child)."""
        (worker,) = psutil.Process(self.pid).children()
        rss: int = worker.memory_info().rss
        return rss / MIB


def cpu_seconds(pid: int) -> float:
    """Processor time that the process and its children, those that have ended too, have used so far."""
    process = psutil.Process(pid)
    times = process.cpu_times()
    used: float = times.user + times.system + times.children_user + times.children_system
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            used += times.user + times.system
    return used


@contextlib.contextmanager
def running(
    name: str,
    module: Sequence[str],
    environment: Mapping[str, str],
    ready_path: str | None,
    log: Path,
    port: int | None = None,
) -> Iterator[Server]:
    """Start `python -m <module…>` with PORT (and `{port}` among the arguments), until the block ends.

    It is ready when it answers at `ready_path`; None: when it takes connections.
    """
    port = port or free_port()
    command = [sys.executable, "-m", *(part.format(port=port) for part in module)]
    started_at = time.perf_counter()
    with process(command, {**environment, "PORT": str(port)}, log) as started:
        while not _answers(port, ready_path):
            if started.poll() is not None or time.perf_counter() - started_at > READY_SECONDS:
                raise StartError(f"{name} did not start: {log.read_text(errors='replace').strip()[-500:]}")
            time.sleep(POLL_SECONDS)
        yield Server(name, port, started.pid, time.perf_counter() - started_at)


@contextlib.contextmanager
def process(
    command: Sequence[str], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Start the command; it is ended with the block."""
    with log.open("ab") as output:
        started = subprocess.Popen(command, env=environment, stdout=output, stderr=output)  # noqa: S603 - ours
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def _answers(port: int, path: str | None) -> bool:
    if path is None:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
