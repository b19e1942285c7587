"""Erasing what nobody needs any more: names, accounts, texts, SAP's documents and words, receipts.

Amounts, states, ids and events stay: they are the record. Payment ids are ordered by time, so the primary key
is walked page by page and no index is paid for at acceptance. The walk goes on where the last run stopped
and keeps the ids of those that it had to pass: each payment is read once, and again only until it is erased.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from bridge.ids import new_id

BEFORE_THE_FIRST = ""

LOCK_WALK = text("""
    /* how far the walk has come; one page at a time, by whichever job */
    SELECT walked_to FROM erasure_walk FOR UPDATE
""")

MOVE_WALK = text("""
    /* everything up to here was erased, or is kept as passed */
    UPDATE erasure_walk SET walked_to = :walked_to
""")

PASS_BY = text("""
    /* those that are not erased yet: they are tried again by each run */
    INSERT INTO erasure_passed (payment_id)
    SELECT payment_id FROM payments AS payment
    WHERE payment_id = ANY(CAST(:payment_ids AS text[]))
      AND (encrypted_parties IS NOT NULL OR receipt IS NOT NULL
           OR EXISTS (SELECT FROM operations AS operation WHERE operation.payment_id = payment.payment_id
                      AND (encrypted_document IS NOT NULL OR encrypted_sap_log IS NOT NULL)))
    ON CONFLICT (payment_id) DO NOTHING
""")

SELECT_PASSED = text("""
    /* a page of those that earlier runs had to pass */
    SELECT payment_id FROM erasure_passed WHERE payment_id > :after ORDER BY payment_id LIMIT :limit
""")

FORGET_PASSED = text("""
    /* erased */
    DELETE FROM erasure_passed WHERE payment_id = ANY(CAST(:payment_ids AS text[]))
""")

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
    """What was erased. `is_last`: no further page is due."""

    payments: int
    operations: int
    is_last: bool


def next_page(connection: Connection, *, accepted_until: datetime, limit: int) -> list[str]:
    """Return the next payments of the walk that were accepted by then. The walk is locked."""
    after = connection.execute(LOCK_WALK).scalar_one()
    parameters = {"after": after, "last_id": new_id("pay", accepted_until), "limit": limit}
    return list(connection.execute(SELECT_PAGE, parameters).scalars())


def pass_page(connection: Connection, page: Sequence[str]) -> None:
    """Move the walk behind the page; those of it that are not erased are tried again by the next run."""
    if page:
        connection.execute(PASS_BY, {"payment_ids": list(page)})
        connection.execute(MOVE_WALK, {"walked_to": page[-1]})


def erase_page(connection: Connection, *, accepted_until: datetime, limit: int) -> ErasedPage:
    """Erase what is due in the next page of the walk.

    A payment that somebody has locked, or that has a step that goes on, is passed.
    """
    page = next_page(connection, accepted_until=accepted_until, limit=limit)
    payments, operations = erase(connection, page, accepted_until=accepted_until)
    pass_page(connection, page)
    return ErasedPage(payments, operations, is_last=len(page) < limit)


def passed_page(connection: Connection, *, after: str, limit: int) -> list[str]:
    """Return payments above `after` that earlier runs had to pass."""
    return list(connection.execute(SELECT_PASSED, {"after": after, "limit": limit}).scalars())


def erase_passed(
    connection: Connection, payment_ids: Sequence[str], *, accepted_until: datetime
) -> ErasedPage:
    """Erase those that were passed and are due now."""
    payments, operations = erase(connection, payment_ids, accepted_until=accepted_until)
    connection.execute(FORGET_PASSED, {"payment_ids": list(payment_ids)})
    connection.execute(PASS_BY, {"payment_ids": list(payment_ids)})
    return ErasedPage(payments, operations, is_last=False)


def erase(connection: Connection, payment_ids: Sequence[str], *, accepted_until: datetime) -> tuple[int, int]:
    """Erase those of the payments that are due; return how many payments and operations those were."""
    due = {"payment_ids": list(payment_ids), "accepted_until": accepted_until}
    locked = list(connection.execute(LOCK_DUE, due).scalars())
    erased = list(connection.execute(ERASE_PAYMENTS, {"payment_ids": locked}).scalars()) if locked else []
    operations = connection.execute(ERASE_OPERATIONS, {"payment_ids": erased}).rowcount if erased else 0
    return len(erased), operations


def forget_assertions(connection: Connection, *, now: datetime, limit: int) -> int:
    """Delete up to `limit` client assertions that have expired; return how many that were."""
    return connection.execute(FORGET_ASSERTIONS, {"now": now, "limit": limit}).rowcount
