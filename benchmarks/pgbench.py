"""pgbench, from the server's wheel, running our very accept statement: what PostgreSQL alone can do."""

import json
import os
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.payments import new_payment
from benchmarks.stage import Stage
from bridge.storage import accept
from devstack.logins import login_of
from devstack.postgres import DATABASE
from devstack.preflight import StartError

# Sixteen digits from 2 to 7: a number to pgbench, a valid SAP reference to the table, and always another one.
_DIFFERENT = " + ".join(f"random(2, 7) * 1{'0' * place}" for place in range(16))
_NEW = ("payment_id", "operation_id", "event_id", "external_id", "idempotency_key", "sap_reference")


def accepts_per_second(stage: Stage, *, connections: int, seconds: int) -> float:
    """Run the statement prepared, each time with new ids and keys."""
    script = stage.folder / "accept.sql"
    parameters = accept.parameters_of(new_payment("pgbench", 0))
    lines = [f"\\set {name} {_DIFFERENT}" for name in _NEW]
    script.write_text("\n".join([*lines, f"{accept.ACCEPT.text.strip()};"]))
    script.chmod(0o644)
    # pgbench knows no NULL that it could send as a parameter
    parameters["requested_execution_date"] = datetime.now(UTC).date()
    parameters["due_at"] = parameters["not_before"]
    constants = [f"-D{name}={_word(value)}" for name, value in parameters.items() if name not in _NEW]
    done = subprocess.run(  # noqa: S603 - our own command
        [
            str(_bin(stage) / "pgbench"),
            *("--no-vacuum", "--protocol=prepared", f"--client={connections}", f"--time={seconds}"),
            *(f"--file={script}", "--host=127.0.0.1", f"--port={stage.postgres.port}"),
            *(f"--username={login_of('gateway')}", *constants, DATABASE),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 60,
        env={"PATH": os.defpath, "LC_ALL": "C"},
    )
    found = re.search(r"^tps = ([0-9.]+)", done.stdout, re.MULTILINE)
    failed = re.search(r"^number of failed transactions: ([0-9]+)", done.stdout, re.MULTILINE)
    if done.returncode != 0 or found is None or (failed is not None and int(failed[1])):
        raise StartError(f"pgbench said: {(done.stdout + done.stderr).strip()[-500:]}")
    return float(found[1])


def _bin(stage: Stage) -> Path:
    return Path(stage.postgres.command()[0]).parent


def _word(value: Any) -> str:
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    if isinstance(value, dict):
        return json.dumps(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
