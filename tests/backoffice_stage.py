"""The backoffice on the same database as the adapter's stage, each with its own rights."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from flask.testing import FlaskClient
from posting_stage import SETTLING_SECONDS, Bridge, make_bridge
from sqlalchemy import Engine, text

from backoffice.app import create_app
from backoffice.settings import Settings

OPERATOR = {"X-Operator": "olga", "X-Reason": "ticket 4711"}


@dataclass
class Backoffice:
    bridge: Bridge
    engine: Engine
    client: FlaskClient

    def post(self, path: str, json: Any = None):
        """Ask as an operator, on a client of its own: threads may do so at once."""
        return self.client.application.test_client().post(path, json=json, headers=OPERATOR)

    def act(self, target: str, action: str, **body):
        answer = self.post(f"/admin/payments/{target}/{action}", body)
        assert answer.status_code in (200, 202), answer.text
        return answer.json["outcome"]

    def audit(self):
        with self.bridge.engine.connect() as connection:
            rows = connection.execute(
                text("SELECT actor, action, subject, reason FROM audit ORDER BY identity")
            )
            return [tuple(row) for row in rows]

    def queued(self, operation_id):
        """The outbox rows of the operation: each is one dispatch to come."""
        with self.bridge.engine.connect() as connection:
            return connection.execute(
                text("SELECT count(*) FROM outbox WHERE operation_id = :id"), {"id": operation_id}
            ).scalar_one()

    def parked_refused(self):
        """An operation that SAP has refused for an operator's reason."""
        operation_id = self.bridge.accept()
        self.bridge.sap.script.append("refuse:506(F5)")
        self.bridge.step(operation_id)
        assert self.bridge.row(operation_id).status == "parked"
        return operation_id

    def unknown(self, *, booked):
        """An operation whose answer was lost."""
        operation_id = self.bridge.accept()
        self.bridge.sap.script.append("commit-then-drop" if booked else "drop")
        self.bridge.step(operation_id)
        assert self.bridge.row(operation_id).status == "unknown"
        return operation_id

    def parked_unresolved(self, *, booked):
        """The same, parked: nobody knows whether SAP has it."""
        operation_id = self.unknown(booked=booked)
        assert self.act(operation_id, "park") == "parked"
        return operation_id

    def resolve(self, operation_id):
        """Let SAP be asked for as long as it takes."""
        for _ in range(20):
            if self.bridge.row(operation_id).status != "unknown":
                return
            due = self.bridge.row(operation_id).not_before
            self.bridge.clock.advance(max((due - self.bridge.clock.now()).total_seconds(), 0))
            self.bridge.step(operation_id)
        raise AssertionError("still unknown")


def make_backoffice(database):
    adapter = database.engine_for("sap_adapter")
    bridge = make_bridge(database.engine, adapter)
    url = database.url_for("backoffice")
    engine = database.engine_for("backoffice")
    settings = Settings.from_environment(
        {
            "DATABASE_URL": url,
            "OPERATOR_AUTHENTICATION": "emulator",
            "SAP_SETTLING_SECONDS": str(SETTLING_SECONDS),
        }
    )
    client = create_app(settings, engine, bridge.clock).test_client()
    yield Backoffice(bridge, engine, client)
    adapter.dispose()
    engine.dispose()


def lease_ends(bridge, operation_id):
    """What the watchdog does to a claim whose process died."""
    with bridge.engine.begin() as connection:
        connection.execute(
            text("""
            UPDATE operations SET status = 'unknown', lease_until = NULL, settled_at = :settled
            WHERE operation_id = :id
            """),
            {"id": operation_id, "settled": bridge.clock.now() + timedelta(seconds=SETTLING_SECONDS)},
        )
