"""Rows as accepting a payment writes them, for tests of what comes after."""

import itertools
import json
from datetime import UTC, datetime

from sqlalchemy import text

from bridge.ids import new_id, sap_reference
from bridge.storage.migrate import add_sap_systems

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
LANE = "s4-main"
OTHER_LANE = "s4-second"

_numbers = itertools.count(1)

INSERT_PAYMENT = text("""
    INSERT INTO payments (payment_id, partner_id, external_id, status, currency, amount_minor, capture,
                          requested_execution_date, sap_system, company_code, time_zone, metadata,
                          created_at, updated_at)
    VALUES (:payment_id, :partner_id, :external_id, :payment_status, 'EUR', 1250, 'automatic',
            CAST(:execution_date AS date), :lane, '1000', 'Europe/Berlin', '{}', :now, :now)
""")
INSERT_OPERATION = text("""
    INSERT INTO operations (operation_id, payment_id, partner_id, position, kind, status, amount_minor,
                            sap_system, sap_reference, due_at, created_at, updated_at)
    VALUES (:operation_id, :payment_id, :partner_id, 1, 'payment', :status, 1250, :lane, :reference,
            CAST(CAST(:execution_date AS date) AS timestamp) AT TIME ZONE 'Europe/Berlin', :now, :now)
""")
INSERT_EVENT = text("""
    INSERT INTO events (event_id, partner_id, payment_id, operation_id, event_type, data, created_at)
    VALUES (:event_id, :partner_id, :payment_id, :operation_id, :event_type, CAST(:data AS jsonb), :now)
""")
INSERT_EVENT_ROW = text("""
    INSERT INTO outbox (lane, partner_id, event_id, not_before, created_at)
    VALUES ('events', :partner_id, :event_id, :now, :now)
""")
INSERT_OPERATION_ROW = text("""
    INSERT INTO outbox (lane, partner_id, operation_id, not_before, created_at)
    VALUES (:lane, :partner_id, :operation_id, :not_before, :now)
""")


def add_lanes(engine, **hard_caps):
    """add_lanes(engine, s4_main=4) adds the lane s4-main with four calls at once."""
    with engine.begin() as connection:
        add_sap_systems(connection, {name.replace("_", "-"): cap for name, cap in hard_caps.items()})


def add_event(connection, payment_id, operation_id, partner_id, event_type, now=NOW):
    event_id = new_id("evt", now)
    parameters = {
        "event_id": event_id,
        "partner_id": partner_id,
        "payment_id": payment_id,
        "operation_id": operation_id,
        "event_type": event_type,
        "data": json.dumps({"payment": {"id": payment_id}}),
        "now": now,
    }
    connection.execute(INSERT_EVENT, parameters)
    connection.execute(INSERT_EVENT_ROW, parameters)
    return event_id


def add_payment(
    connection,
    partner_id="par_a",
    *,
    lane=LANE,
    now=NOW,
    status="accepted",
    execution_date=None,
    not_before=None,
    row=True,
    event=True,
):
    """Accept a payment; return its operation's id."""
    number = next(_numbers)
    payment_id, operation_id = new_id("pay", now), new_id("op", now)
    parameters = {
        "payment_id": payment_id,
        "operation_id": operation_id,
        "partner_id": partner_id,
        "external_id": f"INV-{number}",
        "payment_status": "scheduled" if status == "scheduled" else "accepted",
        "status": status,
        "execution_date": execution_date,
        "lane": lane,
        "reference": sap_reference(operation_id),
        "not_before": not_before or now,
        "now": now,
    }
    connection.execute(INSERT_PAYMENT, parameters)
    connection.execute(INSERT_OPERATION, parameters)
    if event:
        add_event(connection, payment_id, operation_id, partner_id, "payment.accepted", now)
    if row:
        connection.execute(INSERT_OPERATION_ROW, parameters)
    return operation_id


def add_payments(engine, count, partner_id="par_a", **options):
    with engine.begin() as connection:
        return [add_payment(connection, partner_id, **options) for _ in range(count)]


def operation(engine, operation_id):
    statement = text("SELECT * FROM operations WHERE operation_id = :id")
    with engine.begin() as connection:
        return connection.execute(statement, {"id": operation_id}).one()


def change(engine, operation_id, **columns):
    """Set columns of an operation, as another service would."""
    assignments = ", ".join(f"{name} = :{name}" for name in columns)
    with engine.begin() as connection:
        statement = text(f"UPDATE operations SET {assignments} WHERE operation_id = :id")
        assert connection.execute(statement, columns | {"id": operation_id}).rowcount == 1


def set_lane(engine, lane, **columns):
    assignments = ", ".join(f"{name} = :{name}" for name in columns)
    with engine.begin() as connection:
        statement = text(f"UPDATE sap_systems SET {assignments} WHERE sap_system = :lane")
        assert connection.execute(statement, columns | {"lane": lane}).rowcount == 1


def lane_row(engine, lane=LANE):
    with engine.begin() as connection:
        return connection.execute(
            text("SELECT * FROM sap_systems WHERE sap_system = :lane"), {"lane": lane}
        ).one()


def outbox_rows(engine, lane=LANE):
    """The lane's rows by operation or event id, in order."""
    statement = text("SELECT * FROM outbox WHERE lane = :lane ORDER BY identity")
    with engine.begin() as connection:
        return {
            row.operation_id or row.event_id: row for row in connection.execute(statement, {"lane": lane})
        }


def scalar(engine, statement, **parameters):
    with engine.begin() as connection:
        return connection.execute(text(statement), parameters).scalar()
