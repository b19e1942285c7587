"""A payment's later steps: the key, the payment under lock, the step queued behind what is queued already.

Every function takes a connection inside the caller's transaction. Lock order: key, payment, operations; so
two requests with one key meet at the key, and who waits for a key holds nothing that the key's owner needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from bridge.ids import sap_reference
from bridge.payment import Operation, Payment
from bridge.storage.accept import KeyInProgressError
from bridge.storage.failures import LOCK_NOT_AVAILABLE, sqlstate, waited_for
from bridge.storage.payments import StoredPayment, find_payment

LOCK_OWN_PAYMENT = text("""
    /* the payment of the partner, so that its steps are judged one after the other */
    SELECT sap_system, company_code FROM payments
    WHERE payment_id = :payment_id AND partner_id = :partner_id FOR NO KEY UPDATE
""")

TAKE_KEY = text("""
    /* the key for this step; no row comes back if it is taken, or the partner has no such payment */
    INSERT INTO idempotency_keys
        (partner_id, idempotency_key, fingerprint, payment_id, operation_id, created_at)
    SELECT partner_id, :idempotency_key, :fingerprint, payment_id, CAST(:operation_id AS text), :now
    FROM payments WHERE payment_id = :payment_id AND partner_id = :partner_id
    ON CONFLICT (partner_id, idempotency_key) DO NOTHING
    RETURNING payment_id
""")

QUEUE_OPERATION = text("""
    /* the next step of a payment, in its lane; not_before is NULL until its turn comes. It waits since the
       day the payment is wanted for, if that is still to come */
    WITH operation AS (
        INSERT INTO operations
            (operation_id, payment_id, partner_id, position, kind, status, amount_minor, sap_system,
             sap_reference, traceparent, due_at, created_at, updated_at)
        SELECT :operation_id, payment_id, :partner_id, :position, :kind, :status, :amount_minor,
               :sap_system, :sap_reference, CAST(:traceparent AS text), due_at, :now, :now
        FROM operations WHERE payment_id = :payment_id AND position = 1
        RETURNING operation_id
    ), dispatch AS (
        INSERT INTO outbox (lane, partner_id, operation_id, not_before, traceparent, created_at)
        SELECT :sap_system, :partner_id, operation_id, CAST(:not_before AS timestamptz),
               CAST(:traceparent AS text), :now
        FROM operation
    )
    UPDATE payments SET updated_at = :now WHERE payment_id = :payment_id
""")

LET_NEXT_GO = text("""
    /* the first step that is not at its end, if it waits for the one before it: its turn has come. It takes
       the place in its lane that it would have had if it had not had to wait */
    UPDATE outbox SET not_before = least(:now, next.waits_since)
    FROM (
        SELECT operation_id, greatest(created_at, due_at) AS waits_since FROM operations
        WHERE payment_id = :payment_id AND status NOT IN ('succeeded', 'rejected', 'cancelled')
        ORDER BY position LIMIT 1
    ) AS next
    WHERE outbox.operation_id = next.operation_id AND not_before IS NULL
""")


@dataclass(frozen=True, slots=True)
class OwnPayment:
    """A payment of the partner who asks, locked until the transaction ends."""

    stored: StoredPayment
    sap_system: str
    company_code: str

    @property
    def payment(self) -> Payment:
        return self.stored.payment

    @property
    def operations(self) -> Sequence[Operation]:
        return self.stored.operations


def lock_own_payment(connection: Connection, partner_id: str, payment_id: str) -> OwnPayment | None:
    """Lock the payment and return it as it then is; None as well when it is another partner's."""
    parameters = {"partner_id": partner_id, "payment_id": payment_id}
    place = connection.execute(LOCK_OWN_PAYMENT, parameters).one_or_none()
    if place is None:
        return None
    # a statement of its own: its snapshot sees what the last holder of the lock has written
    stored = find_payment(connection, partner_id, payment_id)
    return None if stored is None else OwnPayment(stored, *place)


def take_key(
    connection: Connection,
    partner_id: str,
    idempotency_key: str,
    *,
    fingerprint: bytes,
    payment_id: str,
    operation_id: str | None,
    now: datetime,
) -> bool:
    """Write the key; False when it is taken, or the payment is not there for the partner.

    Raises KeyInProgressError when the key's first user has not ended in time.
    """
    parameters = {
        "partner_id": partner_id,
        "idempotency_key": idempotency_key,
        "fingerprint": fingerprint,
        "payment_id": payment_id,
        "operation_id": operation_id,
        "now": now,
    }
    try:
        return connection.execute(TAKE_KEY, parameters).first() is not None
    except DBAPIError as error:
        if sqlstate(error) == LOCK_NOT_AVAILABLE and waited_for(error) == "idempotency_keys":
            raise KeyInProgressError from error
        raise


def queue_operation(
    connection: Connection,
    own: OwnPayment,
    operation: Operation,
    *,
    not_before: datetime | None,
    traceparent: str | None,
) -> None:
    """Add the step behind all others. `not_before` None: something before it has to end first."""
    connection.execute(
        QUEUE_OPERATION,
        {
            "operation_id": operation.operation_id,
            "payment_id": own.payment.payment_id,
            "partner_id": own.payment.partner_id,
            "position": len(own.operations) + 1,
            "kind": str(operation.kind),
            "status": str(operation.status),
            "amount_minor": operation.amount.minor,
            "sap_system": own.sap_system,
            "sap_reference": sap_reference(operation.operation_id),
            "not_before": not_before,
            "traceparent": traceparent,
            "now": operation.created_at,
        },
    )


def let_next_go(connection: Connection, payment_id: str, *, now: datetime) -> None:
    """Date the outbox row of the payment's next step. The caller has ended the one before it."""
    connection.execute(LET_NEXT_GO, {"payment_id": payment_id, "now": now})
