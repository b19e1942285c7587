"""Rows as acceptance leaves them, for tests that start behind the gateway."""

import json
from datetime import UTC, datetime

from sqlalchemy import Connection, text

from bridge.ids import new_id, sap_reference
from bridge.journal_mapping import JournalEntryMapping
from bridge.keyring import KeyRing
from bridge.messages import OperationMessage
from bridge.partner import SapTarget
from bridge.payment import OperationKind

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
PARTNER_ID = "par_" + "0" * 26
KEY_RING = KeyRing("k1", {"k1": b"k" * 32})
MAPPING = JournalEntryMapping(
    document_type="DZ",
    customer="10000001",
    clearing_account="113100",
    statistical_account="199100",
    special_gl_code="G",
)
TARGET = SapTarget(
    sap_system="s4-main",
    company_code="1000",
    time_zone="Europe/Berlin",
    mappings=dict.fromkeys(OperationKind, MAPPING),
)


def insert_accepted(
    connection: Connection, now: datetime = NOW, *, partner_id: str = PARTNER_ID, kind: str = "payment"
) -> str:
    """Insert an accepted payment with its operation in the lane s4-main; return the operation's id."""
    payment_id, operation_id = new_id("pay", now), new_id("op", now)
    parties = {"debtor": {"name": "Muster GmbH"}, "creditor": None, "remittance_information": "Invoice 4711"}
    sealed = KEY_RING.encrypt(
        json.dumps(parties).encode(), table="payments", column="encrypted_parties", row=payment_id
    )
    connection.execute(
        text("""
        INSERT INTO payments (payment_id, partner_id, external_id, status, currency, amount_minor, capture,
            sap_system, company_code, time_zone, encrypted_parties, metadata, created_at, updated_at)
        VALUES (:payment_id, :partner_id, :payment_id, 'accepted', 'EUR', 125000, 'automatic',
            's4-main', '1000', 'Europe/Berlin', :parties, '{}', :now, :now)
        """),
        {"payment_id": payment_id, "partner_id": partner_id, "parties": sealed, "now": now},
    )
    connection.execute(
        text("""
        INSERT INTO operations (operation_id, payment_id, partner_id, position, kind, status, amount_minor,
            sap_system, sap_reference, created_at, updated_at)
        VALUES (:operation_id, :payment_id, :partner_id, 1, :kind, 'accepted', 125000,
            's4-main', :reference, :now, :now)
        """),
        {
            "operation_id": operation_id,
            "payment_id": payment_id,
            "partner_id": partner_id,
            "reference": sap_reference(operation_id),
            "kind": kind,
            "now": now,
        },
    )
    return operation_id


def insert_later_step(
    connection: Connection, first_id: str, kind: str, amount_minor: int, now: datetime = NOW
) -> str:
    """Queue a later step behind the payment whose first operation is given, as the gateway does."""
    operation_id = new_id("op", now)
    connection.execute(
        text("""
        WITH later AS (
            INSERT INTO operations (operation_id, payment_id, partner_id, position, kind, status,
                amount_minor, sap_system, sap_reference, created_at, updated_at)
            SELECT :operation_id, payment_id, partner_id, (SELECT count(*) + 1 FROM operations AS other
                WHERE other.payment_id = first.payment_id), :kind, 'accepted', :amount_minor, sap_system,
                :reference, :now, :now
            FROM operations AS first WHERE operation_id = :first_id
            RETURNING operation_id, sap_system, partner_id
        )
        INSERT INTO outbox (lane, partner_id, operation_id, not_before, created_at)
        SELECT sap_system, partner_id, operation_id, NULL, :now FROM later
        """),
        {
            "operation_id": operation_id,
            "first_id": first_id,
            "kind": kind,
            "amount_minor": amount_minor,
            "reference": sap_reference(operation_id),
            "now": now,
        },
    )
    return operation_id


def dispatch(connection: Connection, operation_id: str, now: datetime) -> OperationMessage:
    """Do what a relay round does to one operation: take its outbox row, raise the number, publish."""
    connection.execute(text("DELETE FROM outbox WHERE operation_id = :id"), {"id": operation_id})
    row = connection.execute(
        text("""
        UPDATE operations SET dispatch_number = dispatch_number + 1, dispatched_at = :now
        WHERE operation_id = :id RETURNING payment_id, partner_id, sap_system, dispatch_number
        """),
        {"id": operation_id, "now": now},
    ).one()
    return OperationMessage(operation_id, row.payment_id, row.partner_id, row.sap_system, row.dispatch_number)
