"""What the supervisor supervises: processes that stay, and steps that run once and must succeed."""

import http.client
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHECK_TIMEOUT_SECONDS = 2.0
# a process that neither ends nor gets ready hangs; one that is merely slow on a busy machine does not
START_TIMEOUT_SECONDS = 300.0
STOP_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class Unit:
    """One line of the table.

    A process is ready when `ready` says so, a step when it has exited with 0. `after` names the units that
    must be ready before its first start; later it is restarted on its own. A step runs again whenever one of
    the processes in `again_after` had to be restarted. `folder` is where those work that leave their group.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    after: tuple[str, ...] = ()
    ready: Callable[[], bool] | None = None
    again_after: tuple[str, ...] = ()
    working_directory: Path = Path("/")
    run_as: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_seconds: float = STOP_TIMEOUT_SECONDS
    start_timeout_seconds: float = START_TIMEOUT_SECONDS

    @property
    def is_step(self) -> bool:
        return self.ready is None


def answers_http(port: int, path: str) -> Callable[[], bool]:
    """Ready when GET answers 200."""

    def check() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=CHECK_TIMEOUT_SECONDS)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return check


def accepts_connections(port: int) -> Callable[[], bool]:
    """Ready when somebody listens: for servers that speak something else than HTTP/1.1."""

    def check() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=CHECK_TIMEOUT_SECONDS):
                return True
        except OSError:
            return False

    return check


def dependents_of(units: Mapping[str, Unit], name: str) -> set[str]:
    """Every unit that comes, directly or not, after this one."""
    found: set[str] = set()
    pending = {name}
    while pending:
        pending = {unit.name for unit in units.values() if pending & set(unit.after)} - found
        found |= pending
    return found
