"""A partner's view of its deliveries: listed, sent again, and the test that it may ask for.

Every function takes a connection inside the caller's transaction. What is to be sent gets `task = 'wanted'`;
the webhooks service makes the task. Lock order: cursor, delivery.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, text

from bridge.storage.webhook_attempts import TEST_EVENT_TYPE

Only = Literal["failed", "missing", "all"]

_DELIVERY = """
    SELECT delivery.delivery_id, delivery.endpoint_id,
           COALESCE(delivery.event_id, 'evt_' || substr(delivery.delivery_id, 5)) AS event_id,
           COALESCE(event.event_type, :test_event_type) AS event_type, delivery.sequence,
           delivery.previous_sequence, delivery.status, delivery.attempts, delivery.next_attempt_at,
           delivery.delivered_at, delivery.created_at
    FROM webhooks.deliveries AS delivery LEFT JOIN events AS event USING (event_id)
"""

SELECT_PAGE = text(f"""
    /* a page of the deliveries of an endpoint, newest first */
    {_DELIVERY}
    WHERE delivery.endpoint_id = :endpoint_id AND delivery.partner_id = :partner_id
      AND (CAST(:status AS text) IS NULL OR delivery.status = :status)
      AND (CAST(:created_at AS timestamptz) IS NULL
           OR (delivery.created_at, delivery.delivery_id) < (CAST(:created_at AS timestamptz), :after))
    ORDER BY delivery.created_at DESC, delivery.delivery_id DESC LIMIT :limit
""")

SELECT_ONE = text(f"""
    /* one delivery of the partner, unless its endpoint is gone */
    {_DELIVERY} JOIN webhooks.cursors AS cursor USING (endpoint_id)
    WHERE delivery.delivery_id = :delivery_id AND delivery.partner_id = :partner_id
      AND cursor.status <> 'deleted'
""")

SELECT_ATTEMPTS = text("""
    /* the attempts at a delivery, newest first */
    SELECT attempt_number, started_at, duration_ms, response_status, error_class, response_excerpt,
           next_attempt_at
    FROM webhooks.attempts WHERE delivery_id = :delivery_id ORDER BY attempt_number DESC LIMIT :limit
""")

LOCK_CURSOR = text("""
    /* the endpoint stays enabled, and is walked no further, until this transaction has ended */
    SELECT status, sequence FROM webhooks.cursors
    WHERE endpoint_id = :endpoint_id AND partner_id = :partner_id FOR NO KEY UPDATE
""")

INSERT_TEST = text("""
    /* a test, to be sent at once */
    INSERT INTO webhooks.deliveries (delivery_id, endpoint_id, partner_id, event_id, sequence,
                                     previous_sequence, status, task, next_attempt_at, created_at)
    VALUES (:delivery_id, :endpoint_id, :partner_id, NULL, 0, 0, 'pending', 'wanted', :now, :now)
""")

SEND_AGAIN = text("""
    /* send a delivery again now, with the schedule from its beginning; not while an attempt runs */
    UPDATE webhooks.deliveries
    SET status = 'pending', next_attempt_at = :now, attempts_before = attempts, task = 'wanted',
        delivered_at = NULL
    WHERE delivery_id = :delivery_id
      AND (status IN ('delivered', 'exhausted') OR (status = 'pending' AND lease_until IS NULL))
    RETURNING delivery_id
""")

COUNT_REPLAYABLE = text("""
    /* how many deliveries a replay would send again; ids of events are in the order of time */
    SELECT count(*) FROM (
        SELECT FROM webhooks.deliveries
        WHERE endpoint_id = :endpoint_id AND event_id >= :first_event_id AND event_id < :end_event_id
          AND status = ANY(CAST(:statuses AS text[]))
        LIMIT :limit
    ) AS replayable
""")

REPLAY = text("""
    /* send the deliveries of this time again */
    UPDATE webhooks.deliveries
    SET status = 'pending', next_attempt_at = :now, attempts_before = attempts, task = 'wanted',
        delivered_at = NULL
    WHERE endpoint_id = :endpoint_id AND event_id >= :first_event_id AND event_id < :end_event_id
      AND status = ANY(CAST(:statuses AS text[]))
    RETURNING delivery_id
""")

SELECT_MISSING = text("""
    /* events of this time that the endpoint wants now and has never had, and which it had before each */
    SELECT missing.event_id, missing.sequence,
           GREATEST((SELECT max(known.sequence) FROM webhooks.deliveries AS known
                     WHERE known.endpoint_id = :endpoint_id AND known.sequence < missing.sequence),
                    lag(missing.sequence) OVER (ORDER BY missing.sequence), 0) AS previous_sequence
    FROM (
        SELECT feed.event_id, feed.sequence FROM feed JOIN events USING (event_id)
        WHERE feed.partner_id = :partner_id AND feed.sequence <= :walked_to
          AND feed.event_id >= :first_event_id AND feed.event_id < :end_event_id
          AND events.event_type = ANY(CAST(:event_types AS text[]))
          AND NOT EXISTS (SELECT FROM webhooks.deliveries AS known
                          WHERE known.endpoint_id = :endpoint_id AND known.event_id = feed.event_id)
        ORDER BY feed.sequence LIMIT :limit
    ) AS missing ORDER BY missing.sequence
""")

# what each kind of replay sends again; missing events have no delivery yet
_STATUSES: dict[Only, tuple[str, ...]] = {
    "failed": ("exhausted",),
    "missing": (),
    "all": ("exhausted", "delivered"),
}


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event for an endpoint, or a test (`sequence` 0), as its partner sees it."""

    delivery_id: str
    endpoint_id: str
    event_id: str
    event_type: str
    sequence: int
    previous_sequence: int
    status: str
    attempts: int
    next_attempt_at: datetime | None
    delivered_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt that is over; `response_excerpt` is how the answer began."""

    attempt_number: int
    started_at: datetime
    duration_ms: int
    response_status: int | None
    error_class: str | None
    response_excerpt: str | None
    next_attempt_at: datetime | None


@dataclass(frozen=True, slots=True)
class Range:
    """Events from `first_event_id` on, and before `end_event_id`: ids are in the order of time."""

    first_event_id: str
    end_event_id: str


@dataclass(frozen=True, slots=True)
class MissingEvent:
    event_id: str
    sequence: int
    previous_sequence: int


@dataclass(frozen=True, slots=True)
class LockedCursor:
    """`status` as on the cursor; the endpoint has been walked up to `sequence`."""

    status: str
    sequence: int


def deliveries_page(
    connection: Connection,
    partner_id: str,
    endpoint_id: str,
    *,
    status: str | None,
    after: tuple[datetime, str] | None,
    limit: int,
) -> list[Delivery]:
    """Return deliveries, newest first, older than the one of that time and id."""
    rows = connection.execute(
        SELECT_PAGE,
        {
            "partner_id": partner_id,
            "endpoint_id": endpoint_id,
            "status": status,
            "created_at": after[0] if after else None,
            "after": after[1] if after else "",
            "limit": limit,
            "test_event_type": TEST_EVENT_TYPE,
        },
    )
    return [_delivery(row) for row in rows]


def find_delivery(connection: Connection, partner_id: str, delivery_id: str) -> Delivery | None:
    parameters = {
        "partner_id": partner_id,
        "delivery_id": delivery_id,
        "test_event_type": TEST_EVENT_TYPE,
    }
    row = connection.execute(SELECT_ONE, parameters).one_or_none()
    return None if row is None else _delivery(row)


def attempts_of(connection: Connection, delivery_id: str, *, limit: int) -> list[Attempt]:
    """Return the attempts, newest first."""
    rows = connection.execute(SELECT_ATTEMPTS, {"delivery_id": delivery_id, "limit": limit})
    return [Attempt(*row) for row in rows]


def lock_cursor(connection: Connection, *, endpoint_id: str, partner_id: str) -> LockedCursor | None:
    """Return how the endpoint stands, and will until the transaction ends; None if it has no cursor."""
    parameters = {"endpoint_id": endpoint_id, "partner_id": partner_id}
    row = connection.execute(LOCK_CURSOR, parameters).one_or_none()
    return None if row is None else LockedCursor(row.status, row.sequence)


def insert_test(
    connection: Connection, *, delivery_id: str, endpoint_id: str, partner_id: str, now: datetime
) -> None:
    parameters = {
        "delivery_id": delivery_id,
        "endpoint_id": endpoint_id,
        "partner_id": partner_id,
        "now": now,
    }
    connection.execute(INSERT_TEST, parameters)


def send_again(connection: Connection, delivery_id: str, *, now: datetime) -> bool:
    """False if an attempt runs at this moment, or the delivery is held or cancelled."""
    parameters = {"delivery_id": delivery_id, "now": now}
    return connection.execute(SEND_AGAIN, parameters).one_or_none() is not None


def count_replayable(
    connection: Connection, endpoint_id: str, only: Only, events: Range, *, limit: int
) -> int:
    """Return how many deliveries there are to send again, counting to `limit`."""
    parameters = _replayable(endpoint_id, only, events) | {"limit": limit}
    return int(connection.execute(COUNT_REPLAYABLE, parameters).scalar_one())


def replay(connection: Connection, endpoint_id: str, only: Only, events: Range, *, now: datetime) -> int:
    """Send them again; return how many there are."""
    parameters = _replayable(endpoint_id, only, events) | {"now": now}
    return len(connection.execute(REPLAY, parameters).all())


def missing_events(
    connection: Connection,
    *,
    partner_id: str,
    endpoint_id: str,
    walked_to: int,
    event_types: Sequence[str],
    events: Range,
    limit: int,
) -> list[MissingEvent]:
    """Return the events that the endpoint has never had, up to where it has been walked to."""
    rows = connection.execute(
        SELECT_MISSING,
        {
            "partner_id": partner_id,
            "endpoint_id": endpoint_id,
            "walked_to": walked_to,
            "event_types": list(event_types),
            "first_event_id": events.first_event_id,
            "end_event_id": events.end_event_id,
            "limit": limit,
        },
    )
    return [MissingEvent(*row) for row in rows]


def _replayable(endpoint_id: str, only: Only, events: Range) -> dict[str, Any]:
    return {
        "endpoint_id": endpoint_id,
        "first_event_id": events.first_event_id,
        "end_event_id": events.end_event_id,
        "statuses": list(_STATUSES[only]),
    }


def _delivery(row: Sequence[Any]) -> Delivery:
    return Delivery(*row)
