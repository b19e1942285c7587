"""The feed: every partner's events numbered without gaps, and read by page."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

PARTNERS_TO_SEQUENCE = text("""
    /* who has events without a number; jumps from partner to partner by the index */
    WITH RECURSIVE partners AS (
        (SELECT partner_id FROM outbox WHERE lane = 'events' AND sequence IS NULL
         ORDER BY partner_id LIMIT 1)
        UNION ALL
        SELECT (SELECT outbox.partner_id FROM outbox
                WHERE outbox.lane = 'events' AND outbox.sequence IS NULL
                  AND outbox.partner_id > partners.partner_id
                ORDER BY outbox.partner_id LIMIT 1)
        FROM partners WHERE partners.partner_id IS NOT NULL
    )
    SELECT partner_id FROM partners WHERE partner_id IS NOT NULL LIMIT :limit
""")

ADD_COUNTER = text("""
    /* the first event of a partner */
    INSERT INTO feed_counters (partner_id) VALUES (:partner_id) ON CONFLICT (partner_id) DO NOTHING
""")

LOCK_COUNTER = text("""
    /* one sequencer at a time is at the feed of a partner */
    SELECT last_sequence FROM feed_counters WHERE partner_id = :partner_id FOR NO KEY UPDATE
""")

SEQUENCE_EVENTS = text("""
    /* new events of the partner, in the order in which they were written, get the next numbers */
    WITH numbered AS (
        SELECT identity, event_id, :last_sequence + row_number() OVER (ORDER BY identity) AS sequence
        FROM (SELECT identity, event_id FROM outbox
              WHERE lane = 'events' AND sequence IS NULL AND partner_id = :partner_id
              ORDER BY identity LIMIT :limit) AS unnumbered
    ), fed AS (
        INSERT INTO feed (partner_id, sequence, event_id)
        SELECT :partner_id, sequence, event_id FROM numbered
    ), marked AS (
        UPDATE outbox SET sequence = numbered.sequence FROM numbered WHERE outbox.identity = numbered.identity
    )
    UPDATE feed_counters SET last_sequence = last_sequence + (SELECT count(*) FROM numbered)
    WHERE partner_id = :partner_id
    RETURNING last_sequence
""")

SELECT_PAGE = text("""
    /* a page of the feed of a partner */
    SELECT feed.sequence, events.event_id, events.event_type, events.created_at, events.data
    FROM feed JOIN events USING (event_id)
    WHERE feed.partner_id = :partner_id AND feed.sequence > :after
    ORDER BY feed.sequence LIMIT :limit
""")

SELECT_HEAD = text("""
    /* how far the feed of a partner goes */
    SELECT last_sequence, epoch, jumped_from, jumped_to FROM feed_counters WHERE partner_id = :partner_id
""")


@dataclass(frozen=True, slots=True)
class FeedHead:
    """The sequence of a feed's last event, and its epoch, which changes only after a restore from backup.

    The epoch began above a jump: no event has a number above `jumped_from`, up to `jumped_to`.
    """

    last_sequence: int = 0
    epoch: int = 1
    jumped_from: int = 0
    jumped_to: int = 0


@dataclass(frozen=True, slots=True)
class FedEvent:
    """An event with its place in the partner's feed; `data` as it was written."""

    sequence: int
    event_id: str
    event_type: str
    created_at: datetime
    data: dict[str, Any]


def partners_to_sequence(connection: Connection, *, limit: int) -> list[str]:
    """Return partners whose events wait for a number."""
    return list(connection.execute(PARTNERS_TO_SEQUENCE, {"limit": limit}).scalars())


def sequence_events(connection: Connection, partner_id: str, *, limit: int) -> int:
    """Give up to `limit` events of the partner their numbers; return how many that were.

    Waits for another sequencer at the same feed. The events are looked up after the lock, in a statement of
    their own: one that another sequencer has just numbered is not seen without its number.
    """
    partner = {"partner_id": partner_id}
    last = connection.execute(LOCK_COUNTER, partner).scalar_one_or_none()
    if last is None:
        connection.execute(ADD_COUNTER, partner)
        last = connection.execute(LOCK_COUNTER, partner).scalar_one()
    parameters = {"partner_id": partner_id, "last_sequence": last, "limit": limit}
    return int(connection.execute(SEQUENCE_EVENTS, parameters).scalar_one()) - int(last)


def feed_page(connection: Connection, partner_id: str, *, after: int, limit: int) -> list[FedEvent]:
    """Return up to `limit` events after the sequence `after`, in order."""
    parameters = {"partner_id": partner_id, "after": after, "limit": limit}
    return [
        FedEvent(row.sequence, row.event_id, row.event_type, row.created_at, _document(row.data))
        for row in connection.execute(SELECT_PAGE, parameters)
    ]


def feed_head(connection: Connection, partner_id: str) -> FeedHead:
    """Return how far the feed goes; before the first event it has nothing in it, in epoch 1."""
    row = connection.execute(SELECT_HEAD, {"partner_id": partner_id}).one_or_none()
    return FeedHead() if row is None else FeedHead(*row)


def _document(data: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(data) if isinstance(data, str) else data
    return document
