"""What operators look at: everything that waits, one payment with all that is known of it, the trail.

Nothing here reads what is encrypted; of a document only whether there is one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from bridge.clock import rfc3339
from bridge.money import Money

MAX_HISTORY = 200

FIND_OPERATION = text("""
    /* the payment of an operation */
    SELECT payment_id, operation_id FROM operations WHERE operation_id = :target
""")

FIND_PAYMENT = text("""
    /* the step of the payment that is at work or next, or if all have ended the last one */
    SELECT payment_id, operation_id FROM operations WHERE payment_id = :target
    ORDER BY status IN ('succeeded', 'rejected', 'cancelled'),
             CASE WHEN status IN ('succeeded', 'rejected', 'cancelled') THEN -position ELSE position END
    LIMIT 1
""")

SELECT_WAITING = text("""
    /* a page of what has not ended, oldest first */
    SELECT operation.*, payment.currency, payment.external_id, outbox.not_before,
           outbox.operation_id IS NOT NULL AS is_queued
    FROM operations AS operation JOIN payments AS payment USING (payment_id)
    LEFT JOIN outbox ON outbox.operation_id = operation.operation_id
    WHERE operation.status IN ('scheduled', 'accepted', 'processing', 'unknown', 'parked')
      AND operation.status = ANY(CAST(:statuses AS text[]))
      AND (operation.created_at, operation.operation_id)
          > (CAST(:after_created_at AS timestamptz), CAST(:after_id AS text))
      AND operation.created_at < CAST(:created_before AS timestamptz)
      AND (NOT CAST(:delayed AS boolean) OR operation.delayed_at IS NOT NULL)
      AND (CAST(:partner_id AS text) IS NULL OR operation.partner_id = :partner_id)
      AND (CAST(:sap_system AS text) IS NULL OR operation.sap_system = :sap_system)
    ORDER BY operation.created_at, operation.operation_id LIMIT :limit
""")

SELECT_PAYMENT = text("""
    /* a payment, whoever owns it */
    SELECT payment_id, partner_id, external_id, status, currency, amount_minor, captured_minor,
           refunded_minor, capture, requested_execution_date, sap_system, company_code, time_zone,
           encrypted_parties IS NULL AS is_erased, created_at, updated_at
    FROM payments WHERE payment_id = :payment_id
""")

SELECT_STEPS = text("""
    /* all steps of a payment, in their order */
    SELECT operation.*, payment.currency, payment.external_id, outbox.not_before,
           outbox.operation_id IS NOT NULL AS is_queued
    FROM operations AS operation JOIN payments AS payment USING (payment_id)
    LEFT JOIN outbox ON outbox.operation_id = operation.operation_id
    WHERE operation.payment_id = :payment_id ORDER BY operation.position
""")

SELECT_EVENTS = text("""
    /* the timeline of a payment, oldest first */
    SELECT event_id, operation_id, event_type, created_at FROM events
    WHERE payment_id = :payment_id ORDER BY identity LIMIT :limit
""")

SELECT_AUDIT = text("""
    /* what operators did, newest first; to these subjects, or to anything */
    SELECT identity, actor, action, subject, reason, created_at FROM audit
    WHERE CAST(:subjects AS text[]) IS NULL OR subject = ANY(CAST(:subjects AS text[]))
    ORDER BY identity DESC LIMIT :limit
""")


@dataclass(frozen=True, slots=True)
class Target:
    """The operation that an operator's id leads to."""

    payment_id: str
    operation_id: str


@dataclass(frozen=True, slots=True)
class WaitingFilter:
    """What the list of waiting operations is narrowed to. `after`: the last one of the page before."""

    statuses: Sequence[str]
    created_before: datetime
    after: tuple[datetime, str]
    delayed: bool = False
    partner_id: str | None = None
    sap_system: str | None = None


def find_target(connection: Connection, target: str) -> Target | None:
    """Return what an operation's or a payment's id leads to."""
    statement = FIND_PAYMENT if target.startswith("pay_") else FIND_OPERATION
    row = connection.execute(statement, {"target": target}).one_or_none()
    return None if row is None else Target(row.payment_id, row.operation_id)


def waiting_operations(
    connection: Connection, wanted: WaitingFilter, *, limit: int
) -> tuple[list[dict[str, Any]], tuple[datetime, str] | None]:
    """Return a page, oldest first, and where the next one begins (None after the last)."""
    parameters = {
        "statuses": list(wanted.statuses),
        "created_before": wanted.created_before,
        "after_created_at": wanted.after[0],
        "after_id": wanted.after[1],
        "delayed": wanted.delayed,
        "partner_id": wanted.partner_id,
        "sap_system": wanted.sap_system,
        "limit": limit + 1,
    }
    rows = connection.execute(SELECT_WAITING, parameters).all()
    page = rows[:limit]
    more = (page[-1].created_at, page[-1].operation_id) if len(rows) > limit else None
    return [_operation(row) for row in page], more


def payment_view(connection: Connection, payment_id: str) -> dict[str, Any] | None:
    """Return all there is about a payment but names, accounts, texts and documents."""
    row = connection.execute(SELECT_PAYMENT, {"payment_id": payment_id}).one_or_none()
    if row is None:
        return None
    steps = connection.execute(SELECT_STEPS, {"payment_id": payment_id}).all()
    events = connection.execute(SELECT_EVENTS, {"payment_id": payment_id, "limit": MAX_HISTORY})
    subjects = [payment_id, *(step.operation_id for step in steps)]
    return {
        "id": row.payment_id,
        "partner_id": row.partner_id,
        "external_id": row.external_id,
        "status": row.status,
        "amount": Money(row.amount_minor, row.currency).as_json(),
        "captured": Money(row.captured_minor, row.currency).as_json(),
        "refunded": Money(row.refunded_minor, row.currency).as_json(),
        "capture": row.capture,
        "requested_execution_date": row.requested_execution_date and row.requested_execution_date.isoformat(),
        "sap_system": row.sap_system,
        "company_code": row.company_code,
        "time_zone": row.time_zone,
        "has_parties": not row.is_erased,
        "created_at": rfc3339(row.created_at),
        "updated_at": rfc3339(row.updated_at),
        "operations": [_operation(step) for step in steps],
        "events": [
            {
                "id": event.event_id,
                "operation_id": event.operation_id,
                "type": event.event_type,
                "timestamp": rfc3339(event.created_at),
            }
            for event in events
        ],
        "audit": audit_trail(connection, subjects, limit=MAX_HISTORY),
    }


def audit_trail(
    connection: Connection, subjects: Sequence[str] | None, *, limit: int
) -> list[dict[str, Any]]:
    """Return what was done by hand, newest first."""
    parameters = {"subjects": list(subjects) if subjects is not None else None, "limit": limit}
    return [
        {
            "actor": row.actor,
            "action": row.action,
            "subject": row.subject,
            "reason": row.reason,
            "created_at": rfc3339(row.created_at),
        }
        for row in connection.execute(SELECT_AUDIT, parameters)
    ]


def _operation(row: Row[tuple[object, ...]]) -> dict[str, Any]:
    document = None
    if row.sap_document_number is not None:
        document = {
            "company_code": row.sap_company_code,
            "fiscal_year": row.sap_fiscal_year,
            "number": row.sap_document_number,
        }
    return {
        "id": row.operation_id,
        "payment_id": row.payment_id,
        "partner_id": row.partner_id,
        "external_id": row.external_id,
        "position": row.position,
        "kind": row.kind,
        "status": row.status,
        "amount": Money(row.amount_minor, row.currency).as_json(),
        "sap_system": row.sap_system,
        "sap_reference": row.sap_reference,
        "sap_document": document,
        "parked_reason": row.parked_reason,
        "found_documents": row.found_documents.split(",") if row.found_documents else [],
        "operator_decision": row.operator_decision,
        "failure": row.failure_code and {"code": row.failure_code, "message": row.failure_message},
        "sent_unresolved": row.sent_unresolved,
        "has_document": row.encrypted_document is not None,
        "posting_date": row.posting_date.isoformat() if row.posting_date else None,
        "generation": row.generation,
        "attempts": row.attempts,
        "claims_started": row.claims_started,
        "claims_finished": row.claims_finished,
        "is_queued": row.is_queued,
        **{
            name: rfc3339(moment) if moment else None
            for name, moment in (
                ("not_before", row.not_before),
                ("dispatched_at", row.dispatched_at),
                ("lease_until", row.lease_until),
                ("settled_at", row.settled_at),
                ("none_seen_at", row.none_seen_at),
                ("delayed_at", row.delayed_at),
                ("created_at", row.created_at),
                ("updated_at", row.updated_at),
                ("completed_at", row.completed_at),
            )
        },
    }
