"""What the webhooks sweeper looks for: cursors behind their feed, deliveries that need a task or none.

Every function takes a connection inside the caller's transaction. Lists are paged by key, so that entries
that can't be helped now keep nobody else from being found.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from bridge.storage.prepared import Prepared
from bridge.storage.webhook_probes import MAX_PROBE_AHEAD

SELECT_PARTNERS_BEHIND = text("""
    /* partners with events that an endpoint has not been walked past, or with an endpoint without a cursor.
       One that fails is walked no further while deliveries wait to probe it */
    SELECT partner_id FROM (
        SELECT cursors.partner_id
        FROM webhooks.cursors AS cursors JOIN feed_counters AS counter USING (partner_id)
        WHERE counter.last_sequence > cursors.sequence AND cursors.status <> 'deleted'
          AND (cursors.status = 'disabled' OR cursors.probe_at IS NULL OR NOT EXISTS (
              SELECT FROM webhooks.deliveries AS waiting
              WHERE waiting.task = 'waiting' AND waiting.endpoint_id = cursors.endpoint_id))
        UNION
        SELECT configuration.partner_id
        FROM partner_configs AS configuration JOIN feed_counters AS counter USING (partner_id)
        CROSS JOIN LATERAL jsonb_path_query(configuration.document, '$.webhook_endpoints[*]') AS endpoint
        WHERE counter.last_sequence > COALESCE(CAST(endpoint ->> 'starts_after_sequence' AS bigint), 0)
          AND NOT EXISTS (SELECT FROM webhooks.cursors AS known
                          WHERE known.endpoint_id = endpoint ->> 'endpoint_id')
    ) AS behind
    WHERE partner_id > :after ORDER BY partner_id LIMIT :limit
""")

SELECT_PARTNERS_WITH_FEED = text("""
    /* all partners that have events, page by page: the mirror may not know of an endpoint yet */
    SELECT partner_id FROM feed_counters WHERE last_sequence > 0 AND partner_id > :after
    ORDER BY partner_id LIMIT :limit
""")

TAKE_OVERDUE = text("""
    /* deliveries whose task should have come by now. Those met for the first time, and those that have had
       their time since they were last met, each from their oldest on: a take moves a delivery to the end of
       its line. It waits for another as long as it has been overdue, so each wait is twice the last one. A
       claim takes it out of the line: a lease that has ended shows that the task is gone */
    WITH first_met AS MATERIALIZED (
        SELECT delivery_id FROM webhooks.deliveries
        WHERE status = 'pending' AND task = 'made' AND swept_until IS NULL AND next_attempt_at <= :overdue_by
          AND (lease_until IS NULL OR lease_until <= :now)
        ORDER BY next_attempt_at LIMIT :limit
        FOR UPDATE SKIP LOCKED
    ), met_again AS MATERIALIZED (
        SELECT delivery_id FROM webhooks.deliveries
        WHERE status = 'pending' AND task = 'made' AND swept_until <= :now AND next_attempt_at <= :overdue_by
          AND (lease_until IS NULL OR lease_until <= :now)
        ORDER BY swept_until LIMIT :limit
        FOR UPDATE SKIP LOCKED
    )
    UPDATE webhooks.deliveries AS delivery
    SET sweep = delivery.sweep + 1,
        swept_until = CAST(:now AS timestamptz) + LEAST(
            CAST(:now AS timestamptz) - delivery.next_attempt_at,
            make_interval(secs => CAST(:longest_wait_seconds AS double precision)))
    FROM (SELECT delivery_id FROM first_met UNION ALL SELECT delivery_id FROM met_again) AS overdue
    WHERE delivery.delivery_id = overdue.delivery_id
    RETURNING delivery.delivery_id, delivery.attempts, delivery.sweep
""")

TRY_SOON = text("""
    /* no task could be made for these: they are met again after the grace, however long they are overdue */
    UPDATE webhooks.deliveries SET swept_until = :until
    WHERE delivery_id = ANY(CAST(:delivery_ids AS text[])) AND swept_until > :until
""")

TAKE_WAITING = text("""
    /* the longest waiting of the deliveries of an endpoint that is to be probed */
    UPDATE webhooks.deliveries AS delivery
    SET sweep = delivery.sweep + 1, task = 'made', swept_until = NULL, next_attempt_at = :now
    FROM (
        SELECT delivery_id FROM webhooks.deliveries WHERE task = 'waiting' AND endpoint_id = :endpoint_id
        ORDER BY next_attempt_at LIMIT :limit
        FOR UPDATE SKIP LOCKED
    ) AS waiting
    WHERE delivery.delivery_id = waiting.delivery_id
    RETURNING delivery.delivery_id, delivery.attempts, delivery.sweep
""")

TAKE_FORGOTTEN = text("""
    /* whoever should have made these tasks has died: one waiting delivery of each endpoint starts
       again, a page of endpoints by id */
    UPDATE webhooks.deliveries AS delivery
    SET sweep = delivery.sweep + 1, task = 'made', swept_until = NULL, next_attempt_at = :now
    FROM (
        SELECT oldest.delivery_id FROM webhooks.cursors AS cursor
        CROSS JOIN LATERAL (
            SELECT delivery_id FROM webhooks.deliveries
            WHERE task = 'waiting' AND endpoint_id = cursor.endpoint_id AND next_attempt_at <= :overdue_by
            ORDER BY next_attempt_at LIMIT 1
            FOR UPDATE SKIP LOCKED
        ) AS oldest
        WHERE cursor.endpoint_id > :after
          AND (cursor.probe_at IS NULL OR cursor.probe_at <= :overdue_by OR cursor.probe_at > :possible_by)
        ORDER BY cursor.endpoint_id LIMIT :limit
    ) AS waiting
    WHERE delivery.delivery_id = waiting.delivery_id
    RETURNING delivery.delivery_id, delivery.attempts, delivery.sweep, delivery.endpoint_id
""")

RELEASE_HELD = text("""
    /* what was held for an endpoint that is enabled (again): due now, with the schedule from its beginning. A
       page of the next endpoints by id that have any */
    UPDATE webhooks.deliveries AS delivery
    SET status = 'pending', next_attempt_at = :now, attempts_before = attempts, task = 'wanted'
    FROM (
        SELECT held.delivery_id FROM webhooks.cursors AS cursor
        CROSS JOIN LATERAL (
            SELECT delivery_id FROM webhooks.deliveries
            WHERE status = 'held' AND endpoint_id = cursor.endpoint_id
            ORDER BY sequence LIMIT :limit
            FOR UPDATE SKIP LOCKED
        ) AS held
        WHERE cursor.status = 'enabled' AND cursor.endpoint_id > :after
        ORDER BY cursor.endpoint_id LIMIT :limit
    ) AS released
    WHERE delivery.delivery_id = released.delivery_id
    RETURNING delivery.endpoint_id
""")

HOLD_WAITING = text("""
    /* what waits for an endpoint that was disabled meanwhile is held, as what has a task is when it comes.
       Nobody enables the endpoint meanwhile; one that is just being enabled is left alone. A page of the next
       endpoints by id that have any */
    WITH disabled AS MATERIALIZED (
        SELECT endpoint_id FROM webhooks.cursors AS cursor
        WHERE status = 'disabled' AND endpoint_id > :after
          AND EXISTS (SELECT FROM webhooks.deliveries
                      WHERE task = 'waiting' AND endpoint_id = cursor.endpoint_id AND event_id IS NOT NULL)
        ORDER BY endpoint_id LIMIT :limit
        FOR SHARE SKIP LOCKED
    ), waiting AS MATERIALIZED (
        SELECT oldest.delivery_id FROM disabled CROSS JOIN LATERAL (
            SELECT delivery_id FROM webhooks.deliveries
            WHERE task = 'waiting' AND endpoint_id = disabled.endpoint_id AND event_id IS NOT NULL
              AND (lease_until IS NULL OR lease_until <= :now)
            ORDER BY next_attempt_at LIMIT :limit
            FOR UPDATE SKIP LOCKED
        ) AS oldest
        ORDER BY disabled.endpoint_id LIMIT :limit
    )
    UPDATE webhooks.deliveries AS delivery
    SET status = 'held', next_attempt_at = NULL, lease_until = NULL, task = 'made'
    FROM waiting WHERE delivery.delivery_id = waiting.delivery_id
    RETURNING delivery.endpoint_id
""")


_TAKE_WAITING = Prepared(TAKE_WAITING)


@dataclass(frozen=True, slots=True)
class DueDelivery:
    """A delivery that needs another task for its next attempt, under the name that `sweep` gives it."""

    delivery_id: str
    attempts: int
    sweep: int


def partners_behind(connection: Connection, *, after: str, limit: int) -> list[str]:
    """Return partners above `after` with something to fan out, as far as the mirror and the cursors tell."""
    rows = connection.execute(SELECT_PARTNERS_BEHIND, {"after": after, "limit": limit})
    return list(rows.scalars())


def partners_with_feed(connection: Connection, *, after: str, limit: int) -> list[str]:
    """Return partners above `after` that have any event."""
    rows = connection.execute(SELECT_PARTNERS_WITH_FEED, {"after": after, "limit": limit})
    return list(rows.scalars())


def take_overdue(
    connection: Connection, *, now: datetime, grace_seconds: float, longest_wait_seconds: float, limit: int
) -> list[DueDelivery]:
    """Raise `sweep` of pending deliveries overdue by the grace and without a live lease, and return them.

    Up to `limit` that are met for the first time, and as many that were met before. Each then waits for as
    long as it has been overdue, `longest_wait_seconds` at most.
    """
    rows = connection.execute(
        TAKE_OVERDUE,
        {
            "now": now,
            "overdue_by": now - timedelta(seconds=grace_seconds),
            "longest_wait_seconds": longest_wait_seconds,
            "limit": limit,
        },
    )
    return [DueDelivery(row.delivery_id, row.attempts, row.sweep) for row in rows]


def try_soon(connection: Connection, deliveries: Sequence[DueDelivery], *, until: datetime) -> None:
    """Have deliveries that were taken, and got no task, taken again after `until`."""
    ids = [delivery.delivery_id for delivery in deliveries]
    connection.execute(TRY_SOON, {"delivery_ids": ids, "until": until})


def take_waiting(connection: Connection, endpoint_id: str, *, now: datetime, limit: int) -> list[DueDelivery]:
    """Raise `sweep` of the longest waiting deliveries of the endpoint, due now, and return them."""
    rows = _TAKE_WAITING.rows(connection, {"endpoint_id": endpoint_id, "now": now, "limit": limit})
    return [DueDelivery(*row) for row in rows]


def take_forgotten(
    connection: Connection, *, now: datetime, grace_seconds: float, after: str, limit: int
) -> tuple[list[DueDelivery], list[str]]:
    """Return one waiting delivery of each endpoint that has let it wait for longer than the grace.

    A page of the endpoints above `after`; their ids come with it.
    """
    parameters = {
        "now": now,
        "overdue_by": now - timedelta(seconds=grace_seconds),
        "possible_by": now + MAX_PROBE_AHEAD,
        "after": after,
        "limit": limit,
    }
    rows = connection.execute(TAKE_FORGOTTEN, parameters).all()
    return [DueDelivery(row.delivery_id, row.attempts, row.sweep) for row in rows], [
        row.endpoint_id for row in rows
    ]


def release_held(connection: Connection, *, now: datetime, after: str, limit: int) -> list[str]:
    """Have up to `limit` held deliveries of enabled endpoints above `after` sent; return whose each was."""
    rows = connection.execute(RELEASE_HELD, {"now": now, "after": after, "limit": limit})
    return list(rows.scalars())


def hold_waiting(connection: Connection, *, now: datetime, after: str, limit: int) -> list[str]:
    """Hold up to `limit` deliveries that wait for disabled endpoints above `after`; return whose each was."""
    rows = connection.execute(HOLD_WAITING, {"now": now, "after": after, "limit": limit})
    return list(rows.scalars())
