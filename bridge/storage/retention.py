"""Erasing what nobody needs any more: names, accounts, texts, SAP's documents and words, receipts.

Amounts, states, ids and events stay: they are the record. Payment ids are ordered by time, so the primary key
is walked page by page and no index is paid for at acceptance.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from bridge.ids import new_id

BEFORE_THE_FIRST = ""

SELECT_PAGE = text("""
    /* the next old payments, due or not: what one transaction looks at */
    SELECT payment_id FROM payments
    WHERE payment_id > :after AND payment_id <= :last_id
    ORDER BY payment_id LIMIT :limit
""")

LOCK_DUE = text("""
    /* those of the page with something left to erase and no step that goes on; who is at one keeps it */
    SELECT payment_id FROM payments AS payment
    WHERE payment_id = ANY(CAST(:payment_ids AS text[])) AND created_at <= :accepted_until
      AND (encrypted_parties IS NOT NULL OR receipt IS NOT NULL
           OR EXISTS (SELECT FROM operations AS operation WHERE operation.payment_id = payment.payment_id
                      AND (encrypted_document IS NOT NULL OR encrypted_sap_log IS NOT NULL)))
      AND NOT EXISTS (SELECT FROM operations AS operation WHERE operation.payment_id = payment.payment_id
                      AND operation.status NOT IN ('succeeded', 'rejected', 'cancelled'))
    ORDER BY payment_id FOR NO KEY UPDATE SKIP LOCKED
""")

ERASE_PAYMENTS = text("""
    /* erase what the partner handed over; judged again, as a step, or another job, may have come before the
       lock */
    UPDATE payments AS payment SET encrypted_parties = NULL, receipt = NULL
    WHERE payment_id = ANY(CAST(:payment_ids AS text[]))
      AND (encrypted_parties IS NOT NULL OR receipt IS NOT NULL
           OR EXISTS (SELECT FROM operations AS operation WHERE operation.payment_id = payment.payment_id
                      AND (encrypted_document IS NOT NULL OR encrypted_sap_log IS NOT NULL)))
      AND NOT EXISTS (SELECT FROM operations AS operation WHERE operation.payment_id = payment.payment_id
                      AND operation.status NOT IN ('succeeded', 'rejected', 'cancelled'))
    RETURNING payment_id
""")

ERASE_OPERATIONS = text("""
    /* erase what was sent to SAP and what SAP said */
    UPDATE operations SET encrypted_document = NULL, encrypted_sap_log = NULL
    WHERE payment_id = ANY(CAST(:payment_ids AS text[]))
      AND (encrypted_document IS NOT NULL OR encrypted_sap_log IS NOT NULL)
""")

FORGET_ASSERTIONS = text("""
    /* forget assertions whose time is over; the gateway forgets some as well, at the same time */
    DELETE FROM client_assertions
    WHERE (client_id, jti) IN (
        SELECT client_id, jti FROM client_assertions WHERE expires_at < :now
        ORDER BY expires_at LIMIT :limit FOR UPDATE SKIP LOCKED
    )
""")


@dataclass(frozen=True, slots=True)
class ErasedPage:
    """What was erased, and the last payment looked at; None after the last page."""

    payments: int
    operations: int
    last_payment_id: str | None


def erase_page(connection: Connection, *, accepted_until: datetime, after: str, limit: int) -> ErasedPage:
    """Erase what is due among the `limit` payments after `after` that were accepted by `accepted_until`.

    A payment that somebody has locked is left for the next run.
    """
    parameters = {"after": after, "last_id": new_id("pay", accepted_until), "limit": limit}
    page = list(connection.execute(SELECT_PAGE, parameters).scalars())
    due = {"payment_ids": page, "accepted_until": accepted_until}
    locked = list(connection.execute(LOCK_DUE, due).scalars())
    erased = list(connection.execute(ERASE_PAYMENTS, {"payment_ids": locked}).scalars()) if locked else []
    operations = connection.execute(ERASE_OPERATIONS, {"payment_ids": erased}).rowcount if erased else 0
    return ErasedPage(len(erased), operations, page[-1] if len(page) == limit else None)


def forget_assertions(connection: Connection, *, now: datetime, limit: int) -> int:
    """Delete up to `limit` client assertions that have expired; return how many that were."""
    return connection.execute(FORGET_ASSERTIONS, {"now": now, "limit": limit}).rowcount
