"""Accepting a payment: one statement writes the key, the payment, its first operation, the event, the outbox.

Idempotency is the primary key of `idempotency_keys`: its conflict ends in ON CONFLICT DO NOTHING, and nothing
else is written. The unique index of `external_id` is left to raise, so that the statement takes the key back
with everything else. The statement is the transaction: one round trip, nothing held between.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pg8000.exceptions import Error as DriverError
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError

from bridge.ids import sap_reference
from bridge.payment import EventType, Operation, OperationStatus, Payment
from bridge.storage.database_clock import DatabaseClock, sample_by
from bridge.storage.engine import DatabaseSettings, make_engine
from bridge.storage.failures import (
    LOCK_NOT_AVAILABLE,
    REPEATABLE,
    UNIQUE_VIOLATION,
    constraint_of,
    sqlstate,
    waited_for,
)
from bridge.storage.prepared import Prepared

LOCK_TIMEOUT_MILLISECONDS = 1000
# A connection that has rested for longer is asked whether it lives before it is used (as HikariCP does).
TRUSTED_REST_SECONDS = 0.5

ACCEPT = text("""
    /* accept a payment, unless the key is taken: then nothing is written and no row comes back */
    WITH key AS (
        INSERT INTO idempotency_keys
            (partner_id, idempotency_key, fingerprint, payment_id, operation_id, created_at)
        VALUES (:partner_id, :idempotency_key, :fingerprint, :payment_id, :operation_id, :now)
        ON CONFLICT (partner_id, idempotency_key) DO NOTHING
        RETURNING payment_id
    ), payment AS (
        INSERT INTO payments
            (payment_id, partner_id, external_id, status, currency, amount_minor, capture,
             requested_execution_date, sap_system, company_code, time_zone, encrypted_parties, metadata,
             receipt, created_at, updated_at)
        SELECT payment_id, :partner_id, :external_id, :payment_status, :currency, :amount_minor, :capture,
               CAST(:requested_execution_date AS date), :sap_system, :company_code, :time_zone,
               CAST(:encrypted_parties AS text), CAST(:metadata AS jsonb), :receipt, :now, :now
        FROM key
        RETURNING payment_id
    ), operation AS (
        INSERT INTO operations
            (operation_id, payment_id, partner_id, position, kind, status, amount_minor, sap_system,
             sap_reference, traceparent, due_at, created_at, updated_at)
        SELECT :operation_id, payment_id, :partner_id, 1, :kind, :operation_status, :amount_minor,
               :sap_system, :sap_reference, CAST(:traceparent AS text), CAST(:due_at AS timestamptz), :now,
               :now
        FROM payment
        RETURNING operation_id
    ), accepted AS (
        INSERT INTO events
            (event_id, partner_id, payment_id, operation_id, event_type, data, traceparent, created_at)
        SELECT :event_id, :partner_id, payment_id, :operation_id, :event_type,
               CAST(:event_data AS jsonb), CAST(:traceparent AS text), :now
        FROM payment
        RETURNING event_id
    ), dispatch AS (
        INSERT INTO outbox (lane, partner_id, operation_id, not_before, traceparent, created_at)
        SELECT :sap_system, :partner_id, operation_id, :not_before, CAST(:traceparent AS text), :now
        FROM operation
    ), tell AS (
        INSERT INTO outbox (lane, partner_id, event_id, not_before, traceparent, created_at)
        SELECT 'events', :partner_id, event_id, :now, CAST(:traceparent AS text), :now FROM accepted
    )
    SELECT payment_id FROM key
""")

_ACCEPT = Prepared(ACCEPT)

SELECT_KEY = text("""
    /* what the key stands for: a statement of its own, whose snapshot sees the winner of a race */
    SELECT fingerprint, payment_id FROM idempotency_keys
    WHERE partner_id = :partner_id AND idempotency_key = :idempotency_key
""")

SELECT_EXTERNAL_ID = text("""
    /* the living payment that has the external id */
    SELECT payment_id FROM payments
    WHERE partner_id = :partner_id AND external_id = :external_id AND status NOT IN ('rejected', 'cancelled')
""")


class KeyInProgressError(Exception):
    """Another transaction with the same key has not ended within the lock timeout."""


# what keeps two living payments of a partner from having the same external id
EXTERNAL_ID_INDEX = "payments_external_id"


class ExternalIdTakenError(Exception):
    """A living payment of the partner has the external id; nothing was written."""


class AcceptAgainError(Exception):
    """The database undid the statement (deadlock, serialization failure); it may be repeated."""


@dataclass(frozen=True, slots=True)
class NewPayment:
    """All that is written at once. `not_before` is when the operation may be dispatched first."""

    payment: Payment
    operation: Operation
    idempotency_key: str
    fingerprint: bytes
    sap_system: str
    company_code: str
    time_zone: str
    encrypted_parties: str | None
    metadata: Mapping[str, str]
    receipt: str
    event_id: str
    not_before: datetime
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class TakenKey:
    """What an idempotency key was used for."""

    fingerprint: bytes
    payment_id: str


def make_statement_engine(
    settings: DatabaseSettings,
    *,
    pool_size: int,
    application_name: str,
    lock_timeout_milliseconds: int = LOCK_TIMEOUT_MILLISECONDS,
    clock: DatabaseClock | None = None,
) -> Engine:
    """Return an engine whose every statement is a transaction, and waits a second at most for a lock.

    The driver itself is in autocommit. SQLAlchemy's option AUTOCOMMIT would be set only after the pool's ping
    has begun a transaction in pg8000, and what is then written is rolled back without a word.
    """
    engine = make_engine(
        settings, pool_size=pool_size, application_name=application_name, pre_ping=False, clock=clock
    )

    @event.listens_for(engine, "connect")
    def prepare(driver_connection: Any, _record: Any) -> None:
        driver_connection.autocommit = True
        cursor = driver_connection.cursor()
        cursor.execute(f"SET lock_timeout = {lock_timeout_milliseconds}")
        cursor.close()

    @event.listens_for(engine, "checkin")
    def rest(_driver_connection: Any, record: Any) -> None:
        record.info["rests_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def look_after(driver_connection: Any, record: Any, _proxied: Any) -> None:
        rests_since = record.info.get("rests_since")
        if rests_since is None:
            return  # it is new
        if time.monotonic() - rests_since > TRUSTED_REST_SECONDS or (clock and clock.is_sample_due()):
            _require_alive(driver_connection, clock)

    return engine


def _require_alive(driver_connection: Any, clock: DatabaseClock | None) -> None:
    """Have the pool connect anew, and look at its other connections again, when this one has died."""
    try:
        if clock is not None:
            sample_by(driver_connection, clock)
            return
        cursor = driver_connection.cursor()
        cursor.execute(";")
        cursor.close()
    except (DriverError, OSError) as error:
        raise DisconnectionError("the connection died while it rested") from error


def accept(connection: Connection, new: NewPayment) -> bool:
    """Write the payment; False, and nothing written, when the key is taken.

    Raises KeyInProgressError, ExternalIdTakenError, AcceptAgainError; nothing was written then either. For
    any other error of the database the outcome is unknown, and the key makes the repetition safe.
    """
    try:
        return bool(_ACCEPT.rows(connection, parameters_of(new)))
    except DBAPIError as error:
        state = sqlstate(error)
        if state == UNIQUE_VIOLATION and constraint_of(error) == EXTERNAL_ID_INDEX:
            raise ExternalIdTakenError from error
        if state == LOCK_NOT_AVAILABLE and waited_for(error) == "idempotency_keys":
            raise KeyInProgressError from error
        if state in REPEATABLE:
            raise AcceptAgainError from error
        raise


def find_key(connection: Connection, partner_id: str, idempotency_key: str) -> TakenKey | None:
    parameters = {"partner_id": partner_id, "idempotency_key": idempotency_key}
    row = connection.execute(SELECT_KEY, parameters).one_or_none()
    return None if row is None else TakenKey(bytes(row.fingerprint), row.payment_id)


def find_external_id(connection: Connection, partner_id: str, external_id: str) -> str | None:
    """Return the id of the living payment with this external id."""
    parameters = {"partner_id": partner_id, "external_id": external_id}
    payment_id: str | None = connection.execute(SELECT_EXTERNAL_ID, parameters).scalar_one_or_none()
    return payment_id


def parameters_of(new: NewPayment) -> dict[str, Any]:
    """Return the statement's parameters by name."""
    payment, operation = new.payment, new.operation
    return {
        "partner_id": payment.partner_id,
        "idempotency_key": new.idempotency_key,
        "fingerprint": new.fingerprint,
        "payment_id": payment.payment_id,
        "operation_id": operation.operation_id,
        "now": payment.created_at,
        "external_id": payment.external_id,
        "payment_status": str(payment.status),
        "currency": payment.currency,
        "amount_minor": payment.amount_minor,
        "capture": payment.capture,
        "requested_execution_date": payment.requested_execution_date,
        "sap_system": new.sap_system,
        "company_code": new.company_code,
        "time_zone": new.time_zone,
        "encrypted_parties": new.encrypted_parties,
        "metadata": json.dumps(dict(new.metadata)),
        "receipt": new.receipt,
        "kind": str(operation.kind),
        "operation_status": str(operation.status),
        "sap_reference": sap_reference(operation.operation_id),
        "event_id": new.event_id,
        "event_type": str(EventType.ACCEPTED),
        "event_data": json.dumps({"payment": payment.as_json([operation])}),
        "not_before": new.not_before,
        "due_at": new.not_before if operation.status == OperationStatus.SCHEDULED else None,
        "traceparent": new.traceparent,
    }
