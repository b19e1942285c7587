"""How long the feed is kept: its oldest rows go, in order, and never one that a webhook still needs.

The events themselves stay: they are the timeline and the audit of their payments. The counter stays too, so
numbering goes on, and a reader that asks for what is gone is told so (`feed-expired`).
"""

from datetime import datetime

from sqlalchemy import Connection, text

SELECT_PARTNERS = text("""
    /* partners that have a feed, page by page */
    SELECT partner_id FROM feed_counters WHERE partner_id > :after ORDER BY partner_id LIMIT :limit
""")

LOCK_FEED = text("""
    /* one job at a time shortens a feed: what a second one did behind it would leave a hole.
       Not by locking the counter, which the sequencer would then skip for as long as the page takes */
    SELECT pg_advisory_xact_lock(hashtextextended('feed of ' || :partner_id, 0))
""")

SELECT_OLDEST = text("""
    /* the oldest rows of the feed, in order */
    SELECT sequence FROM feed WHERE partner_id = :partner_id ORDER BY sequence LIMIT :limit
""")

DELETE_OLDEST = text("""
    /* of these rows, all before the first that is young, or that an endpoint has to pass or deliver yet */
    WITH needed AS (
        SELECT min(feed.sequence) AS sequence
        FROM feed JOIN events USING (event_id)
        WHERE feed.partner_id = :partner_id AND feed.sequence <= :last_sequence
          AND (events.created_at > :written_until
               OR EXISTS (SELECT FROM webhooks.cursors AS cursor
                          WHERE cursor.partner_id = :partner_id AND cursor.status <> 'deleted'
                            AND cursor.sequence < feed.sequence)
               OR EXISTS (SELECT FROM webhooks.cursors AS cursor
                          JOIN webhooks.deliveries AS delivery USING (endpoint_id)
                          WHERE cursor.partner_id = :partner_id AND cursor.status <> 'deleted'
                            AND delivery.event_id = feed.event_id
                            AND delivery.status IN ('pending', 'held')))
    )
    DELETE FROM feed
    WHERE partner_id = :partner_id AND feed.sequence <= :last_sequence
      AND feed.sequence < COALESCE((SELECT needed.sequence FROM needed), CAST(:last_sequence AS bigint) + 1)
    RETURNING sequence
""")

NOTE_EXPIRED = text("""
    /* so that nobody takes what was removed for a hole */
    INSERT INTO expired_feeds AS expired (partner_id, expired_to) VALUES (:partner_id, :expired_to)
    ON CONFLICT (partner_id) DO UPDATE SET expired_to = greatest(expired.expired_to, excluded.expired_to)
""")


def partners_with_feed(connection: Connection, *, after: str, limit: int) -> list[str]:
    """Return partners above `after` that have, or have had, any event."""
    return list(connection.execute(SELECT_PARTNERS, {"after": after, "limit": limit}).scalars())


def delete_oldest(connection: Connection, partner_id: str, *, written_until: datetime, limit: int) -> int:
    """Delete what nobody needs among the `limit` oldest rows of the partner's feed; return how many.

    Fewer than `limit` means that there is nothing more to delete now. Waits for another job at the same feed.
    """
    parameters = {"partner_id": partner_id, "limit": limit}
    connection.execute(LOCK_FEED, {"partner_id": partner_id})
    oldest = list(connection.execute(SELECT_OLDEST, parameters).scalars())
    if not oldest:
        return 0
    parameters |= {"last_sequence": oldest[-1], "written_until": written_until}
    deleted = list(connection.execute(DELETE_OLDEST, parameters).scalars())
    if deleted:
        connection.execute(NOTE_EXPIRED, {"partner_id": partner_id, "expired_to": max(deleted)})
    return len(deleted)
