"""`make bench-consumption`: what one payment uses of everything that Google Cloud charges for.

A stack of its own takes payments at an even pace, each is posted and told to one endpoint twice (accepted,
paid). Counted is what came between two looks: log lines, messages, tasks, the database's growth and WAL, and
the processor time of each process. What happens anyway, without a payment, is measured before and taken off.
docs/cost.md is calculated from this.
"""

import json
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
import grpc
import psutil
from google.api_core.exceptions import DeadlineExceeded
from google.pubsub_v1 import PubsubMessage, ReceivedMessage, SubscriberClient
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from sqlalchemy import text

from bridge.messages import EVENTS_TOPIC, operations_topic
from devstack import edge
from devstack.demo.instructions import Instructions
from devstack.demo.partner_client import GaveUpError, PartnerClient
from devstack.demo.running import own_stack
from devstack.demo.sender import Sender
from devstack.evidence import open_database, received
from devstack.layout import PROJECT_ID, SAP_SYSTEMS, Layout
from devstack.preflight import StartError
from devstack.running_stack import RunningStack

SERVICES = ("gateway", "dispatcher", "sap_adapter", "webhooks")
PROCESSES = (*SERVICES, "postgres")
TOPICS = (EVENTS_TOPIC, *map(operations_topic, SAP_SYSTEMS))
WEBHOOKS_PER_PAYMENT = 2
WARM_UP_PAYMENTS = 50
TOLD_TIMEOUT_SECONDS = 180.0
POLL_SECONDS = 0.5
PULL_TIMEOUT_SECONDS = 1.0
PULL_MESSAGES = 1000
# cloud.google.com/pubsub/pricing: a message is its data, its attributes, its id and a timestamp
TIMESTAMP_BYTES = 20
SQLITE_SUFFIX = ".sqlite"

LOOK = text("""
    /* how much WAL has been written, how large all tables and indexes are, attempts of webhooks so far */
    SELECT CAST(pg_current_wal_lsn() - '0/0' AS bigint) AS wal_bytes,
           (SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r'
            AND relnamespace IN ('public'::regnamespace, 'webhooks'::regnamespace)) AS stored_bytes,
           (SELECT count(*) FROM webhooks.attempts) AS attempts
""")


@dataclass(frozen=True)
class Look:
    """How it stands at one moment; all counts only grow. `cpu_seconds` by process, `logged` by service."""

    at: float
    wal_bytes: int
    stored_bytes: int
    attempts: int
    tasks: int
    logged: Mapping[str, tuple[int, int]]
    cpu_seconds: Mapping[str, float]


class Taps:
    """Subscriptions of our own on every topic: how many messages there were, and how large they are."""

    def __init__(self, address: str) -> None:
        self._client = SubscriberClient(
            transport=SubscriberGrpcTransport(channel=grpc.insecure_channel(address))
        )
        for topic in TOPICS:
            self._client.create_subscription(
                {"name": self._path(topic), "topic": f"projects/{PROJECT_ID}/topics/{topic}"}
            )

    def read(self) -> list[int]:
        """The bytes of each message that came since the last reading, as Pub/Sub counts them."""
        return [size for topic in TOPICS for size in self._read(topic)]

    def _read(self, topic: str) -> list[int]:
        sizes: list[int] = []
        while pulled := self._pull(topic):
            sizes += [_billed_bytes(item.message) for item in pulled]
            self._client.acknowledge(subscription=self._path(topic), ack_ids=[item.ack_id for item in pulled])
        return sizes

    def _pull(self, topic: str) -> list[ReceivedMessage]:
        """What is there; the emulator answers with nothing, or not at all, when there is nothing more."""
        try:
            answer = self._client.pull(
                subscription=self._path(topic),
                max_messages=PULL_MESSAGES,
                timeout=PULL_TIMEOUT_SECONDS,
                retry=None,
            )
        except DeadlineExceeded:
            return []
        return list(answer.received_messages)

    def _path(self, topic: str) -> str:
        return f"projects/{PROJECT_ID}/subscriptions/consumption-{topic}"


def _billed_bytes(message: PubsubMessage) -> int:
    attributes = sum(len(key) + len(value) for key, value in message.attributes.items())
    return len(message.data) + attributes + len(message.message_id) + TIMESTAMP_BYTES


@click.command()
@click.option("--payments", type=click.IntRange(50, 100_000), default=1_000, show_default=True)
@click.option("--per-second", type=click.FloatRange(1, 100), default=12.0, show_default=True)
@click.option("--idle-seconds", type=click.FloatRange(5, 600), default=30.0, show_default=True)
@click.option("--port-offset", type=int, default=20_000, show_default=True, help="Added to every port.")
def main(payments: int, per_second: float, idle_seconds: float, port_offset: int) -> None:
    """Measure what a payment consumes."""
    try:
        with tempfile.TemporaryDirectory(prefix="bridge-consumption-") as folder:
            Path(folder).chmod(0o711)  # as root PostgreSQL runs as another account that has to get in
            layout = Layout(Path(folder) / "state", port_offset, has_edge=edge.is_installed())
            with own_stack(layout):
                click.echo(_measured(layout, payments, per_second, idle_seconds))
    except (StartError, GaveUpError) as error:
        click.echo(f"consumption: {error}", err=True)
        sys.exit(1)


def _measured(layout: Layout, payments: int, per_second: float, idle_seconds: float) -> str:
    stack = RunningStack.read(layout.stack_file)
    sender = Sender([PartnerClient(stack.api, stack.partners[0])], Instructions())
    _send(stack, sender, "warm-up", WARM_UP_PAYMENTS, per_second)
    taps = Taps(layout.address("pubsub"))
    start = _look(layout, stack)
    time.sleep(idle_seconds)
    idle = _look(layout, stack)
    taps.read()
    before = _look(layout, stack)
    _send(stack, sender, "consumption", payments, per_second)
    return table(start, idle, before, _look(layout, stack), taps.read(), payments)


def _send(stack: RunningStack, sender: Sender, group: str, count: int, per_second: float) -> None:
    """Hand them over at a pace, and wait until the last one was told."""
    since = datetime.now(UTC)
    sender.send(group, count, per_second=per_second, threads=8)
    deadline = time.monotonic() + TOLD_TIMEOUT_SECONDS
    while len(received(stack, since=since, distinct=True)) < count * WEBHOOKS_PER_PAYMENT:
        if time.monotonic() > deadline:
            raise GaveUpError("not all webhooks have arrived")
        time.sleep(POLL_SECONDS)


def _look(layout: Layout, stack: RunningStack) -> Look:
    engine = open_database(stack)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        row = connection.execute(LOOK).one()
    return Look(
        at=time.monotonic(),
        wal_bytes=row.wal_bytes,
        stored_bytes=int(row.stored_bytes),
        attempts=row.attempts,
        tasks=_tasks(layout),
        logged={name: _logged(layout.log(name)) for name in SERVICES},
        cpu_seconds=_cpu_seconds(layout),
    )


def _tasks(layout: Layout) -> int:
    """Tasks made so far: those that wait, and the names of those that are gone (kept for an hour)."""
    file = f"file:{layout.data('cloud_tasks')}{SQLITE_SUFFIX}?mode=ro"
    with closing(sqlite3.connect(file, uri=True)) as database:
        (count,) = database.execute(
            "SELECT (SELECT count(*) FROM tasks) + (SELECT count(*) FROM gone_names)"
        ).fetchone()
    return int(count)


def _logged(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    return content.count(b"\n"), len(content)


def _cpu_seconds(layout: Layout) -> dict[str, float]:
    """Of each process and its children, those that have ended included."""
    pids = json.loads(layout.stack_file.read_bytes())["processes"]
    seconds = {}
    for name in PROCESSES:
        process = psutil.Process(pids[name])
        times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
        seconds[name] = sum(each.user + each.system for each in times)
        seconds[name] += times[0].children_user + times[0].children_system
    return seconds


def table(start: Look, idle: Look, before: Look, after: Look, sizes: list[int], payments: int) -> str:
    """Return the report as Markdown, per payment."""
    quiet_seconds, busy_seconds = idle.at - start.at, after.at - before.at

    def net(old: float, new: float, idle_old: float, idle_new: float) -> float:
        return (new - old - (idle_new - idle_old) * busy_seconds / quiet_seconds) / payments

    load, *_ = os.getloadavg()
    lines = [
        f"{payments:,} payments in {busy_seconds:.0f} s; {os.cpu_count()} cores, load average {load:.1f}",
        "",
        "| what one payment uses | |",
        "| --- | ---: |",
        f"| messages in Pub/Sub | {len(sizes) / payments:.2f} |",
        f"| their bytes, each | {sum(sizes) / max(len(sizes), 1):,.0f} |",
        f"| tasks in Cloud Tasks | {(after.tasks - before.tasks) / payments:.2f} |",
        f"| attempts of webhooks | {(after.attempts - before.attempts) / payments:.2f} |",
        f"| WAL bytes | {net(before.wal_bytes, after.wal_bytes, start.wal_bytes, idle.wal_bytes):,.0f} |",
        f"| bytes of tables and indexes | {(after.stored_bytes - before.stored_bytes) / payments:,.0f} |",
    ]
    for name in SERVICES:
        count, size = (after.logged[name][i] - before.logged[name][i] for i in (0, 1))
        lines.append(f"| log lines of {name} | {count / payments:.2f} |")
        lines.append(f"| their bytes, together | {size / payments:,.0f} |")
    for name in PROCESSES:
        used = net(
            before.cpu_seconds[name], after.cpu_seconds[name], start.cpu_seconds[name], idle.cpu_seconds[name]
        )
        lines.append(f"| processor time of {name}, ms | {used * 1000:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
