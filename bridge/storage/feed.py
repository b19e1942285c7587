"""The feed: every partner's events numbered without gaps, and read by page."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from bridge.storage.restores import may_decide

# How long one partner may keep the sequencer waiting, for whatever lock.
LOCK_TIMEOUT_MILLISECONDS = 1000

PARTNERS_TO_SEQUENCE = text("""
    /* a page of the partners that have events without a number; jumps from partner to partner by the index */
    WITH RECURSIVE partners AS (
        (SELECT partner_id FROM outbox WHERE lane = 'events' AND sequence IS NULL AND partner_id > :after
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
    /* the first event of a partner. It waits, not for long, for another transaction that adds the counter;
       one that is there and locked is left alone. After a recovery a partner that the backup did not know may
       have had numbers before it: its feed begins above them, in the epoch of the recovery */
    WITH impatient AS MATERIALIZED (SELECT set_config('lock_timeout', CAST(:lock_timeout AS text), true))
    INSERT INTO feed_counters (partner_id, last_sequence, epoch, jumped_from, jumped_to)
    SELECT :partner_id, floor, epoch, 0, floor
    FROM impatient, (
        SELECT coalesce(max(feed_floor), 0) AS floor, coalesce(max(feed_epoch), 1) AS epoch FROM recoveries
    ) AS newest
    WHERE NOT EXISTS (SELECT FROM feed_counters WHERE partner_id = :partner_id)
    ON CONFLICT (partner_id) DO NOTHING
""")

LOCK_COUNTER = text("""
    /* one sequencer at a time numbers the feed of a partner. No row: the counter is missing, or locked.
       The transaction waits for no other lock for long either */
    SELECT last_sequence, jumped_from, jumped_to,
           set_config('lock_timeout', CAST(:lock_timeout AS text), true)
    FROM feed_counters WHERE partner_id = :partner_id FOR NO KEY UPDATE SKIP LOCKED
""")

SEQUENCE_EVENTS = text("""
    /* new events of the partner, in the order in which they were written, get the next numbers. The first
       number after a jump names the one that it follows */
    WITH numbered AS (
        SELECT identity, event_id,
               CAST(:last_sequence AS bigint) + row_number() OVER (ORDER BY identity) AS sequence
        FROM (SELECT identity, event_id FROM outbox
              WHERE lane = 'events' AND sequence IS NULL AND partner_id = :partner_id
              ORDER BY identity LIMIT :limit) AS unnumbered
    ), fed AS (
        INSERT INTO feed (partner_id, sequence, follows, event_id)
        SELECT :partner_id, sequence,
               CASE WHEN sequence = CAST(:last_sequence AS bigint) + 1 THEN CAST(:follows AS bigint) END,
               event_id
        FROM numbered
    ), marked AS (
        UPDATE outbox SET sequence = numbered.sequence FROM numbered WHERE outbox.identity = numbered.identity
    )
    UPDATE feed_counters SET last_sequence = last_sequence + (SELECT count(*) FROM numbered)
    WHERE partner_id = :partner_id
    RETURNING last_sequence
""")

SELECT_PAGE = text("""
    /* a page of the feed of a partner */
    SELECT feed.sequence, events.event_id, events.event_type, events.created_at, events.data,
           coalesce(feed.follows, feed.sequence - 1) AS follows
    FROM feed JOIN events USING (event_id)
    WHERE feed.partner_id = :partner_id AND feed.sequence > :after
    ORDER BY feed.sequence LIMIT :limit
""")

SELECT_HEAD = text("""
    /* how far the feed of a partner goes */
    SELECT last_sequence, epoch, jumped_from, jumped_to, coalesce(expired_to, 0)
    FROM feed_counters LEFT JOIN expired_feeds USING (partner_id)
    WHERE partner_id = :partner_id
""")


@dataclass(frozen=True, slots=True)
class FeedHead:
    """The sequence of a feed's last event, and its epoch, which changes only after a restore from backup.

    The epoch began above a jump: no event has a number above `jumped_from`, up to `jumped_to`. Events up to
    `expired_to` are no longer kept.
    """

    last_sequence: int = 0
    epoch: int = 1
    jumped_from: int = 0
    jumped_to: int = 0
    expired_to: int = 0


@dataclass(frozen=True, slots=True)
class FedEvent:
    """An event with its place in the partner's feed, after the number `follows`; `data` as it was written."""

    sequence: int
    event_id: str
    event_type: str
    created_at: datetime
    data: dict[str, Any]
    follows: int


def partners_to_sequence(connection: Connection, *, after: str, limit: int) -> list[str]:
    """Return partners above `after`, in order, whose events wait for a number."""
    return list(connection.execute(PARTNERS_TO_SEQUENCE, {"after": after, "limit": limit}).scalars())


def sequence_events(connection: Connection, partner_id: str, *, limit: int) -> int | None:
    """Give up to `limit` events of the partner their numbers; return how many that were.

    0 while a recovery is due: the numbers after the backup were given before the restore. None: another
    transaction holds the counter, and nothing was done. The events are looked up after the
    lock, in a statement of their own, so that none is numbered twice.
    """
    partner = {"partner_id": partner_id, "lock_timeout": LOCK_TIMEOUT_MILLISECONDS}
    if not may_decide(connection):
        return 0
    counter = connection.execute(LOCK_COUNTER, partner).one_or_none()
    if counter is None:
        connection.execute(ADD_COUNTER, partner)
        counter = connection.execute(LOCK_COUNTER, partner).one_or_none()
    if counter is None:
        return None
    last: int = counter.last_sequence
    is_after_jump = last == counter.jumped_to > counter.jumped_from
    parameters = {
        "partner_id": partner_id,
        "last_sequence": last,
        "follows": counter.jumped_from if is_after_jump else None,
        "limit": limit,
    }
    return int(connection.execute(SEQUENCE_EVENTS, parameters).scalar_one()) - last


def feed_page(connection: Connection, partner_id: str, *, after: int, limit: int) -> list[FedEvent]:
    """Return up to `limit` events after the sequence `after`, in order, across holes."""
    parameters = {"partner_id": partner_id, "after": after, "limit": limit}
    return [
        FedEvent(row.sequence, row.event_id, row.event_type, row.created_at, _document(row.data), row.follows)
        for row in connection.execute(SELECT_PAGE, parameters)
    ]


def up_to_hole(
    events: Sequence[FedEvent], *, after: int, expired_to: int = 0
) -> tuple[Sequence[FedEvent], int | None]:
    """Return the events that follow `after` without a hole, and the first number that is missing, if any.

    Neither what retention has removed nor a jump after a restore is a hole.
    """
    reached = max(after, expired_to)
    for index, event in enumerate(events):
        if event.follows > reached:
            return events[:index], reached + 1
        reached = max(reached, event.sequence)
    return events, None


def feed_head(connection: Connection, partner_id: str) -> FeedHead:
    """Return how far the feed goes; before the first event it has nothing in it, in epoch 1."""
    row = connection.execute(SELECT_HEAD, {"partner_id": partner_id}).one_or_none()
    return FeedHead() if row is None else FeedHead(*row)


def _document(data: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(data) if isinstance(data, str) else data
    return document
