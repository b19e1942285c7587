"""Payments as their partner reads them. Every statement names the partner: nobody reads another's."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Row, TextClause, text

from bridge.payment import Operation, OperationStatus, Payment, PaymentStatus
from bridge.storage.operations import make_operation, payment_of

# A payment and its steps are read by one statement, so that they are of one moment: a second statement would
# see what was recorded between the two.
_PAYMENT_COLUMNS = """payment_id, partner_id, external_id, status, currency, amount_minor, captured_minor,
           refunded_minor, capture, requested_execution_date, metadata, receipt, sap_system, recovered_at,
           created_at, updated_at"""
_WITH_STEPS = """
    SELECT payment.*, step.operation_id, step.kind, step.status AS step_status,
           step.amount_minor AS step_amount_minor, step.sap_company_code, step.sap_fiscal_year,
           step.sap_document_number, step.failure_code, step.failure_message, step.failure_pointer,
           step.created_at AS step_created_at, step.completed_at
    FROM payment JOIN operations AS step USING (payment_id)
    ORDER BY payment.created_at DESC, payment.payment_id DESC, step.position
"""

SELECT_PAYMENT = text(f"""
    /* one payment of the partner, with its steps */
    WITH payment AS (
        SELECT {_PAYMENT_COLUMNS}
        FROM payments WHERE payment_id = :payment_id AND partner_id = :partner_id
    ) {_WITH_STEPS}
""")  # noqa: S608 - made of constants

SELECT_PAYMENTS = text(f"""
    /* some payments of the partner, with their steps */
    WITH payment AS (
        SELECT {_PAYMENT_COLUMNS}
        FROM payments WHERE payment_id = ANY(CAST(:payment_ids AS text[])) AND partner_id = :partner_id
    ) {_WITH_STEPS}
""")  # noqa: S608 - made of constants

_PAGE = (
    """
    /* a page of the payments of a partner, newest first, after the last one of the page before */
    WITH payment AS (
        {found}
        ORDER BY created_at DESC, payment_id DESC LIMIT :limit
    )"""
    + _WITH_STEPS
)
_FOUND = f"SELECT {_PAYMENT_COLUMNS} FROM payments WHERE partner_id = :partner_id"  # noqa: S608 - as above
_AFTER = "(created_at, payment_id) < (CAST(:before_created_at AS timestamptz), CAST(:before_id AS text))"
# One half per index: of the living payments with an external id, and of those that have set it free.
_LIVING, _ENDED = "status NOT IN ('rejected', 'cancelled')", "status IN ('rejected', 'cancelled')"

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
    is_recovered: bool = False

    @property
    def is_erased(self) -> bool:
        """Whether retention has erased names, accounts and texts: the receipt goes with them.

        A payment that a recovery has made of a document never had any.
        """
        return self.receipt is None and not self.is_recovered


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
    return next(iter(_with_steps(rows)), None)


def find_payments(
    connection: Connection, partner_id: str, payment_ids: Sequence[str]
) -> dict[str, StoredPayment]:
    """Return those of the payments that are the partner's, by id."""
    parameters = {"partner_id": partner_id, "payment_ids": list(payment_ids)}
    rows = connection.execute(SELECT_PAYMENTS, parameters).all()
    return {stored.payment.payment_id: stored for stored in _with_steps(rows)}


def list_payments(
    connection: Connection, partner_id: str, wanted: PaymentFilter, *, after: Position | None, limit: int
) -> list[StoredPayment]:
    """Return up to `limit` payments, newest first, from the one after `after`."""
    parameters: dict[str, Any] = {"partner_id": partner_id, "limit": limit}
    if after is not None:
        parameters |= {"before_created_at": after.created_at, "before_id": after.payment_id}
    parameters |= {
        name: value
        for name in ("external_id", "created_from", "created_to")
        if (value := getattr(wanted, name)) is not None
    }
    rows = connection.execute(select_page(wanted, goes_on=after is not None), parameters).all()
    return _with_steps(rows)


@cache
def _statement(conditions: tuple[str, ...], *, by_external_id: bool) -> TextClause:
    narrowed = " AND ".join((_FOUND, *conditions))
    found = narrowed
    if by_external_id:
        found = f"{narrowed} AND {_LIVING} UNION ALL {narrowed} AND {_ENDED}"
    return text(_PAGE.format(found=found))


def select_page(wanted: PaymentFilter, *, goes_on: bool) -> TextClause:
    """Return the statement of a page, with only the conditions that were asked for: each finds its index.

    A status stands in it as a literal: the planner has to see that the partial index of its rows fits.
    """
    conditions = [_AFTER] if goes_on else []
    if wanted.status is not None:
        conditions.append(f"status = '{PaymentStatus(wanted.status)}'")
    if wanted.external_id is not None:
        conditions.append("external_id = :external_id")
    if wanted.created_from is not None:
        conditions.append("created_at >= :created_from")
    if wanted.created_to is not None:
        conditions.append("created_at < :created_to")
    return _statement(tuple(conditions), by_external_id=wanted.external_id is not None)


def timeline(
    connection: Connection, partner_id: str, payment_id: str, *, after: str | None, limit: int
) -> list[TimelineEvent]:
    """Return up to `limit` events, oldest first, after the event `after`: none if the payment has no such."""
    parameters = {"partner_id": partner_id, "payment_id": payment_id, "after": after, "limit": limit}
    return [
        TimelineEvent(row.event_id, row.event_type, row.created_at, _document(row.data), row.sequence)
        for row in connection.execute(SELECT_TIMELINE, parameters)
    ]


def _with_steps(rows: Iterable[Row[Any]]) -> list[StoredPayment]:
    """Return the payments of the joined rows, which come payment by payment, step by step."""
    stored: list[StoredPayment] = []
    for _, joined in groupby(rows, key=lambda row: row.payment_id):
        steps = list(joined)
        row = steps[0]
        operations = [
            make_operation(
                step, OperationStatus(step.step_status), step.step_amount_minor, step.step_created_at
            )
            for step in steps
        ]
        stored.append(
            StoredPayment(
                payment=payment_of(row),
                operations=operations,
                metadata=_document(row.metadata),
                receipt=row.receipt,
                sap_system=row.sap_system,
                is_recovered=row.recovered_at is not None,
            )
        )
    return stored


def _document(value: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(value) if isinstance(value, str) else value
    return document
