"""Endpoints that are gone: their cursors end, and what was still to be told to them is cancelled.

Every function takes a connection inside the caller's transaction. An endpoint that is gone gets no further
deliveries, so one walk through those it has is enough: the cursor keeps how far it has come.
"""

import itertools
from datetime import datetime

from sqlalchemy import Connection, text

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

LOCK_ENDED = text("""
    /* the next endpoint by id that is gone and may still have open deliveries; nobody adds any */
    SELECT endpoint_id, cancelled_to FROM webhooks.cursors
    WHERE status = 'deleted' AND cancelled_to IS NOT NULL AND endpoint_id > :after
    ORDER BY endpoint_id LIMIT 1
    FOR NO KEY UPDATE SKIP LOCKED
""")

SELECT_ENDED_PAGE = text("""
    /* the next deliveries of an endpoint, oldest first, whatever has become of them: each is read once */
    SELECT delivery_id FROM webhooks.deliveries
    WHERE endpoint_id = :endpoint_id AND (created_at, delivery_id) > (
        SELECT coalesce(max(created_at), '-infinity'), CAST(:after AS text)
        FROM webhooks.deliveries WHERE delivery_id = :after)
    ORDER BY created_at, delivery_id LIMIT :limit
""")

CANCEL_OPEN = text("""
    /* what was still to be told to an endpoint that is gone, unless an attempt runs */
    UPDATE webhooks.deliveries
    SET status = 'cancelled', next_attempt_at = NULL, lease_until = NULL, task = 'made'
    WHERE delivery_id IN (
        SELECT delivery_id FROM webhooks.deliveries
        WHERE delivery_id = ANY(CAST(:delivery_ids AS text[])) AND status IN ('pending', 'held')
          AND (lease_until IS NULL OR lease_until <= :now)
        FOR UPDATE SKIP LOCKED
    )
""")

SELECT_STILL_OPEN = text("""
    /* those of the page that are not over: an attempt runs */
    SELECT delivery_id FROM webhooks.deliveries
    WHERE delivery_id = ANY(CAST(:delivery_ids AS text[])) AND status IN ('pending', 'held')
""")

NOTE_CANCELLED = text("""
    /* how far the deliveries of the endpoint are over; NULL: to the end */
    UPDATE webhooks.cursors SET cancelled_to = CAST(:cancelled_to AS text) WHERE endpoint_id = :endpoint_id
""")


def end_gone(connection: Connection) -> list[str]:
    """End the cursors of endpoints that their partners' documents have lost; return their ids."""
    return list(connection.execute(END_GONE).scalars())


def cancel_deleted(connection: Connection, *, now: datetime, after: str, limit: int) -> str | None:
    """Look at `limit` deliveries of the next deleted endpoint above `after`, and cancel those that are open.

    Return the endpoint's id; None if there is no such endpoint. One of which an attempt runs is looked at
    again; when all are over, the endpoint is not met any more.
    """
    ended = connection.execute(LOCK_ENDED, {"after": after}).one_or_none()
    if ended is None:
        return None
    endpoint_id: str = ended.endpoint_id
    parameters = {"endpoint_id": endpoint_id, "after": ended.cancelled_to, "limit": limit}
    page = list(connection.execute(SELECT_ENDED_PAGE, parameters).scalars())
    connection.execute(CANCEL_OPEN, {"delivery_ids": page, "now": now})
    still_open = set(connection.execute(SELECT_STILL_OPEN, {"delivery_ids": page}).scalars())
    over = list(itertools.takewhile(lambda delivery_id: delivery_id not in still_open, page))
    is_end = len(over) == len(page) < limit
    cancelled_to = None if is_end else (over[-1] if over else ended.cancelled_to)
    connection.execute(NOTE_CANCELLED, {"endpoint_id": endpoint_id, "cancelled_to": cancelled_to})
    return endpoint_id
