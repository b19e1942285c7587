"""Finding what makes no progress, and putting it back on its way. Nothing here touches a live lease.

Candidates are locked with SKIP LOCKED: whoever holds an operation is making progress with it, and several
watchdogs at once share the work. Lock order: payment, operation, lane, slot, event.
"""

import zlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from bridge.clock import Earliest, Latest

MAX_REDISPATCH_SECONDS = 3600.0
JITTER = 0.1
# Enough to reach the maximum from any first interval; keeps 2**n a small number.
_MAX_DOUBLINGS = 20

LOCK_EXPIRED = text("""
    /* claims whose lease has ended with nothing recorded: the process died, or was frozen */
    SELECT operation_id, payment_id, sap_system, status, lease_until, settled_at,
           claims_started - claims_finished AS claims_unfinished, delayed_at
    FROM operations
    WHERE lease_until < :now AND status IN ('processing', 'unknown')
      AND (lease_until, operation_id) > (CAST(:after AS timestamptz), CAST(:after_id AS text))
    ORDER BY lease_until, operation_id LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
""")

END_EXPIRED = text("""
    /* SAP may have it: it is unknown until SAP has been asked, and a none counts only after settled_at */
    UPDATE operations
    SET status = 'unknown', lease_until = NULL, settled_at = :settled_at,
        none_seen_at = CASE WHEN status = 'unknown' THEN none_seen_at END, updated_at = :now
    WHERE operation_id = :operation_id
""")

LOCK_DISPATCHED = text("""
    /* published some time ago and never claimed; the exact moment is judged by the caller */
    SELECT operation_id, status, dispatched_at, dispatches_without_claim
    FROM operations
    WHERE dispatched_at IS NOT NULL AND (lease_until IS NULL OR lease_until < :now)
      AND dispatched_at <= CAST(:now AS timestamptz)
          - make_interval(secs => CAST(:shortest AS float8) * least(
              CAST(:first_seconds AS float8) * power(2, least(dispatches_without_claim, :max_doublings)),
              CAST(:max_seconds AS float8)))
      AND (dispatched_at, operation_id) > (CAST(:after AS timestamptz), CAST(:after_id AS text))
    ORDER BY dispatched_at, operation_id LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
""")

LOCK_UNCLAIMED = text("""
    /* published before then in these lanes and never claimed */
    SELECT operation_id FROM operations
    WHERE sap_system = ANY(CAST(:lanes AS text[])) AND dispatched_at < :before
      AND (lease_until IS NULL OR lease_until < :now) AND status IN ('scheduled', 'accepted', 'unknown')
    ORDER BY dispatched_at LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
""")

RELEASE_HELD = text("""
    /* what was parked because its partner was held, and is not any more: it goes on as if it were new. After
       a restore SAP may have it, and is asked first. It jumps from partner to partner by the index, so that
       the rows of a partner that is held are not read */
    WITH RECURSIVE partners AS (
        (SELECT partner_id FROM operations WHERE status = 'parked' AND parked_reason = 'partner-held'
         ORDER BY partner_id LIMIT 1)
        UNION ALL
        SELECT (SELECT operations.partner_id FROM operations
                WHERE operations.status = 'parked' AND operations.parked_reason = 'partner-held'
                  AND operations.partner_id > partners.partner_id
                ORDER BY operations.partner_id LIMIT 1)
        FROM partners WHERE partners.partner_id IS NOT NULL
    ), operation AS (
        UPDATE operations
        SET status = CASE WHEN sent_unresolved THEN 'unknown' ELSE 'accepted' END, parked_reason = NULL,
            updated_at = :now
        WHERE operation_id IN (
            SELECT released.operation_id
            FROM partners JOIN partner_configs AS partner USING (partner_id)
            CROSS JOIN LATERAL (
                SELECT parked.operation_id FROM operations AS parked
                WHERE parked.status = 'parked' AND parked.parked_reason = 'partner-held'
                  AND parked.partner_id = partners.partner_id
                  AND NOT EXISTS (
                      SELECT FROM operations AS earlier
                      WHERE earlier.payment_id = parked.payment_id AND earlier.position < parked.position
                        AND earlier.status NOT IN ('succeeded', 'rejected', 'cancelled'))
                ORDER BY parked.updated_at LIMIT :limit
                FOR NO KEY UPDATE SKIP LOCKED
            ) AS released
            WHERE coalesce(partner.document ->> 'posting', 'active') <> 'held'
            LIMIT :limit
        )
        RETURNING operation_id, sap_system, partner_id, traceparent
    )
    INSERT INTO outbox (lane, partner_id, operation_id, not_before, is_returned, traceparent, created_at)
    SELECT sap_system, partner_id, operation_id, :now, true, traceparent, :now FROM operation
    ON CONFLICT (operation_id) WHERE operation_id IS NOT NULL DO UPDATE
    SET not_before = excluded.not_before, is_returned = true, claim_id = NULL, lease_until = NULL
""")

BEGIN_DAY = text("""
    /* scheduled payments whose day has come: they wait for SAP like any other from now on, or are with it
       already. By the index of the moment at which the day begins where the payment is */
    WITH due AS MATERIALIZED (
        SELECT payment.payment_id
        FROM payments AS payment
        JOIN operations AS step ON step.payment_id = payment.payment_id AND step.position = 1
        WHERE payment.status = 'scheduled'
          AND CAST(payment.requested_execution_date AS timestamp) AT TIME ZONE payment.time_zone <= :now
          AND step.due_at <= :now
        ORDER BY CAST(payment.requested_execution_date AS timestamp) AT TIME ZONE payment.time_zone
        LIMIT :limit
        FOR NO KEY UPDATE OF payment SKIP LOCKED
    ), step AS (
        UPDATE operations SET status = 'accepted', updated_at = :now FROM due
        WHERE operations.payment_id = due.payment_id AND position = 1 AND status = 'scheduled'
    )
    UPDATE payments SET status = 'accepted', updated_at = :now FROM due
    WHERE payments.payment_id = due.payment_id
    RETURNING payments.payment_id
""")

RECALL = text("""
    /* it is not out any more; nobody has claimed it this often now */
    UPDATE operations SET dispatched_at = NULL, dispatches_without_claim = dispatches_without_claim + :lost
    WHERE operation_id = :operation_id
""")

SELECT_WAITING = text("""
    /* a page of everything that waits, to find what nothing would move any more: what is not queued, or is
       without a date although nothing before it is unfinished. A scheduled payment waits since its day has
       come, and so does what is to follow it. The outbox is looked into row by row: as a plain NOT EXISTS it
       would be read from end to end for each page */
    WITH page AS MATERIALIZED (
        SELECT operation_id, payment_id, position, greatest(created_at, due_at) AS waits_since, status,
               delayed_at,
               dispatched_at IS NULL AND lease_until IS NULL
                   AND status IN ('scheduled', 'accepted', 'unknown') AS is_idle
        FROM operations
        WHERE status IN ('scheduled', 'accepted', 'processing', 'unknown', 'parked')
          AND (greatest(created_at, due_at), operation_id) > (:after_since, :after_id)
        ORDER BY greatest(created_at, due_at), operation_id LIMIT :limit
    )
    SELECT page.operation_id, page.waits_since, page.status, page.delayed_at,
           page.is_idle AND queued.not_before IS NULL AND NOT EXISTS (
               SELECT FROM operations AS earlier
               WHERE earlier.payment_id = page.payment_id AND earlier.position < page.position
                 AND earlier.status NOT IN ('succeeded', 'rejected', 'cancelled')
           ) AS is_stranded
    FROM page LEFT JOIN LATERAL (
        SELECT not_before FROM outbox WHERE outbox.operation_id = page.operation_id LIMIT 1
    ) AS queued ON true
    ORDER BY page.waits_since, page.operation_id
""")

LOCK_IDLE = text("""
    /* the operation, if nobody is at it or has just moved it */
    SELECT operation_id FROM operations
    WHERE operation_id = :operation_id AND dispatched_at IS NULL AND lease_until IS NULL
      AND status IN ('scheduled', 'accepted', 'unknown')
    FOR NO KEY UPDATE SKIP LOCKED
""")

WILL_MOVE = text("""
    /* whether it is queued, or waits for a step before it: a statement of its own, whose snapshot sees what
       the last holder has written */
    SELECT EXISTS (SELECT FROM outbox WHERE operation_id = :operation_id AND not_before IS NOT NULL)
        OR EXISTS (
            SELECT FROM operations AS step JOIN operations AS earlier USING (payment_id)
            WHERE step.operation_id = :operation_id AND earlier.position < step.position
              AND earlier.status NOT IN ('succeeded', 'rejected', 'cancelled'))
""")

MARK_DELAYED = text("""
    /* the partner is told once. The payment is locked as well: while the step before this one ends, the event
       would show a payment that is older than the event before it. Nothing waits, so no order is broken */
    UPDATE operations SET delayed_at = :now
    WHERE operation_id IN (
        SELECT operation_id FROM operations JOIN payments USING (payment_id)
        WHERE operation_id = :operation_id AND delayed_at IS NULL
          AND operations.status IN ('scheduled', 'accepted', 'processing', 'unknown', 'parked')
        FOR NO KEY UPDATE SKIP LOCKED
    )
    RETURNING payment_id
""")


@dataclass(frozen=True, slots=True)
class ExpiredClaim:
    """A claim that will not be recorded any more; its operation is locked."""

    operation_id: str
    payment_id: str
    sap_system: str
    status: str
    lease_until: Latest
    settled_at: Latest | None
    claims_unfinished: int
    delayed_at: datetime | None


@dataclass(frozen=True, slots=True)
class DispatchedOperation:
    """A dispatch that nobody has claimed yet; its operation is locked."""

    operation_id: str
    status: str
    dispatched_at: datetime
    dispatches_without_claim: int

    def redispatch_at(self, first_seconds: float) -> datetime:
        """Return when it goes out again: after 1, 2, 4 … times `first_seconds`, an hour at most.

        The jitter is the operation's own, so that looking twice gives the same answer.
        """
        doublings = min(self.dispatches_without_claim, _MAX_DOUBLINGS)
        seconds = min(first_seconds * float(2**doublings), MAX_REDISPATCH_SECONDS)
        seed = f"{self.operation_id}/{self.dispatches_without_claim}".encode()
        spread = zlib.crc32(seed) / 0xFFFFFFFF * 2 - 1
        return self.dispatched_at + timedelta(seconds=seconds * (1 + JITTER * spread))


@dataclass(frozen=True, slots=True)
class WaitingOperation:
    """An operation without an end. `is_stranded`: nothing is under way that would move it.

    `waits_since`: when it was accepted, or the later day that the payment is wanted for.
    """

    operation_id: str
    waits_since: datetime
    status: str
    delayed_at: datetime | None
    is_stranded: bool


def lock_expired_claims(
    connection: Connection, *, after: tuple[datetime, str], limit: int, now: Earliest
) -> list[ExpiredClaim]:
    """Return claims above `after`, which is (lease_until, operation_id), whose lease has ended."""
    parameters = {"after": after[0], "after_id": after[1], "limit": limit, "now": now}
    rows = connection.execute(LOCK_EXPIRED, parameters)
    return [ExpiredClaim(*row) for row in rows]


def end_expired_claim(
    connection: Connection, operation_id: str, *, settled_at: Latest | None, now: datetime
) -> None:
    """Let the operation be unknown; `claims_finished` stays, which is how poison is noticed."""
    parameters = {"operation_id": operation_id, "settled_at": settled_at, "now": now}
    connection.execute(END_EXPIRED, parameters)


def lock_dispatched(
    connection: Connection, *, first_seconds: float, after: tuple[datetime, str], limit: int, now: datetime
) -> list[DispatchedOperation]:
    """Return dispatches above `after`, which is (dispatched_at, operation_id), that are due again.

    By the shortest interval that the jitter allows: some are due only soon.
    """
    rows = connection.execute(
        LOCK_DISPATCHED,
        {
            "first_seconds": first_seconds,
            "max_seconds": MAX_REDISPATCH_SECONDS,
            "max_doublings": _MAX_DOUBLINGS,
            "shortest": 1 - JITTER,
            "after": after[0],
            "after_id": after[1],
            "limit": limit,
            "now": now,
        },
    )
    return [DispatchedOperation(*row) for row in rows]


def lock_unclaimed(
    connection: Connection, lanes: Collection[str], *, before: datetime, limit: int, now: datetime
) -> list[str]:
    """Return the operations of the lanes that went out before then and that nobody has claimed."""
    parameters = {"lanes": list(lanes), "before": before, "limit": limit, "now": now}
    return list(connection.execute(LOCK_UNCLAIMED, parameters).scalars())


def recall(connection: Connection, operation_id: str, *, is_lost: bool) -> None:
    """Take the operation off those that are out; `is_lost`: because nobody has claimed it in time."""
    connection.execute(RECALL, {"operation_id": operation_id, "lost": int(is_lost)})


def waiting_page(
    connection: Connection, *, after: tuple[datetime, str], limit: int
) -> list[WaitingOperation]:
    """Return the next operations without an end, by (waits_since, operation_id)."""
    parameters = {"after_since": after[0], "after_id": after[1], "limit": limit}
    return [WaitingOperation(*row) for row in connection.execute(SELECT_WAITING, parameters)]


def begin_day(connection: Connection, *, limit: int, now: datetime) -> int:
    """Have up to `limit` scheduled payments accepted whose day has come; return how many those were."""
    return len(connection.execute(BEGIN_DAY, {"limit": limit, "now": now}).all())


def release_held(connection: Connection, *, limit: int, now: datetime) -> int:
    """Let operations of partners that are not held any more go on; return how many did."""
    return connection.execute(RELEASE_HELD, {"limit": limit, "now": now}).rowcount


def lock_stranded(connection: Connection, operation_id: str) -> bool:
    """Return whether nothing moves the operation, and keep it locked if so."""
    parameters = {"operation_id": operation_id}
    if connection.execute(LOCK_IDLE, parameters).scalar() is None:
        return False
    return not connection.execute(WILL_MOVE, parameters).scalar_one()


def mark_delayed(connection: Connection, operation_id: str, *, now: datetime) -> str | None:
    """Return the payment's id if the delay has still to be told (the operation is then locked)."""
    payment_id: str | None = connection.execute(
        MARK_DELAYED, {"operation_id": operation_id, "now": now}
    ).scalar_one_or_none()
    return payment_id
