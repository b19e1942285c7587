"""A private local stack for tests: its own ports and folder, so that it disturbs no other one."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests
from scratch import scratch_folder
from waiting import DEADLINE_SECONDS

from devstack import edge
from devstack.layout import PORTS, REPOSITORY, Layout
from devstack.preflight import StartError
from devstack.start_checks import require_free_ports

# the metrics' ports are second ones of processes that are listed already
PROCESSES = [*(name for name in PORTS if not name.endswith("_metrics")), "dispatcher"]
# longer than the stack itself waits for a process that hangs
UP_TIMEOUT_SECONDS = 600
CALL_TIMEOUT_SECONDS = DEADLINE_SECONDS
# 8080 + offset stays below the ports that the kernel gives to outgoing connections
OFFSETS = range(1_000, 24_000, 100)


def free_layout(folder: Path) -> Layout:
    """A layout whose ports are all free at the moment."""
    for offset in random.sample(OFFSETS, len(OFFSETS)):
        layout = Layout(folder, offset, has_edge=edge.is_installed())
        with suppress(StartError):
            require_free_ports(layout, layout.ports)
            return layout
    raise AssertionError("no free range of ports")


def devstack(command: str, layout: Layout, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run `python -m devstack <command>` on the layout."""
    offset = [f"--port-offset={layout.port_offset}"] if command in ("up", "run") else []
    return subprocess.run(
        [sys.executable, "-m", "devstack", command, f"--state-dir={layout.state_folder}", *offset],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=UP_TIMEOUT_SECONDS,
        **options,
    )


@dataclass(frozen=True)
class Stack:
    """A running stack, and how a partner and an operator's tools talk to it."""

    layout: Layout

    @property
    def document(self) -> dict[str, Any]:
        """stack.json as it stands now."""
        return json.loads(self.layout.stack_file.read_bytes())

    def pid(self, name: str) -> int:
        return self.document["processes"][name]

    def token(self, partner: str = "partner", scope: str | None = None) -> str:
        """An access token for `partner` or `second_partner`."""
        credentials = self.document[partner]
        answer = requests.post(
            self.layout.api + "/oauth2/token",
            auth=(credentials["client_id"], credentials["client_secret"]),
            data={"grant_type": "client_credentials"} | ({"scope": scope} if scope else {}),
            timeout=CALL_TIMEOUT_SECONDS,
        )
        answer.raise_for_status()
        return answer.json()["access_token"]

    def request(self, method: str, path: str, token: str | None = None, **options: Any) -> requests.Response:
        """One call of the public API; never raises for a status."""
        headers = dict(options.pop("headers", {}))
        if token:
            headers["Authorization"] = f"Bearer {token}"
        timeout = options.pop("timeout", CALL_TIMEOUT_SECONDS)
        url = self.layout.api + path
        return requests.request(method, url, headers=headers, timeout=timeout, **options)

    def pay(self, token: str, key: str, payment: dict[str, Any]) -> requests.Response:
        return self.request("POST", "/v1/payments", token, json=payment, headers={"Idempotency-Key": key})

    def payment(self, token: str, payment_id: str) -> dict[str, Any]:
        answer = self.request("GET", f"/v1/payments/{payment_id}", token)
        answer.raise_for_status()
        return answer.json()

    def received(self) -> list[dict[str, Any]]:
        """What has arrived at the demo partners' receiver."""
        answer = requests.get(self.layout.url("receiver") + "/_received", timeout=CALL_TIMEOUT_SECONDS)
        answer.raise_for_status()
        return answer.json()

    def sap(self, method: str, path: str, **options: Any) -> Any:
        """Call the SAP mock's control API, e.g. `sap("PUT", "/_control/faults", json={"mode": "down"})`."""
        url = self.layout.url("sap_mock") + path
        answer = requests.request(method, url, timeout=CALL_TIMEOUT_SECONDS, **options)
        answer.raise_for_status()
        return answer.json() if answer.content else None


@contextmanager
def private_stack(environment: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """Start a stack of our own, stop it at the end. `environment` is added to that of `devstack up`."""
    with scratch_folder("bridge-stack-") as folder:
        layout = free_layout(folder / "state")
        done = devstack("up", layout, env={**os.environ, **(environment or {})})
        assert done.returncode == 0, done.stderr
        try:
            yield Stack(layout)
        finally:
            done = devstack("down", layout)
            assert done.returncode == 0, done.stderr
            assert processes_of(layout) == []


@contextmanager
def stopped(stack: Stack, *names: str) -> Iterator[None]:
    """Neither dead nor alive: the supervisor sees nothing, and nothing is done."""
    masters = [psutil.Process(stack.pid(name)) for name in names]
    processes = [each for master in masters for each in (master, *master.children(recursive=True))]
    try:
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


def processes_of(layout: Layout) -> list[str]:
    """Every living process of the stack: by its environment, command line or (PostgreSQL) working folder."""
    found = []
    mark = str(layout.state_folder)
    ports = {f"--port={port}" for port in layout.ports.values()}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            command = process.cmdline()
            by_environment = process.environ().get("DEVSTACK") == mark
            if (
                by_environment
                or ports & set(command)
                or any(mark in part for part in (*command, process.cwd()))
            ):
                found.append(f"{process.pid} {' '.join(command)[:80]}")
    return found
