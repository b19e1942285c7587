"""What the webhooks sweeper looks for: cursors behind their feed, and deliveries whose task has vanished.

Every function takes a connection inside the caller's transaction. Lists are paged by key, so that entries
that can't be helped now keep nobody else from being found.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

SELECT_PARTNERS_BEHIND = text("""
    /* partners with events that an endpoint has not been walked past, or with an endpoint without a cursor */
    SELECT partner_id FROM (
        SELECT cursors.partner_id
        FROM webhooks.cursors AS cursors JOIN feed_counters AS counter USING (partner_id)
        WHERE counter.last_sequence > cursors.sequence
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
        WHERE status = 'pending' AND next_attempt_at <= :overdue_by
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


@dataclass(frozen=True, slots=True)
class OverdueDelivery:
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
) -> list[OverdueDelivery]:
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
    return [OverdueDelivery(row.delivery_id, row.attempts, row.sweep) for row in rows]
