"""A bridge whose database can be backed up and put back while SAP and the partners go on."""

from contextlib import suppress
from datetime import timedelta

import pytest
from backoffice_stage import OPERATOR, make_backoffice
from fakes.accepted import PARTNER_ID
from sqlalchemy import create_engine, text
from sqlalchemy.exc import ProgrammingError
from waiting import wait_until

from bridge.clock import rfc3339
from bridge.payment import OperationKind
from bridge.storage.accept import make_statement_engine
from bridge.storage.engine import DatabaseSettings
from devstack.logins import create_database, drop_database
from dispatcher.watchdog import Watchdog, WatchdogSettings
from gateway.cancel_payment import CancelPayment
from gateway.idempotency import Fingerprints
from gateway.operate_payment import Instruction, OncePerKey, OperatePayment
from sap_adapter.recovery import RecoveryJob

SETTLING_SECONDS = 30.0
WATCHDOG = WatchdogSettings(5.0, 60.0, 60.0, 900.0)


class Restorable:
    """The stage, whose database can be copied and put back; SAP goes on as it is."""

    def __init__(self, stage, server, database):
        self.stage, self.bridge = stage, stage.bridge
        self.server = server
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
        drop_database(self.server.url("postgres"), self.backup)

    def back_up(self):
        self.since = self.bridge.clock.now()
        self._copy(self.name, self.backup)

    def restore(self):
        self.bridge.clock.advance(3600)
        self._copy(self.backup, self.name)

    def _copy(self, source, target):
        for engine in self.engines:
            engine.dispose()
        drop_database(self.server.url("postgres"), target)
        wait_until(lambda: self._is_copied(source, target), what="the last session gone")

    def _is_copied(self, source, target):
        """A database is copied only when nobody is connected to it; sessions end a moment after they left."""
        self._end_sessions(source)
        with suppress(ProgrammingError):
            create_database(self.server.url("postgres"), target, template=source)
            return True
        return False

    def _end_sessions(self, name):
        """Some are of connections that belong to no pool: whoever rings the bell keeps one."""
        engine = create_engine(self.server.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"),
                {"name": name},
            )
        engine.dispose()

    def begin(self, since=None):
        return self.stage.post("/admin/recoveries", {"since": rfc3339(since or self.since)})

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
        for _ in range(200):
            due = self.rows(
                "SELECT operation_id, not_before FROM outbox"
                " WHERE operation_id IS NOT NULL AND not_before IS NOT NULL ORDER BY not_before, identity"
            )
            if not due:
                return
            seconds = (due[0].not_before - self.bridge.clock.now()).total_seconds()
            self.bridge.clock.advance(max(seconds, 0))
            self.bridge.step(due[0].operation_id)
        raise AssertionError("still waiting")

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


@pytest.fixture
def restorable(database, postgres_server):
    """The bridge on a database that can be backed up and put back."""
    with database.engine.begin() as connection:
        connection.execute(
            text("INSERT INTO partner_configs VALUES (:partner_id, 1, '{}', '2026-11-21T12:00:00Z')"),
            {"partner_id": PARTNER_ID},
        )
    for stage in make_backoffice(database):
        restorable = Restorable(stage, postgres_server, database)
        try:
            yield restorable
        finally:
            restorable.close()
