"""The load: POSTs on keep-alive connections, each with its own key and body, by wrk where it is installed."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.payments import BODY
from benchmarks.routes import PATH
from devstack.preflight import StartError

SCRIPT = Path(__file__).with_name("payments.lua")
WRK_MISSING = (
    "wrk is not installed (Debian: apt-get install wrk): a generator in Python takes its place. It needs "
    "more of the cores than wrk: compare these ratios with others of the same generator only."
)
# An answer that takes longer is counted as failed.
ANSWER_SECONDS = 10


@dataclass(frozen=True)
class Result:
    """One round of load. `failed`: answers other than 2xx, and connections that broke."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    failed: int

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


class Load:
    """Numbers go up over all rounds, so that no key and no external id ever comes twice."""

    ROUND = 10_000_000

    def __init__(self, token: str) -> None:
        self._token = token
        self._rounds = 0
        self._wrk = shutil.which("wrk")
        self.generator = "wrk" if self._wrk else "python"

    def run(self, port: int, *, connections: int, seconds: int) -> Result:
        """Load the route for so long; StartError when the generator itself fails."""
        self._rounds += 1
        given = [str(self._rounds * self.ROUND), PATH, self._token, BODY]
        url = f"http://127.0.0.1:{port}"
        if self._wrk:
            command = [
                *(self._wrk, "-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={ANSWER_SECONDS}s"),
                *("-s", str(SCRIPT), url, "--", *given),
            ]
        else:
            command = [
                *(sys.executable, "-m", "benchmarks.python_load", url, str(connections), str(seconds)),
                *given,
            ]
        done = subprocess.run(  # noqa: S603 - our own command
            command, capture_output=True, text=True, check=False, timeout=seconds + 60
        )
        line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
        if line is None:
            raise StartError(f"{self.generator} said: {(done.stdout + done.stderr).strip()[-500:]}")
        return Result(**json.loads(line.removeprefix("RESULT ")))
