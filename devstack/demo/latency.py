"""`python -m devstack.demo.latency`: how long after the 202 the partner's webhook `payment.paid` arrives.

On an idle stack: one payment at a time, each waited for. A stack that runs is used, else
one is started for it.
"""

import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import requests

from devstack import lock
from devstack.demo.instructions import Instructions
from devstack.demo.partner_client import GaveUpError, PartnerClient
from devstack.demo.running import own_stack
from devstack.evidence import CALL_TIMEOUT_SECONDS
from devstack.layout import Layout
from devstack.preflight import StartError
from devstack.running_stack import RunningStack

WARM_UP_PAYMENTS = 5
WEBHOOK_TIMEOUT_SECONDS = 30.0
POLL_SECONDS = 0.02


@click.command()
@click.option("--state-dir", type=click.Path(path_type=Path, file_okay=True), default=Path(".devstack"))
@click.option("--port-offset", type=int, envvar="PORT_OFFSET", default=0, help="Added to every port.")
@click.option("--payments", type=click.IntRange(2, 10_000), default=30, show_default=True)
def main(state_dir: Path, port_offset: int, payments: int) -> None:
    """Measure 202 → webhook received, one payment at a time."""
    layout = Layout(state_dir.absolute(), port_offset)
    is_running = lock.holder(layout.lock_file) is not None
    try:
        with nullcontext() if is_running else own_stack(layout):
            stack = RunningStack.read(layout.stack_file)
            accepted_ms, received_ms = _measure(stack, payments)
    except (StartError, GaveUpError) as error:
        click.echo(f"latency: {error}", err=True)
        sys.exit(1)
    click.echo(f"{payments} payments one after the other on an idle stack")
    click.echo(_line("POST → 202", accepted_ms))
    click.echo(_line("202 → webhook received", received_ms))


def _measure(stack: RunningStack, payments: int) -> tuple[list[float], list[float]]:
    """Return the latencies in milliseconds; the first few payments only warm everything up."""
    client = PartnerClient(stack.api, stack.partners[0])
    instructions = Instructions()
    accepted_ms, received_ms = [], []
    for number in range(-WARM_UP_PAYMENTS, payments):
        body = instructions.body("latency", number + WARM_UP_PAYMENTS)
        sent = client.pay(f"{body['external_id']}-key", body)
        accepted_at = time.time()
        arrived_at = _received_at(stack, sent.payment["id"])
        if number >= 0:
            accepted_ms.append(sent.latency_ms)
            received_ms.append((arrived_at - accepted_at) * 1000)
    return accepted_ms, received_ms


def _received_at(stack: RunningStack, payment_id: str) -> float:
    """Seconds since 1970, by the receiver's clock, which is this machine's."""
    deadline = time.monotonic() + WEBHOOK_TIMEOUT_SECONDS
    while True:
        for webhook in _webhooks(stack, payment_id):
            if webhook["type"] == "payment.paid" and webhook["verified"]:
                return datetime.fromisoformat(webhook["received_at"]).timestamp()
        if time.monotonic() > deadline:
            raise GaveUpError(f"the webhook of {payment_id} has not arrived")
        time.sleep(POLL_SECONDS)


def _webhooks(stack: RunningStack, payment_id: str) -> list[dict[str, Any]]:
    answer = requests.get(
        f"{stack.receiver}/_received", params={"payment_id": payment_id}, timeout=CALL_TIMEOUT_SECONDS
    )
    answer.raise_for_status()
    rows: list[dict[str, Any]] = answer.json()
    return rows


def _line(name: str, milliseconds: Sequence[float]) -> str:
    shares = statistics.quantiles(milliseconds, n=100, method="inclusive")
    return f"  {name:24} p50 {shares[49]:6.0f} ms   p99 {shares[98]:6.0f} ms"


if __name__ == "__main__":
    main(prog_name="python -m devstack.demo.latency")
