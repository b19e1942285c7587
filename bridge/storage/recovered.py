"""What a recovery changes before it looks at documents: where feeds go on, what SAP is asked about first.

Every function takes a connection inside the caller's transaction. Lock order: recovery, operation.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from bridge.storage.events import put_back

# More events than a partner can have had in the time that was lost.
FEED_JUMP = 1_000_000


@dataclass(frozen=True, slots=True)
class FeedStart:
    """Where feeds go on after a restore: above `floor`, in `epoch`.

    Both come from the time at which the recovery began, because an earlier recovery may have been lost as
    well: its numbers are lower as long as a feed has less than an event per millisecond.
    """

    floor: int
    epoch: int

    @classmethod
    def at(cls, started_at: datetime) -> "FeedStart":
        seconds = started_at.timestamp()
        return cls(floor=int(seconds * 1000), epoch=int(seconds))


SELECT_PARTNERS = text("""
    /* every partner that this database has heard of */
    SELECT partner_id FROM partner_configs UNION SELECT partner_id FROM feed_counters
    UNION SELECT partner_id FROM outbox WHERE lane = 'events' AND sequence IS NULL
""")

RESUME_FEEDS = text("""
    /* a new epoch above a jump: no number is given twice, and nobody waits for those that were lost */
    INSERT INTO feed_counters (partner_id, last_sequence, epoch, jumped_from, jumped_to)
    SELECT partner_id, :floor, :epoch, 0, :floor
    FROM unnest(CAST(:partner_ids AS text[])) AS partner (partner_id)
    ON CONFLICT (partner_id) DO UPDATE
    SET last_sequence = greatest(feed_counters.last_sequence + :jump, excluded.last_sequence),
        epoch = greatest(feed_counters.epoch + 1, excluded.epoch),
        jumped_from = CASE WHEN feed_counters.last_sequence = feed_counters.jumped_to
                      THEN feed_counters.jumped_from ELSE feed_counters.last_sequence END,
        jumped_to = greatest(feed_counters.last_sequence + :jump, excluded.last_sequence)
""")

LOCK_UNFINISHED = text("""
    /* the next unfinished operations of the backup; before its day nobody can have sent anything of a
       scheduled payment */
    SELECT operation.operation_id
    FROM operations AS operation JOIN payments AS payment USING (payment_id)
    WHERE operation.status IN ('scheduled', 'accepted', 'processing', 'unknown', 'parked')
      AND (operation.created_at, operation.operation_id) > (
          SELECT coalesce(max(created_at), '-infinity'), CAST(:after AS text)
          FROM operations WHERE operation_id = :after
      )
      AND operation.created_at <= :until
      AND (payment.status <> 'scheduled' OR payment.requested_execution_date IS NULL
           OR CAST(payment.requested_execution_date AS timestamp) AT TIME ZONE payment.time_zone <= :until)
    ORDER BY operation.created_at, operation.operation_id LIMIT :limit
    FOR NO KEY UPDATE OF operation
""")

MARK = text("""
    /* SAP may have it: it is asked when its turn comes. What an operator has parked stays parked till then,
       without the documents that SAP listed before the backup: there may be others by now.
       A call may run until its lease ends, and is settled so much later */
    UPDATE operations AS operation
    SET status = CASE WHEN status = 'parked' OR EXISTS (
            SELECT FROM operations AS earlier
            WHERE earlier.payment_id = operation.payment_id AND earlier.position < operation.position
              AND earlier.status NOT IN ('succeeded', 'rejected', 'cancelled')
        ) THEN status ELSE 'unknown' END,
        sent_unresolved = true,
        settled_at = greatest(settled_at, CAST(:settled_at AS timestamptz),
                              lease_until + make_interval(secs => CAST(:settling_seconds AS float8))),
        found_documents = NULL, none_seen_at = NULL, lease_until = NULL,
        dispatched_at = NULL, dispatches_without_claim = 0,
        claims_finished = claims_started, updated_at = :now
    WHERE operation_id = ANY(CAST(:operation_ids AS text[]))
    RETURNING operation_id, status
""")


def known_partners(connection: Connection) -> list[str]:
    return list(connection.execute(SELECT_PARTNERS).scalars())


def resume_feeds(connection: Connection, start: FeedStart) -> int:
    """Let every feed go on above a jump, in a new epoch; return how many that were."""
    partner_ids = sorted(known_partners(connection))
    parameters = {"partner_ids": partner_ids, "jump": FEED_JUMP, "floor": start.floor, "epoch": start.epoch}
    connection.execute(RESUME_FEEDS, parameters)
    return len(partner_ids)


def mark_page(
    connection: Connection, *, after: str, until: datetime, settling: timedelta, limit: int, now: datetime
) -> list[str]:
    """Have SAP asked about the next unfinished operations that were accepted by `until`; return their ids.

    `until` is when the recovery began; what was called by then has settled after `settling`.
    """
    parameters = {"after": after, "until": until, "limit": limit}
    page = list(connection.execute(LOCK_UNFINISHED, parameters).scalars())
    times = {
        "settled_at": until + settling, "settling_seconds": settling.total_seconds(), "now": now
    }  # fmt: skip
    marked = connection.execute(MARK, {"operation_ids": page} | times).all()
    for row in marked:
        if row.status == "unknown":
            put_back(connection, row.operation_id, not_before=now, now=now)
    return page
