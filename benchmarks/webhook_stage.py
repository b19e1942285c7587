"""The webhooks service, the Cloud Tasks stand-in and a receiver as processes, and partners with events.

Events are written to PostgreSQL, and the service's doorbell is rung by the benchmark's own process.
"""

import base64
import contextlib
import os
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psutil
import requests
from sqlalchemy import Engine, create_engine, text

from benchmarks.servers import cpu_seconds, running
from benchmarks.stage import PROJECT, Stage
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

PATIENCE_SECONDS = 180.0
POLL_SECONDS = 0.1
QUEUE = f"projects/{PROJECT}/locations/europe-west3/queues/{WEBHOOK_QUEUE}"

_BACKEND = text("/* the process that serves this connection */ SELECT pg_backend_pid()")

_PAYMENT = text("""
    /* one payment that all the events are of */
    INSERT INTO payments (payment_id, partner_id, external_id, status, currency, amount_minor, capture,
        sap_system, company_code, time_zone, metadata, created_at, updated_at)
    VALUES (:payment_id, :partner_id, 'BENCH', 'paid', 'EUR', 125000, 'automatic', :sap_system, '1000', 'UTC',
            '{}', :now, :now)
""")

# (path, event id, unix time) of the first request for an event at an endpoint that answers
Arrival = tuple[str, str, float]


@dataclass(frozen=True)
class Services:
    """What runs. `receiver`: its URL; below it /ok/… answers at once, /hang/… after 15 s."""

    stage: Stage
    engine: Engine
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

    def partner(self, *urls: str) -> "Partner":
        """Make a partner with an endpoint for each URL."""
        mirror = PartnerMirror(self.engine)
        known = mirror.get(self.stage.partner.partner_id)
        if known is None:
            raise StartError("the partner is not there")
        ring = open_key_ring(KeyRingSettings(str(self.stage.keys.webhook_secrets), "webhook-secrets"))
        now = SystemClock().now()
        payment_id, partner_id = new_id("pay", now), new_id("par", now)
        endpoints = []
        for url in urls:
            endpoint_id = new_id("whe", now)
            secret = SigningSecret(
                encrypted=seal_secret(ring, endpoint_id, self.stage.partner.webhook_secret)
            )
            endpoints.append(WebhookEndpoint(endpoint_id=endpoint_id, url=url, secrets=(secret,)))
        changes = {"partner_id": partner_id, "clients": (), "webhook_endpoints": tuple(endpoints)}
        mirror.remember(known.configuration.model_copy(update=changes), now)
        with self.engine.begin() as connection:
            connection.execute(
                _PAYMENT,
                {"payment_id": payment_id, "partner_id": partner_id, "sap_system": "s4-main", "now": now},
            )
        return Partner(self, partner_id, payment_id)

    def wait_for(self, event_ids: Collection[str], count: int, path: str = "/ok/") -> list[Arrival]:
        """Return the first arrivals of these events below `path`, once there are so many."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(found := self._arrivals(event_ids, path)) < count:
            if time.monotonic() > deadline:
                raise StartError(f"{len(found)} of {count} webhooks have arrived")
            time.sleep(POLL_SECONDS)
        return found

    def _arrivals(self, event_ids: Collection[str], below: str) -> list[Arrival]:
        rows: list[Any] = requests.get(f"{self.receiver}/arrivals", timeout=60).json()
        first = {
            (path, event_id): at
            for path, event_id, at in reversed(rows)
            if path.startswith(below) and event_id in event_ids
        }
        return [(path, event_id, at) for (path, event_id), at in first.items()]


@dataclass(frozen=True)
class Partner:
    """One partner, whose events are all of one payment."""

    services: Services
    partner_id: str
    payment_id: str

    def publish(self, count: int) -> dict[str, float]:
        """Write events, number them, ring; return when each was written, by id."""
        now = datetime.now().astimezone()
        written = time.time()
        with self.services.engine.begin() as connection:
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
        with self.services.engine.begin() as connection:
            sequence_events(connection, self.partner_id, limit=count)
        self.ring()
        return dict.fromkeys(event_ids, written)

    def ring(self) -> None:
        data, attributes = encode(EventMessage("evt_bench", self.partner_id, 2**62))
        message = {"data": base64.b64encode(data).decode(), "attributes": attributes, "messageId": "1"}
        envelope = {"message": message, "subscription": "bench"}
        url = f"{self.services.webhooks}/pubsub/events"
        requests.post(url, json=envelope, timeout=60).raise_for_status()


@contextlib.contextmanager
def services_on(stage: Stage) -> Iterator[Services]:
    """Start the processes, on a queue of their own."""
    folder = stage.folder
    base = {"PATH": os.environ["PATH"], "HOST": "127.0.0.1", "PYTHONUNBUFFERED": "1"}
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
        tasks_module = [
            "devstack.cloud_tasks",
            "--port={port}",
            f"--data={folder / f'tasks-{receiver.port}.sqlite'}",
            f"--queue={QUEUE}",
            f"--max-concurrent-dispatches={WEBHOOK_DISPATCHES}",
        ]
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
        webhooks = stack.enter_context(
            running(
                "webhooks", ["webhooks"], environment, "/readyz", folder / "webhooks.log", port_of_webhooks
            )
        )
        engine = create_engine(stage.postgres.url())
        stack.callback(engine.dispose)
        pids = {"webhooks": webhooks.pid, "Cloud Tasks stand-in": tasks.pid, "receiver": receiver.pid}
        yield Services(
            stage,
            engine,
            f"http://127.0.0.1:{port_of_webhooks}",
            f"http://127.0.0.1:{receiver.port}",
            pids,
        )
