"""Start, stop and ask a stack that runs in the background."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from devstack import edge, lock
from devstack.layout import REPOSITORY, Layout
from devstack.postgres import Postgres
from devstack.preflight import StartError
from devstack.start_checks import create_folders

DOWN_TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.05


def start_in_background(layout: Layout, *, on_progress: Callable[[str], None]) -> None:
    """Return when all is ready. StartError says why not; then nothing of it runs."""
    running = lock.holder(layout.lock_file)
    if running is not None:
        raise lock.AlreadyRunningError(
            f"a stack is already running here (supervisor pid {running}, see {layout.stack_file}); "
            "stop it with `make down`"
        )
    create_folders(layout)
    try:
        output = layout.log("supervisor").open("ab")
    except OSError as error:
        raise StartError(f"can't write to the folder {layout.logs_folder}: {error.strerror}") from error
    read_end, write_end = os.pipe()
    with output, os.fdopen(read_end, "rb") as reports:
        supervisor = subprocess.Popen(
            [
                sys.executable, "-m", "devstack", "run", f"--state-dir={layout.state_folder}",
                f"--port-offset={layout.port_offset}", f"--report-to={write_end}",
            ],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=REPOSITORY,
            start_new_session=True, pass_fds=(write_end,),
        )  # fmt: skip
        os.close(write_end)
        try:
            _follow((json.loads(line) for line in reports), on_progress)
        except BaseException:  # Ctrl-C too: half a stack is worse than none
            supervisor.terminate()
            supervisor.wait()
            raise
        supervisor.returncode = 0  # it stays when we go: not ours to wait for


def _follow(reports: Any, on_progress: Callable[[str], None]) -> None:
    for report in reports:
        if "failed" in report:
            raise StartError(report["failed"])
        if "ready" in report:
            return
        on_progress(report["progress"])
    raise StartError("the supervisor ended before the stack was ready")


def stop(layout: Layout) -> int | None:
    """Stop the stack and return its supervisor's pid; None if none was running."""
    pid = lock.holder(layout.lock_file)
    if pid is None:
        _wait_until_free(layout, lock.LEFTOVER_TIMEOUT_SECONDS)
        return None
    os.kill(pid, signal.SIGTERM)
    if not _wait_until_free(layout, DOWN_TIMEOUT_SECONDS, pid):
        os.kill(pid, signal.SIGKILL)  # the reaper ends everything else
        if not _wait_until_free(layout, lock.LEFTOVER_TIMEOUT_SECONDS, pid):
            raise StartError(f"the stack does not stop; see {layout.log('supervisor')}")
    return pid


def remove(layout: Layout) -> list[Path]:
    """Stop the stack and remove what it keeps; return the folders that are gone."""
    if not layout.state_folder.exists():
        return []
    if not layout.lock_file.exists():
        raise StartError(f"{layout.state_folder} is not the folder of a local stack: nothing was removed")
    stop(layout)
    # as root PostgreSQL keeps its data elsewhere, where its own account gets in
    data = Postgres(layout.data("postgres"), layout.ports["postgres"]).data_folder
    folders = [folder for folder in (data, layout.state_folder) if folder.exists()]
    for folder in folders:
        shutil.rmtree(folder)
    return folders


def _wait_until_free(layout: Layout, timeout_seconds: float, pid: int | None = None) -> bool:
    """Wait until neither the supervisor nor its reaper holds the lock and the process `pid` is gone."""
    deadline = time.monotonic() + timeout_seconds
    while not lock.is_free(layout.lock_file) or (pid is not None and lock.is_alive(pid)):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def read_stack(layout: Layout) -> dict[str, Any]:
    stack: dict[str, Any] = json.loads(layout.stack_file.read_bytes())
    return stack


def status(layout: Layout) -> list[str] | None:
    """One line per process; None if no stack is running."""
    supervisor = lock.holder(layout.lock_file)
    if supervisor is None:
        return None
    if not layout.stack_file.exists():
        return [f"the stack is starting (supervisor pid {supervisor})"]
    stack = read_stack(layout)
    return [
        f"{name:12} pid {pid:<8} {'running' if lock.is_alive(pid) else 'dead'}"
        + (f"  port {stack['ports'][name]}" if name in stack["ports"] else "")
        for name, pid in stack["processes"].items()
    ]


def describe(layout: Layout) -> str:
    """What a person needs after the start: where it is and how to send the first payment."""
    stack = read_stack(layout)
    partner = stack["partner"]
    note = "" if "envoy" in stack["processes"] else f"\n  Note: {edge.why_missing()}\n"
    return f"""
The stack is up. Logs: {layout.logs_folder}, details and credentials: {layout.stack_file}

  API       {stack["api"]}
  SAP mock  {stack["sap_mock"]}/_control/stats
  Webhooks  {stack["receiver"]}/_received
{note}
Send the first payment:

  TOKEN=$(curl -s -u '{partner["client_id"]}:{partner["client_secret"]}' \\
    -d grant_type=client_credentials {stack["api"]}/oauth2/token \\
    | python3 -c 'import json,sys; print(json.load(sys.stdin)["access_token"])')
  curl -si {stack["api"]}/v1/payments -H "Authorization: Bearer $TOKEN" \\
    -H "Idempotency-Key: $(date +%s)-1" -H 'Content-Type: application/json' \\
    -d '{{"external_id": "'INV-$(date +%s)'",
         "amount": {{"value": "12.50", "currency": "EUR"}}}}'

Stop it with `make down`."""
