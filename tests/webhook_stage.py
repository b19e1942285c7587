"""The webhooks service on a real database and a real receiver, with a clock that is turned by hand."""

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from fakes.accepted import insert_accepted
from fakes.partner_store import InMemoryPartnerStore
from fakes.task_queue import InMemoryTaskQueue
from partner_documents import changed, new_partner
from sqlalchemy import text
from stand_ins import Worker

from bridge.clock import ManualClock
from bridge.ids import new_id
from bridge.keyring import KeyRing
from bridge.messages import EventMessage, encode
from bridge.partner_directory import PartnerDirectorySettings, make_directory
from bridge.payment import EventType
from bridge.storage import webhook_endpoints
from bridge.storage.events import append_event
from bridge.storage.feed import sequence_events
from bridge.storage.migrate import add_sap_systems
from bridge.webhook_endpoint import SigningSecret, WebhookEndpoint
from bridge.webhook_secrets import seal_secret
from webhooks.app import create_app, make_use_cases
from webhooks.settings import Settings

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
OLD_SECRET = "whsec_" + base64.b64encode(b"fedcba9876543210fedcba9876543210").decode()
RING_KEY = base64.b64encode(b"w" * 32).decode()


def key_ring_file(folder):
    path = folder / "webhook-secrets.json"
    path.write_text(json.dumps({"current": "k1", "keys": {"k1": RING_KEY}}))
    return path


def environment(folder, **changes):
    return {
        "DATABASE_URL": "postgresql+pg8000://nobody@127.0.0.1:1/none",
        "GOOGLE_CLOUD_PROJECT": "test-project",
        "FIRESTORE_EMULATOR_HOST": "127.0.0.1:1",
        "CLOUD_TASKS_EMULATOR_HOST": "127.0.0.1:1",
        "PUSH_AUTHENTICATION": "emulator",
        "WEBHOOK_KEY_RING": str(key_ring_file(folder)),
        "TASK_TARGET_URL": "http://127.0.0.1:8083/tasks/deliveries",
        "WEBHOOK_ALLOW_HTTP_LOOPBACK": "true",
        **changes,
    }


def key_ring():
    return KeyRing("k1", {"k1": base64.b64decode(RING_KEY)})


def endpoint(url, *secrets, **changes):
    """An endpoint whose secrets (SECRET by default) are sealed as the partners service seals them."""
    endpoint_id = new_id("whe", datetime.now(UTC))
    ring = key_ring()
    sealed = tuple(
        SigningSecret(encrypted=seal_secret(ring, endpoint_id, secret)) for secret in secrets or (SECRET,)
    )
    return WebhookEndpoint(endpoint_id=endpoint_id, url=url, secrets=sealed, **changes)


def is_probe(task):
    return "probe" in json.loads(task.payload)


class Stage:
    """One partner, and what happens to its events. `spread` is what the jitter gets."""

    def __init__(self, database, folder, *, timeout_seconds=5.0, now=None):
        self.owner = database.engine
        self.engine = database.engine_for("webhooks")
        self.clock = ManualClock(now or datetime.now(UTC))
        self.queue = InMemoryTaskQueue(self.clock)
        self.store = InMemoryPartnerStore()
        self.receiver = Worker()
        self.spread = 0.0
        self.settings = replace(
            Settings.from_environment(environment(folder)), timeout_seconds=timeout_seconds
        )
        with self.owner.begin() as connection:
            add_sap_systems(connection, {"s4-main": 1})
        self.partner = new_partner()
        self.store.put(self.partner, None)
        self.instance = self.new_instance()
        self._app = self._served = None

    def new_instance(self):
        """What another process of the service would have: nothing but the database is shared."""
        directory = make_directory(
            self.store, self.engine, self.clock, PartnerDirectorySettings(), lambda task: task()
        )
        return make_use_cases(
            self.settings, key_ring(), self.engine, directory, self.queue, self.clock, lambda: self.spread
        )

    def close(self):
        self.receiver.close()
        self.engine.dispose()

    @property
    def partner_id(self):
        return self.partner.partner_id

    @property
    def client(self):
        # one for all threads of a test: while several make their routes, CPython 3.11 fails now and then
        served = (self.instance, self.settings)
        if self._served != served:
            self._app = create_app(self.settings, self.engine, self.instance, self.clock)
            self._served = served
        return self._app.test_client()

    def set_endpoints(self, *endpoints):
        """Change the partner's record; who has read it lately knows of it after the cache's time."""
        before = self.partner
        self.partner = changed(before, webhook_endpoints=[each.model_dump() for each in endpoints])
        self.store.put(self.partner, before.version)

    def disable(self, which, reason="partner"):
        with self.engine.begin() as connection:
            assert webhook_endpoints.disable(connection, which.endpoint_id, reason)

    def enable(self, which):
        with self.engine.begin() as connection:
            assert webhook_endpoints.enable(
                connection, endpoint_id=which.endpoint_id, partner_id=self.partner_id
            )

    def cursor(self, which):
        (row,) = self.rows(f"SELECT * FROM webhooks.cursors WHERE endpoint_id = '{which.endpoint_id}'")
        return row

    def outlive_the_cache(self):
        self.clock.advance(33)

    def append(self, *event_types):
        """Write events as the services do; they have no number yet. Returns their ids."""
        event_ids = []
        with self.owner.begin() as connection:
            for event_type in event_types:
                operation_id = insert_accepted(connection, self.clock.now(), partner_id=self.partner_id)
                payment_id = connection.execute(
                    text("SELECT payment_id FROM operations WHERE operation_id = :id"), {"id": operation_id}
                ).scalar_one()
                event_id = append_event(
                    connection,
                    partner_id=self.partner_id,
                    payment_id=payment_id,
                    operation_id=operation_id,
                    event_type=EventType(event_type),
                    payment={"id": payment_id, "status": "accepted", "amount": {"value": "1250.00"}},
                    traceparent=None,
                    now=self.clock.now(),
                )
                event_ids.append(event_id)
        return event_ids

    def sequence(self):
        with self.owner.begin() as connection:
            sequence_events(connection, self.partner_id, limit=500)

    def publish(self, *event_types):
        """Append events and give them their numbers; nobody is told."""
        event_ids = self.append(*event_types)
        self.sequence()
        return event_ids

    def ring(self, sequence=10**9):
        data, attributes = encode(EventMessage("evt_x", self.partner_id, sequence))
        message = {"data": base64.b64encode(data).decode(), "attributes": attributes, "messageId": "1"}
        answer = self.client.post("/pubsub/events", json={"message": message, "subscription": "s"})
        return answer.status_code

    def run_tasks(self):
        """Let every due task come, as Cloud Tasks would have it; returns how many were of deliveries."""
        probes = sum(task.at <= self.now() and is_probe(task) for task in self.queue.waiting)
        return self.queue.run_due(self.take) - probes

    def take(self, task):
        return self.client.post("/tasks/deliveries", data=task.payload).status_code

    def rows(self, statement):
        with self.owner.begin() as connection:
            return connection.execute(text(statement)).all()

    def deliveries(self):
        return self.rows("SELECT * FROM webhooks.deliveries ORDER BY endpoint_id, sequence")

    def attempts(self):
        return self.rows("SELECT * FROM webhooks.attempts ORDER BY delivery_id, attempt_number")

    def waiting_for_a_lock(self):
        found = self.rows(
            "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return len(found)

    def outlive_the_lease(self):
        self.clock.advance(self.settings.timeout_seconds * 2 + 1)

    def outlive_the_grace(self):
        self.clock.advance(self.settings.sweep_grace_seconds + 1)

    def now(self):
        return self.clock.now()

    def seconds_until(self, moment):
        return round((moment - self.clock.now()) / timedelta(seconds=1), 3)
