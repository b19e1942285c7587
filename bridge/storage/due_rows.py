"""Whose turn it is: which rows of a lane are due next, so that no partner waits behind another's backlog."""

import math
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, text

FAIR_ROWS = text("""
    /* rows of the lane that are due: first some of those that have been out before, then those of a partner
       in order, one of each partner in turn, beginning after the partner served last. It jumps from partner
       to partner by the index, no further than needed, and reads of each as many as its share; what is left
       over then is for the next round */
    WITH RECURSIVE later AS (
        (SELECT partner_id FROM outbox WHERE lane = :lane AND partner_id > :after_partner
         ORDER BY partner_id LIMIT 1)
        UNION ALL
        SELECT (SELECT outbox.partner_id FROM outbox
                WHERE outbox.lane = :lane AND outbox.partner_id > later.partner_id
                ORDER BY outbox.partner_id LIMIT 1)
        FROM later WHERE later.partner_id IS NOT NULL
    ), earlier AS (
        (SELECT partner_id FROM outbox WHERE lane = :lane AND partner_id <= :after_partner
         ORDER BY partner_id LIMIT 1)
        UNION ALL
        SELECT (SELECT outbox.partner_id FROM outbox
                WHERE outbox.lane = :lane AND outbox.partner_id > earlier.partner_id
                  AND outbox.partner_id <= :after_partner
                ORDER BY outbox.partner_id LIMIT 1)
        FROM earlier WHERE earlier.partner_id IS NOT NULL
    ), partners AS MATERIALIZED (
        SELECT walk.partner_id, row_number() OVER () AS place
        FROM (
            SELECT walk.partner_id
            FROM (SELECT partner_id FROM later UNION ALL SELECT partner_id FROM earlier) AS walk
            CROSS JOIN LATERAL (
                SELECT FROM outbox
                WHERE lane = :lane AND partner_id = walk.partner_id AND not_before <= :now
                  AND (claim_id IS NULL OR lease_until < :now)
                  AND (sequence IS NOT NULL OR event_id IS NULL)
                ORDER BY not_before, identity LIMIT 1
            ) AS has_due_rows
            LIMIT :limit
        ) AS walk
    ), returned AS MATERIALIZED (
        SELECT identity, partner_id, row_number() OVER (ORDER BY not_before, identity) AS place
        FROM outbox
        WHERE lane = :lane AND is_returned AND not_before <= :now
          AND (claim_id IS NULL OR lease_until < :now)
        ORDER BY not_before, identity LIMIT :returned
    )
    SELECT identity, partner_id, 0 AS turn, place FROM returned
    UNION ALL
    SELECT due.identity, partners.partner_id, due.turn, partners.place
    FROM partners CROSS JOIN LATERAL (
        SELECT identity, row_number() OVER (ORDER BY not_before, identity) AS turn
        FROM (
            SELECT identity, not_before FROM outbox
            WHERE lane = :lane AND partner_id = partners.partner_id AND not_before <= :now
              AND (claim_id IS NULL OR lease_until < :now) AND (sequence IS NOT NULL OR event_id IS NULL)
            ORDER BY not_before, identity
            LIMIT (SELECT ceil(CAST(:limit AS numeric) / count(*)) FROM partners)
        ) AS first_rows
    ) AS due
    WHERE due.identity NOT IN (SELECT identity FROM returned)
    ORDER BY turn, place
    LIMIT :limit
""")

UNKNOWN_ROW = text("""
    /* the row of an operation whose outcome is unknown, for a probe: the one that has waited longest. There
       are few of them, whatever the statistics say: they come first, and each row by its operation */
    WITH unknown AS MATERIALIZED (
        SELECT operation_id FROM operations WHERE status = 'unknown' AND sap_system = :lane
    )
    SELECT queued.identity, queued.partner_id
    FROM unknown CROSS JOIN LATERAL (
        SELECT identity, partner_id, not_before FROM outbox
        WHERE outbox.operation_id = unknown.operation_id AND not_before <= :now
          AND (claim_id IS NULL OR lease_until < :now)
        LIMIT 1
    ) AS queued
    ORDER BY queued.not_before, queued.identity LIMIT 1
""")


def fair_rows(
    connection: Connection, lane: str, *, limit: int, returned: int, after_partner: str, now: datetime
) -> list[tuple[int, str]]:
    """Return identity and partner of up to `limit` due rows, one of each partner in turn.

    It begins after `after_partner`. Up to `returned` rows that have been out before come first.
    """
    parameters = {
        "lane": lane,
        "limit": limit,
        "returned": returned,
        "after_partner": after_partner,
        "now": now,
    }
    return [(row.identity, row.partner_id) for row in connection.execute(FAIR_ROWS, parameters)]


def is_more(candidates: Sequence[tuple[int, str]], limit: int) -> bool:
    """Whether a partner had as many rows as its share of the limit, and perhaps has more."""
    rows = Counter(partner for _, partner in candidates)
    return bool(rows) and max(rows.values()) >= math.ceil(limit / len(rows))


def unknown_row(connection: Connection, lane: str, now: datetime) -> list[tuple[int, str]]:
    """Return the row of the operation whose outcome has been unknown for longest, if one is due."""
    rows = connection.execute(UNKNOWN_ROW, {"lane": lane, "now": now})
    return [(row.identity, row.partner_id) for row in rows]
