"""`make bench-webhooks`: deliveries through the real task path, beside a bare HTTP client loop, in one run.

The webhooks service, the Cloud Tasks stand-in and a receiver are processes; events are written to PostgreSQL
and the service's doorbell is rung by this process. Only the ratios mean something beyond this machine.
"""

import base64
import contextlib
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import click
import psutil
import requests
from sqlalchemy import Engine, create_engine, text

from benchmarks.report import Target
from benchmarks.servers import cpu_seconds, running
from benchmarks.stage import PROJECT, Stage, staged
from bridge.clock import SystemClock
from bridge.ids import new_id
from bridge.key_ring_file import KeyRingSettings, open_key_ring
from bridge.messages import WEBHOOK_QUEUE, EventMessage, encode
from bridge.partner_mirror import PartnerMirror
from bridge.payment import EventType
from bridge.storage.events import append_event
from bridge.storage.feed import sequence_events
from bridge.webhook_endpoint import SigningSecret, WebhookEndpoint
from bridge.webhook_secrets import seal_secret
from devstack.logins import login_of, url_as
from devstack.postgres import free_port
from devstack.preflight import StartError
from devstack.services import WEBHOOK_DISPATCHES, WEBHOOK_THREADS

ENDPOINTS = 10
HANGING = 2
BARE_POSTS = 500
IDLE_EVENTS = 30
PAUSE_SECONDS = 0.25
PATIENCE_SECONDS = 180.0
QUEUE = f"projects/{PROJECT}/locations/europe-west3/queues/{WEBHOOK_QUEUE}"

_BACKEND = text("/* the process that serves this connection */ SELECT pg_backend_pid()")

_PAYMENT = text("""
    /* one payment that all the events are of */
    INSERT INTO payments (payment_id, partner_id, external_id, status, currency, amount_minor, capture,
        sap_system, company_code, time_zone, metadata, created_at, updated_at)
    VALUES (:payment_id, :partner_id, 'BENCH', 'paid', 'EUR', 125000, 'automatic', :sap_system, '1000', 'UTC',
            '{}', :now, :now)
""")


@dataclass(frozen=True)
class Bench:
    """What runs, and how events get into it."""

    engine: Engine
    partner_id: str
    payment_id: str
    webhooks: str
    receiver: str
    pids: Mapping[str, int]

    def cpu_seconds(self) -> dict[str, float]:
        """Processor time used so far, by process."""
        with self.engine.connect() as connection:
            backend = psutil.Process(connection.execute(_BACKEND).scalar_one())
        postmaster = backend.parent()
        pids = {**self.pids, "PostgreSQL": postmaster.pid if postmaster else backend.pid}
        return {name: cpu_seconds(pid) for name, pid in pids.items()}

    def publish(self, count: int) -> dict[str, float]:
        """Write events, number them, ring; return when each was written, by id."""
        now = datetime.now().astimezone()
        written = time.time()
        with self.engine.begin() as connection:
            event_ids = [
                append_event(
                    connection,
                    partner_id=self.partner_id,
                    payment_id=self.payment_id,
                    operation_id=None,
                    event_type=EventType.PAID,
                    payment={"id": self.payment_id, "status": "paid", "amount": {"value": "1250.00"}},
                    traceparent=None,
                    now=now,
                )
                for _ in range(count)
            ]
        with self.engine.begin() as connection:
            sequence_events(connection, self.partner_id, limit=count)
        self.ring()
        return dict.fromkeys(event_ids, written)

    def ring(self) -> None:
        data, attributes = encode(EventMessage("evt_bench", self.partner_id, 2**62))
        message = {
            "data": base64.b64encode(data).decode(),
            "attributes": attributes,
            "messageId": "1",
        }
        envelope = {"message": message, "subscription": "bench"}
        requests.post(f"{self.webhooks}/pubsub/events", json=envelope, timeout=60).raise_for_status()

    def arrivals(self, event_ids: Sequence[str] | dict[str, float]) -> list[tuple[str, str, float]]:
        """Return the first arrivals at endpoints that answer, of these events: (path, id, unix time)."""
        rows: list[Any] = requests.get(f"{self.receiver}/arrivals", timeout=60).json()
        first = {(path, event_id): at for path, event_id, at in reversed(rows) if path.startswith("/ok/")}
        wanted = set(event_ids)
        return [(path, event_id, at) for (path, event_id), at in first.items() if event_id in wanted]

    def wait_for(self, event_ids: dict[str, float], count: int) -> list[tuple[str, str, float]]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(found := self.arrivals(event_ids)) < count:
            if time.monotonic() > deadline:
                raise StartError(f"{len(found)} of {count} webhooks have arrived")
            time.sleep(0.1)
        return found


@contextlib.contextmanager
def _bench(stage: Stage, hanging: int) -> Iterator[Bench]:
    """Start the processes; the last `hanging` of the endpoints hang."""
    folder = stage.folder
    base = {"PATH": os.environ["PATH"], "HOST": "127.0.0.1", "PYTHONUNBUFFERED": "1"}
    tasks_module = [
        "devstack.cloud_tasks",
        "--port={port}",
        f"--data={folder / f'tasks-{hanging}.sqlite'}",
        f"--queue={QUEUE}",
        f"--max-concurrent-dispatches={WEBHOOK_DISPATCHES}",
    ]
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(
            running(
                "receiver",
                ["benchmarks.webhook_receiver", "{port}"],
                base,
                "/arrivals",
                folder / "receiver.log",
            )
        )
        tasks = stack.enter_context(running("tasks", tasks_module, base, None, folder / "tasks.log"))
        port_of_webhooks = free_port()
        environment = {
            **base,
            "DATABASE_URL": url_as(stage.postgres.url(), login_of("webhooks")),
            "GOOGLE_CLOUD_PROJECT": PROJECT,
            "FIRESTORE_EMULATOR_HOST": "127.0.0.1:1",
            "CLOUD_TASKS_EMULATOR_HOST": f"127.0.0.1:{tasks.port}",
            "PUSH_AUTHENTICATION": "emulator",
            "WEBHOOK_KEY_RING": str(stage.keys.webhook_secrets),
            "WEBHOOK_ALLOW_HTTP_LOOPBACK": "true",
            "TASK_TARGET_URL": f"http://127.0.0.1:{port_of_webhooks}/tasks/deliveries",
            "THREADS": str(WEBHOOK_THREADS),
        }
        bench = _seeded(stage, f"http://127.0.0.1:{receiver.port}", port_of_webhooks, hanging)
        stack.callback(bench.engine.dispose)
        webhooks = stack.enter_context(
            running(
                "webhooks", ["webhooks"], environment, "/readyz", folder / "webhooks.log", port_of_webhooks
            )
        )
        pids = {"webhooks": webhooks.pid, "Cloud Tasks stand-in": tasks.pid, "receiver": receiver.pid}
        yield replace(bench, pids=pids)


def _seeded(stage: Stage, receiver: str, port: int, hanging: int) -> Bench:
    engine = create_engine(stage.postgres.url())
    mirror = PartnerMirror(engine)
    partner = mirror.get(stage.partner.partner_id)
    if partner is None:
        raise StartError("the partner is not there")
    ring = open_key_ring(KeyRingSettings(str(stage.keys.webhook_secrets), "webhook-secrets"))
    now = SystemClock().now()
    payment_id = new_id("pay", now)
    partner_id = new_id("par", now)
    endpoints = []
    for number in range(ENDPOINTS):
        endpoint_id = new_id("whe", now)
        kind = "hang" if number >= ENDPOINTS - hanging else "ok"
        secret = SigningSecret(encrypted=seal_secret(ring, endpoint_id, stage.partner.webhook_secret))
        endpoints.append(
            WebhookEndpoint(endpoint_id=endpoint_id, url=f"{receiver}/{kind}/{number}", secrets=(secret,))
        )
    changes = {"partner_id": partner_id, "clients": (), "webhook_endpoints": tuple(endpoints)}
    mirror.remember(partner.configuration.model_copy(update=changes), now)
    with engine.begin() as connection:
        connection.execute(
            _PAYMENT,
            {"payment_id": payment_id, "partner_id": partner_id, "sap_system": "s4-main", "now": now},
        )
    return Bench(engine, partner_id, payment_id, f"http://127.0.0.1:{port}", receiver, {})


def _bare_posts_per_second(receiver: str) -> float:
    """What an HTTP client does in a loop, with a body like ours and no signature."""
    body = b'{"data":{"payment":{"amount":{"value":"1250.00"},"id":"pay_01kaf3nyt8h8w5s2m6r7v9x4cd"}}}' * 3
    with requests.Session() as session:
        session.post(f"{receiver}/ok/bare", data=body, timeout=30)
        started = time.perf_counter()
        for _ in range(BARE_POSTS):
            session.post(f"{receiver}/ok/bare", data=body, timeout=30).raise_for_status()
        return BARE_POSTS / (time.perf_counter() - started)


def _burst(bench: Bench, events: int) -> tuple[float, dict[str, float]]:
    """Return deliveries per second, and the milliseconds of processor time of one, by process."""
    used_before = bench.cpu_seconds()
    written = bench.publish(events)
    found = bench.wait_for(written, events * ENDPOINTS)
    used = bench.cpu_seconds()
    milliseconds = {name: (used[name] - used_before[name]) * 1000 / len(found) for name in used}
    return len(found) / (max(at for *_, at in found) - min(written.values())), milliseconds


def _idle_p50_ms(bench: Bench) -> float:
    waited = []
    for _ in range(IDLE_EVENTS):
        written = bench.publish(1)
        ((event_id, since),) = written.items()
        found = bench.wait_for({event_id: since}, ENDPOINTS)
        waited.append(min(at for *_, at in found) - since)
    return statistics.median(waited) * 1000


def _steady_p99_ms(bench: Bench, seconds: int, healthy: int) -> float:
    """Return the p99 of event to arrival at the first `healthy` endpoints, under a steady load."""
    written: dict[str, float] = {}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        written |= bench.publish(1)
        time.sleep(PAUSE_SECONDS)
    paths = {f"/ok/{number}" for number in range(healthy)}
    bench.wait_for(written, len(written) * healthy)
    waited = [at - written[event_id] for path, event_id, at in bench.arrivals(written) if path in paths]
    return statistics.quantiles(waited, n=100)[98] * 1000


@click.command()
@click.option("--events", type=click.IntRange(1, 5000), default=60, show_default=True, help="Of the burst.")
@click.option("--seconds", type=click.IntRange(5, 600), default=30, show_default=True, help="Of steady load.")
def main(events: int, seconds: int) -> None:
    """Measure webhooks beside a bare client loop, and with endpoints that hang."""
    healthy = ENDPOINTS - HANGING
    try:
        with staged(with_peer=False) as stage:
            with _bench(stage, 0) as bench:
                bench.wait_for(bench.publish(5), 5 * ENDPOINTS)  # connections, plans
                idle_ms = _idle_p50_ms(bench)
                bare = _bare_posts_per_second(bench.receiver)
                burst, cpu_ms = _burst(bench, events)
                well_ms = _steady_p99_ms(bench, seconds, healthy)
            with _bench(stage, HANGING) as bench:
                bench.wait_for(bench.publish(5), 5 * healthy)
                beside_ms = _steady_p99_ms(bench, seconds, healthy)
    except (StartError, OSError) as error:
        click.echo(f"bench-webhooks: {error}", err=True)
        sys.exit(1)
    click.echo(
        f"{os.cpu_count()} cores, load average {os.getloadavg()[1]:.1f}; bare loop {bare:,.0f} posts/s, "
    )
    click.echo(
        f"deliveries {burst:,.0f}/s; p99 of steady load {well_ms:.0f} ms, beside hanging {beside_ms:.0f} ms"
    )
    by_process = ", ".join(f"{name} {used:.1f} ms" for name, used in cpu_ms.items())
    click.echo(f"processor time of one delivery: {by_process}; {sum(cpu_ms.values()):.1f} ms in all")
    click.echo("\n| target | measured | asked | |\n| --- | ---: | ---: | --- |")
    for target in (
        Target("throughput: deliveries / bare HTTP client loop", burst / bare, 0.25, at_least=True),
        Target(
            f"p99 of {healthy} endpoints: beside {HANGING} that hang 15 s / without",
            beside_ms / well_ms,
            2,
            at_least=False,
        ),
        Target("event to first attempt, idle, p50", idle_ms, 100, at_least=False, unit=" ms"),
    ):
        click.echo(target.line())


if __name__ == "__main__":
    main()
