"""Payments as their partner reads them. Every statement names the partner: nobody reads another's."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from bridge.payment import Operation, Payment, PaymentStatus
from bridge.storage.operations import operation_of, payment_of

SELECT_PAYMENT = text("""
    /* one payment of the partner */
    SELECT payment_id, partner_id, external_id, status, currency, amount_minor, captured_minor,
           refunded_minor, capture, requested_execution_date, metadata, receipt, sap_system,
           created_at, updated_at
    FROM payments WHERE payment_id = :payment_id AND partner_id = :partner_id
""")

SELECT_PAYMENTS = text("""
    /* some payments of the partner */
    SELECT payment_id, partner_id, external_id, status, currency, amount_minor, captured_minor,
           refunded_minor, capture, requested_execution_date, metadata, receipt, sap_system,
           created_at, updated_at
    FROM payments WHERE payment_id = ANY(CAST(:payment_ids AS text[])) AND partner_id = :partner_id
""")

SELECT_PAGE = text("""
    /* a page of the payments of a partner, newest first, after the last one of the page before */
    SELECT payment_id, partner_id, external_id, status, currency, amount_minor, captured_minor,
           refunded_minor, capture, requested_execution_date, metadata, receipt, sap_system,
           created_at, updated_at
    FROM payments
    WHERE partner_id = :partner_id
      AND (created_at, payment_id) < (CAST(:before_created_at AS timestamptz), CAST(:before_id AS text))
      AND (CAST(:status AS text) IS NULL OR status = :status)
      AND (CAST(:external_id AS text) IS NULL OR external_id = :external_id)
      AND (CAST(:created_from AS timestamptz) IS NULL OR created_at >= :created_from)
      AND (CAST(:created_to AS timestamptz) IS NULL OR created_at < :created_to)
    ORDER BY created_at DESC, payment_id DESC LIMIT :limit
""")

SELECT_OPERATIONS = text("""
    /* the steps of some payments, in their order */
    SELECT operation.*, payment.currency
    FROM operations AS operation JOIN payments AS payment USING (payment_id)
    WHERE payment_id = ANY(:payment_ids) ORDER BY payment_id, position
""")

SELECT_TIMELINE = text("""
    /* events of a payment, oldest first, after one of them; one that is not in the feed has no sequence */
    SELECT events.event_id, events.event_type, events.created_at, events.data, feed.sequence
    FROM events LEFT JOIN feed USING (event_id)
    WHERE events.payment_id = :payment_id AND events.partner_id = :partner_id
      AND (CAST(:after AS text) IS NULL
           OR events.identity > (SELECT identity FROM events AS last
                                 WHERE last.event_id = :after AND last.payment_id = :payment_id))
    ORDER BY events.identity LIMIT :limit
""")


@dataclass(frozen=True, slots=True)
class StoredPayment:
    """A payment with its operations and what only its partner is shown."""

    payment: Payment
    operations: Sequence[Operation]
    metadata: dict[str, str]
    receipt: str | None
    sap_system: str

    @property
    def is_erased(self) -> bool:
        """Whether retention has erased names, accounts and texts: the receipt goes with them."""
        return self.receipt is None


@dataclass(frozen=True, slots=True)
class PaymentFilter:
    """What a list is narrowed to; `created_from` is in it, `created_to` is not."""

    status: PaymentStatus | None = None
    external_id: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the list of a partner's payments: after this one."""

    created_at: datetime
    payment_id: str


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    event_id: str
    event_type: str
    created_at: datetime
    data: dict[str, Any]
    sequence: int | None


def find_payment(connection: Connection, partner_id: str, payment_id: str) -> StoredPayment | None:
    """Return the payment; None as well when it is another partner's."""
    parameters = {"partner_id": partner_id, "payment_id": payment_id}
    rows = connection.execute(SELECT_PAYMENT, parameters).all()
    return next(iter(_with_operations(connection, rows)), None)


def find_payments(
    connection: Connection, partner_id: str, payment_ids: Sequence[str]
) -> dict[str, StoredPayment]:
    """Return those of the payments that are the partner's, by id."""
    parameters = {"partner_id": partner_id, "payment_ids": list(payment_ids)}
    rows = connection.execute(SELECT_PAYMENTS, parameters).all()
    return {stored.payment.payment_id: stored for stored in _with_operations(connection, rows)}


def list_payments(
    connection: Connection, partner_id: str, wanted: PaymentFilter, *, after: Position | None, limit: int
) -> list[StoredPayment]:
    """Return up to `limit` payments, newest first, from the one after `after`."""
    parameters = {
        "partner_id": partner_id,
        "before_created_at": after.created_at if after else "infinity",
        "before_id": after.payment_id if after else "",
        "status": str(wanted.status) if wanted.status else None,
        "external_id": wanted.external_id,
        "created_from": wanted.created_from,
        "created_to": wanted.created_to,
        "limit": limit,
    }
    return _with_operations(connection, connection.execute(SELECT_PAGE, parameters).all())


def timeline(
    connection: Connection, partner_id: str, payment_id: str, *, after: str | None, limit: int
) -> list[TimelineEvent]:
    """Return up to `limit` events, oldest first, after the event `after`: none if the payment has no such."""
    parameters = {"partner_id": partner_id, "payment_id": payment_id, "after": after, "limit": limit}
    return [
        TimelineEvent(row.event_id, row.event_type, row.created_at, _document(row.data), row.sequence)
        for row in connection.execute(SELECT_TIMELINE, parameters)
    ]


def _with_operations(connection: Connection, rows: Sequence[Row[Any]]) -> list[StoredPayment]:
    if not rows:
        return []
    operations: dict[str, list[Operation]] = defaultdict(list)
    payment_ids = [row.payment_id for row in rows]
    for row in connection.execute(SELECT_OPERATIONS, {"payment_ids": payment_ids}):
        operations[row.payment_id].append(operation_of(row))
    return [
        StoredPayment(
            payment_of(row), operations[row.payment_id], _document(row.metadata), row.receipt, row.sap_system
        )
        for row in rows
    ]


def _document(value: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(value) if isinstance(value, str) else value
    return document
