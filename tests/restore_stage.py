"""A bridge whose database can be backed up and put back while SAP and the partners go on."""

from contextlib import suppress
from datetime import timedelta

import pytest
from backoffice_stage import OPERATOR, make_backoffice
from fakes.accepted import PARTNER_ID
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError
from waiting import wait_until

from bridge.clock import rfc3339
from bridge.payment import OperationKind
from bridge.storage.accept import make_statement_engine
from bridge.storage.engine import DatabaseSettings
from bridge.storage.events import put_back
from dispatcher.watchdog import Watchdog, WatchdogSettings
from gateway.cancel_payment import CancelPayment
from gateway.idempotency import Fingerprints
from gateway.operate_payment import Instruction, OncePerKey, OperatePayment
from sap_adapter.recovery import RecoveryJob

SETTLING_SECONDS = 30.0
WATCHDOG = WatchdogSettings(5.0, 60.0, 60.0, 900.0)


class Restorable:
    """The stage, whose database can be copied and put back; SAP goes on as it is."""

    def __init__(self, stage, maintenance, database):
        self.stage, self.bridge = stage, stage.bridge
        self.maintenance = maintenance
        self.name = database.engine.url.database
        self.backup = f"{self.name}_backup"
        self.recovery_engine = database.engine_for("recovery")
        self.dispatcher = database.engine_for("dispatcher")
        self.webhooks = database.engine_for("webhooks")
        settings = DatabaseSettings(database.url_for("gateway"), None, None, None)
        self.gateway = make_statement_engine(settings, pool_size=4, application_name="gateway")
        self.once = OncePerKey(self.gateway, self.bridge.clock, Fingerprints(b"k" * 32))
        self.services = [self.recovery_engine, self.dispatcher, self.webhooks, self.gateway]
        self.engines = [database.engine, stage.engine, stage.bridge.service_engine, *self.services]
        self.waits = []

    def close(self):
        for engine in self.services:
            engine.dispose()
        self._drop(self.backup)

    def back_up(self):
        self.since = self.bridge.clock.now()
        self._copy(self.name, self.backup)

    def restore(self):
        self.bridge.clock.advance(3600)
        self._copy(self.backup, self.name)

    def _copy(self, source, target):
        for engine in self.engines:
            engine.dispose()
        self._drop(target)
        wait_until(lambda: self._is_copied(source, target), what="the last session gone")

    def _is_copied(self, source, target):
        """A database is copied only when nobody is connected to it; sessions end a moment after they left."""
        self._end_sessions(source)
        with suppress(ProgrammingError):
            self.maintenance.execute(text(f"CREATE DATABASE {target} TEMPLATE {source} STRATEGY FILE_COPY"))
            return True
        return False

    def _drop(self, name):
        self.maintenance.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))

    def _end_sessions(self, name):
        """Some are of connections that belong to no pool: whoever rings the bell keeps one."""
        self.maintenance.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"),
            {"name": name},
        )

    def begin(self, since=None, *, restart=False):
        body = {"since": rfc3339(since or self.since)} | ({"restart": True} if restart else {})
        return self.stage.post("/admin/recoveries", body)

    def job(self, source=None):
        return RecoveryJob(
            self.recovery_engine, {"s4-main": source or self.bridge.sap}, self.bridge.clock,
            settling_seconds=SETTLING_SECONDS, wait=self.wait,
        )  # fmt: skip

    def wait(self, seconds):
        self.waits.append(seconds)
        self.bridge.clock.advance(seconds)

    def recover(self):
        assert self.begin().status_code == 201
        assert self.job().run()

    def latest(self):
        return self.stage.client.get("/admin/recoveries/latest", headers=OPERATOR).json

    def rows(self, statement, **parameters):
        with self.bridge.engine.connect() as connection:
            return connection.execute(text(statement), parameters).all()

    def let_all_go_on(self):
        """Dispatch whatever is due, until nothing waits."""
        for number in range(400):
            due = self.due()
            if not due:
                return
            seconds = (due[0].not_before - self.bridge.clock.now()).total_seconds()
            # no permit is free while SAP may be working on lost calls: let them settle
            self.bridge.clock.advance(max(seconds, 1.0 if number > 100 else 0.0))
            self.bridge.step(due[0].operation_id)
        rows = self.rows(
            "SELECT operation_id, position, kind, status, sent_unresolved, attempts, settled_at, none_seen_at"
            " FROM operations WHERE status NOT IN ('succeeded', 'rejected', 'cancelled')"
        )
        lane = self.rows("SELECT * FROM sap_systems")
        raise AssertionError("\n".join(map(str, ("still waiting", self.bridge.clock.now(), *lane, *rows))))

    def due(self):
        """What waits to be dispatched, the next one first."""
        return self.rows(
            "SELECT operation_id, not_before FROM outbox"
            " WHERE operation_id IS NOT NULL AND not_before IS NOT NULL ORDER BY not_before, identity"
        )

    def open_lane(self):
        """Undo what faults did to the lane's window: no relay is here to send probes. A hold stays."""
        with self.bridge.engine.begin() as connection:
            connection.execute(
                text("""
                UPDATE sap_systems
                SET call_window = hard_cap, failed_probes = 0, failing_operations = '{}'
                """)
            )

    def references(self):
        return [reference for reference, _ in self.bridge.sap.booked]

    def operations(self):
        """Every operation, payment by payment, in order."""
        return self.rows(
            "SELECT operation.*, payment.status AS payment_status, captured_minor, refunded_minor"
            " FROM operations AS operation JOIN payments AS payment USING (payment_id)"
            " ORDER BY payment_id, position"
        )

    def unplaced(self):
        recovery = self.latest()["recovery"]
        return [] if recovery is None else recovery["unplaced_documents"]

    def lose_home(self):
        """Let the database find itself in another cluster, as a restored one does."""
        with self.bridge.engine.begin() as connection:
            connection.execute(text("UPDATE database_identity SET system_identifier = 1"))

    def watch(self, rounds: int, *, pause_seconds: float = 600.0):
        """Let the watchdog look several times, a pause apart."""
        for _ in range(rounds):
            self.bridge.clock.advance(pause_seconds)
            Watchdog(self.dispatcher, self.bridge.clock, WATCHDOG, lambda: None).go_round()

    def cancel(self, payment_id, partner_id=PARTNER_ID):
        """Cancel as the partner does; RejectedError or TransientError as the gateway raises it."""
        instruction = Instruction(payment_id, "POST", f"/{payment_id}/cancellations", None, {}, None)
        return CancelPayment(self.once, lambda: None)(partner_id, instruction)

    def operate(self, payment_id, kind, amount=None, partner_id=PARTNER_ID):
        """Ask for a later step as the partner does."""
        instruction = Instruction(payment_id, "POST", f"/{payment_id}/{kind}", None, {}, None)
        use_case = OperatePayment(self.once, timedelta(days=400), lambda: None)
        partner = self.bridge.directory.configuration.model_copy(update={"partner_id": partner_id})
        return use_case(partner, instruction, OperationKind(kind), amount)

    def queue(self, operation_id):
        """Give an accepted operation the row of the outbox that the gateway writes with it."""
        with self.bridge.engine.begin() as connection:
            put_back(
                connection, operation_id, not_before=self.bridge.clock.now(), now=self.bridge.clock.now()
            )

    def send_again_as(self, operation_id, external_id, *, amount_minor=None):
        """Have the payment of the operation sent again under the external id of a lost one."""
        with self.bridge.engine.begin() as connection:
            connection.execute(
                text("""
                UPDATE payments SET external_id = :external_id, amount_minor = coalesce(:amount, amount_minor)
                WHERE payment_id = (SELECT payment_id FROM operations WHERE operation_id = :id)
                """),
                {"external_id": external_id, "amount": amount_minor, "id": operation_id},
            )
            connection.execute(
                text("""
                UPDATE operations SET amount_minor = coalesce(:amount, amount_minor) WHERE operation_id = :id
                """),
                {"amount": amount_minor, "id": operation_id},
            )


@pytest.fixture
def bridge(restorable):
    return restorable.bridge


@pytest.fixture
def restorable(database, maintenance):
    """The bridge on a database that can be backed up and put back."""
    with database.engine.begin() as connection:
        connection.execute(
            text("INSERT INTO partner_configs VALUES (:partner_id, 1, '{}', '2026-11-21T12:00:00Z')"),
            {"partner_id": PARTNER_ID},
        )
    for stage in make_backoffice(database):
        restorable = Restorable(stage, maintenance, database)
        try:
            yield restorable
        finally:
            restorable.close()
