"""What the webhooks sweeper looks for: cursors behind their feed, deliveries that need a task or none.

Every function takes a connection inside the caller's transaction. Lists are paged by key, so that entries
that can't be helped now keep nobody else from being found.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from bridge.storage.prepared import Prepared

SELECT_PARTNERS_BEHIND = text("""
    /* partners with events that an endpoint has not been walked past, or with an endpoint without a cursor */
    SELECT partner_id FROM (
        SELECT cursors.partner_id
        FROM webhooks.cursors AS cursors JOIN feed_counters AS counter USING (partner_id)
        WHERE counter.last_sequence > cursors.sequence AND cursors.status <> 'deleted'
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
    /* deliveries whose task should have come by now; each further task waits twice as long as the last */
    UPDATE webhooks.deliveries AS delivery SET sweep = delivery.sweep + 1
    FROM (
        SELECT delivery_id FROM webhooks.deliveries
        WHERE status = 'pending' AND task = 'made' AND next_attempt_at <= :overdue_by
          AND next_attempt_at <= CAST(:now AS timestamptz)
              - make_interval(secs => CAST(:grace_seconds AS double precision)
                              * power(2, LEAST(sweep, :max_doublings)))
          AND (lease_until IS NULL OR lease_until <= :now)
        ORDER BY next_attempt_at LIMIT :limit
        FOR UPDATE SKIP LOCKED
    ) AS overdue
    WHERE delivery.delivery_id = overdue.delivery_id
    RETURNING delivery.delivery_id, delivery.attempts, delivery.sweep
""")

TAKE_WANTED = text("""
    /* deliveries that somebody has asked for: their tasks are to be made at once */
    UPDATE webhooks.deliveries AS delivery SET sweep = delivery.sweep + 1, task = 'made'
    FROM (
        SELECT delivery_id FROM webhooks.deliveries WHERE task = 'wanted'
        ORDER BY next_attempt_at LIMIT :limit
        FOR UPDATE SKIP LOCKED
    ) AS wanted
    WHERE delivery.delivery_id = wanted.delivery_id
    RETURNING delivery.delivery_id, delivery.attempts, delivery.sweep
""")

TAKE_WAITING = text("""
    /* the endpoint has room again: the longest waiting of its deliveries */
    UPDATE webhooks.deliveries AS delivery
    SET sweep = delivery.sweep + 1, task = 'made', next_attempt_at = :now
    FROM (
        SELECT delivery_id FROM webhooks.deliveries WHERE task = 'waiting' AND endpoint_id = :endpoint_id
        ORDER BY next_attempt_at LIMIT :limit
        FOR UPDATE SKIP LOCKED
    ) AS waiting
    WHERE delivery.delivery_id = waiting.delivery_id
    RETURNING delivery.delivery_id, delivery.attempts, delivery.sweep
""")

TAKE_FORGOTTEN = text("""
    /* whoever should have made these tasks has died: one waiting delivery of each endpoint starts again */
    UPDATE webhooks.deliveries AS delivery
    SET sweep = delivery.sweep + 1, task = 'made', next_attempt_at = :now
    FROM (
        SELECT oldest.delivery_id FROM webhooks.cursors AS cursor
        CROSS JOIN LATERAL (
            SELECT delivery_id FROM webhooks.deliveries
            WHERE task = 'waiting' AND endpoint_id = cursor.endpoint_id AND next_attempt_at <= :overdue_by
            ORDER BY next_attempt_at LIMIT 1
            FOR UPDATE SKIP LOCKED
        ) AS oldest
        LIMIT :limit
    ) AS waiting
    WHERE delivery.delivery_id = waiting.delivery_id
    RETURNING delivery.delivery_id, delivery.attempts, delivery.sweep
""")

RELEASE_HELD = text("""
    /* what was held for an endpoint that is enabled (again): due now, with the schedule from its beginning */
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
        WHERE cursor.status = 'enabled'
        LIMIT :limit
    ) AS released
    WHERE delivery.delivery_id = released.delivery_id
    RETURNING delivery.delivery_id
""")

END_GONE = text("""
    /* endpoints that a newer version of the document of their partner does not have any more */
    UPDATE webhooks.cursors AS cursor SET status = 'deleted', disabled_reason = NULL, failing_since = NULL
    FROM partner_configs AS configuration
    WHERE configuration.partner_id = cursor.partner_id AND cursor.status <> 'deleted'
      AND configuration.version > cursor.configuration_version
      AND NOT configuration.document -> 'webhook_endpoints'
              @> jsonb_build_array(jsonb_build_object('endpoint_id', cursor.endpoint_id))
    RETURNING cursor.endpoint_id
""")

CANCEL_DELETED = text("""
    /* what was still to be told to endpoints that are gone */
    UPDATE webhooks.deliveries AS delivery
    SET status = 'cancelled', next_attempt_at = NULL, lease_until = NULL, task = 'made'
    FROM (
        SELECT open.delivery_id FROM webhooks.cursors AS cursor
        CROSS JOIN LATERAL (
            SELECT delivery_id FROM webhooks.deliveries
            WHERE status IN ('pending', 'held') AND endpoint_id = cursor.endpoint_id
              AND (lease_until IS NULL OR lease_until <= :now)
            LIMIT :limit
            FOR UPDATE SKIP LOCKED
        ) AS open
        WHERE cursor.status = 'deleted'
        LIMIT :limit
    ) AS over
    WHERE delivery.delivery_id = over.delivery_id
    RETURNING delivery.delivery_id
""")

HOLD_WAITING = text("""
    /* what waits for an endpoint that was disabled meanwhile is held, as what has a task is when it comes.
       Nobody enables the endpoint meanwhile; one that is just being enabled is left alone */
    WITH disabled AS MATERIALIZED (
        SELECT endpoint_id FROM webhooks.cursors AS cursor
        WHERE status = 'disabled'
          AND EXISTS (SELECT FROM webhooks.deliveries
                      WHERE task = 'waiting' AND endpoint_id = cursor.endpoint_id AND event_id IS NOT NULL)
        LIMIT :limit
        FOR SHARE SKIP LOCKED
    ), waiting AS MATERIALIZED (
        SELECT oldest.delivery_id FROM disabled CROSS JOIN LATERAL (
            SELECT delivery_id FROM webhooks.deliveries
            WHERE task = 'waiting' AND endpoint_id = disabled.endpoint_id AND event_id IS NOT NULL
              AND (lease_until IS NULL OR lease_until <= :now)
            ORDER BY next_attempt_at LIMIT :limit
            FOR UPDATE SKIP LOCKED
        ) AS oldest
        LIMIT :limit
    )
    UPDATE webhooks.deliveries AS delivery
    SET status = 'held', next_attempt_at = NULL, lease_until = NULL, task = 'made'
    FROM waiting WHERE delivery.delivery_id = waiting.delivery_id
    RETURNING delivery.delivery_id
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
    connection: Connection,
    *,
    now: datetime,
    grace_seconds: float,
    max_doublings: int,
    limit: int,
) -> list[DueDelivery]:
    """Raise `sweep` of pending deliveries overdue by the grace and without a live lease, and return them.

    The grace doubles with each task that the sweeper makes for an attempt, `max_doublings` times.
    """
    rows = connection.execute(
        TAKE_OVERDUE,
        {
            "now": now,
            "overdue_by": now - timedelta(seconds=grace_seconds),
            "grace_seconds": grace_seconds,
            "max_doublings": max_doublings,
            "limit": limit,
        },
    )
    return [DueDelivery(row.delivery_id, row.attempts, row.sweep) for row in rows]


def take_wanted(connection: Connection, *, limit: int) -> list[DueDelivery]:
    """Raise `sweep` of deliveries that were asked for, and return them."""
    rows = connection.execute(TAKE_WANTED, {"limit": limit})
    return [DueDelivery(row.delivery_id, row.attempts, row.sweep) for row in rows]


def take_waiting(connection: Connection, endpoint_id: str, *, now: datetime, limit: int) -> list[DueDelivery]:
    """Raise `sweep` of the longest waiting deliveries of the endpoint, due now, and return them."""
    rows = _TAKE_WAITING.rows(connection, {"endpoint_id": endpoint_id, "now": now, "limit": limit})
    return [DueDelivery(*row) for row in rows]


def take_forgotten(
    connection: Connection, *, now: datetime, grace_seconds: float, limit: int
) -> list[DueDelivery]:
    """Return one waiting delivery of each endpoint that has let it wait for longer than the grace."""
    overdue_by = now - timedelta(seconds=grace_seconds)
    rows = connection.execute(TAKE_FORGOTTEN, {"now": now, "overdue_by": overdue_by, "limit": limit})
    return [DueDelivery(row.delivery_id, row.attempts, row.sweep) for row in rows]


def release_held(connection: Connection, *, now: datetime, limit: int) -> int:
    """Have up to `limit` held deliveries of enabled endpoints sent; return how many those were."""
    return len(connection.execute(RELEASE_HELD, {"now": now, "limit": limit}).all())


def end_gone(connection: Connection) -> list[str]:
    """End the cursors of endpoints that their partners' documents have lost; return their ids."""
    return list(connection.execute(END_GONE).scalars())


def hold_waiting(connection: Connection, *, now: datetime, limit: int) -> int:
    """Hold up to `limit` deliveries that wait for disabled endpoints; return how many those were."""
    return len(connection.execute(HOLD_WAITING, {"now": now, "limit": limit}).all())


def cancel_deleted(connection: Connection, *, now: datetime, limit: int) -> int:
    """Cancel up to `limit` open deliveries of deleted endpoints; return how many those were."""
    return len(connection.execute(CANCEL_DELETED, {"now": now, "limit": limit}).all())
