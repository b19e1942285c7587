"""The live state of the whole bridge in a few cheap statements: for operators' screens, metrics and alerts.

Every count stops at MAX_COUNTED_ROWS and runs by a small index: it costs the same in an outage of days.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

MAX_COUNTED_ROWS = 100_000
# A delivery is late when its attempt has been due for longer than tasks and sweeper need.
OVERDUE = timedelta(seconds=60)
# A partner whose endpoints are at their rates has a task that is due by then.
_NEXT_TASK = timedelta(seconds=60)

SELECT_STATE = text("""
    /* what waits outside the lanes, how much of it and since when */
    SELECT parked.for_operators, parked.count AS parked, parked.since AS parked_since,
           unsequenced.count AS unsequenced, unsequenced.since AS unsequenced_since,
           unpublished.count AS unpublished, unpublished.since AS unpublished_since,
           overdue.count AS overdue, overdue.since AS overdue_since,
           held.count AS held_deliveries, disabled.count AS disabled_endpoints,
           dead.count AS dead_letters, dead.since AS dead_letters_since,
           unplaced.count AS unplaced_documents
    FROM (SELECT count(*), min(updated_at) AS since,
                 count(*) FILTER (WHERE parked_reason <> 'partner-held') AS for_operators FROM (
              SELECT updated_at, parked_reason FROM operations WHERE status = 'parked'
              ORDER BY updated_at LIMIT :max_rows) AS bounded) AS parked
    CROSS JOIN (SELECT count(*), min(created_at) AS since FROM (
              SELECT created_at FROM outbox WHERE lane = 'events' AND sequence IS NULL
              LIMIT :max_rows) AS bounded) AS unsequenced
    CROSS JOIN (SELECT count(*), min(not_before) AS since FROM (
              SELECT not_before FROM outbox WHERE lane = 'events' AND not_before IS NOT NULL
              ORDER BY not_before LIMIT :max_rows) AS bounded) AS unpublished
    CROSS JOIN (SELECT count(*), min(next_attempt_at) AS since FROM (
              (SELECT next_attempt_at FROM webhooks.deliveries
               WHERE status = 'pending' AND task = 'made' AND swept_until IS NULL
                 AND next_attempt_at < :overdue_at
               ORDER BY next_attempt_at LIMIT :max_rows)
              UNION ALL
              (SELECT next_attempt_at FROM webhooks.deliveries
               WHERE status = 'pending' AND task = 'made' AND swept_until IS NOT NULL
                 AND next_attempt_at < :overdue_at
               ORDER BY swept_until LIMIT :max_rows)) AS bounded) AS overdue
    CROSS JOIN (SELECT count(*) FROM (
              SELECT FROM webhooks.deliveries WHERE status = 'held' LIMIT :max_rows) AS bounded) AS held
    CROSS JOIN (SELECT count(*) FROM webhooks.cursors
                WHERE status = 'disabled' AND disabled_reason <> 'partner') AS disabled
    CROSS JOIN (SELECT count(*), min(received_at) AS since FROM (
              SELECT received_at FROM dead_letters WHERE status = 'open'
              ORDER BY received_at LIMIT :max_rows) AS bounded) AS dead
    CROSS JOIN (SELECT count(*) FROM (
              SELECT FROM unplaced_documents WHERE settled_at IS NULL LIMIT :max_rows) AS bounded) AS unplaced
""")

SELECT_UNKNOWN = text("""
    /* per lane, whose outcome is not known; a lost call is settled a fixed time after it */
    SELECT sap_system, count(*) AS operations, min(settled_at) AS settled_at FROM (
        SELECT sap_system, settled_at FROM operations WHERE status = 'unknown' LIMIT :max_rows
    ) AS bounded GROUP BY sap_system
""")

SELECT_DUE_DELIVERY = text("""
    /* when the attempt was due that has waited longest */
    SELECT min(next_attempt_at) FROM (
        (SELECT next_attempt_at FROM webhooks.deliveries
         WHERE status = 'pending' AND task = 'made' AND swept_until IS NULL AND next_attempt_at < :now
         ORDER BY next_attempt_at LIMIT 1)
        UNION ALL
        (SELECT next_attempt_at FROM webhooks.deliveries
         WHERE status = 'pending' AND task = 'made' AND swept_until IS NOT NULL AND next_attempt_at < :now
         ORDER BY swept_until LIMIT :max_rows)
    ) AS bounded
""")

SELECT_STALLED_TURN = text("""
    /* when the delivery was due that has waited longest for a turn of a partner who has no task: whoever
       handles one calls the next, so that turn has stalled. Failing endpoints are probed instead */
    WITH RECURSIVE waiting AS (
        (SELECT endpoint_id FROM webhooks.deliveries WHERE task = 'waiting' ORDER BY endpoint_id LIMIT 1)
        UNION ALL
        SELECT (SELECT next.endpoint_id FROM webhooks.deliveries AS next
                WHERE next.task = 'waiting' AND next.endpoint_id > waiting.endpoint_id
                ORDER BY next.endpoint_id LIMIT 1)
        FROM waiting WHERE waiting.endpoint_id IS NOT NULL
    )
    SELECT min(first.next_attempt_at)
    FROM (SELECT endpoint_id FROM waiting WHERE endpoint_id IS NOT NULL LIMIT :max_rows) AS bounded
    JOIN webhooks.cursors AS cursor USING (endpoint_id)
    CROSS JOIN LATERAL (
        SELECT next_attempt_at FROM webhooks.deliveries AS delivery
        WHERE delivery.endpoint_id = cursor.endpoint_id AND task = 'waiting' AND next_attempt_at < :now
        ORDER BY next_attempt_at LIMIT 1
    ) AS first
    WHERE cursor.status = 'enabled' AND cursor.probe_at IS NULL
      AND NOT EXISTS (
          SELECT FROM webhooks.deliveries AS queued
          WHERE queued.partner_id = cursor.partner_id AND queued.status = 'pending' AND queued.task = 'made'
            AND queued.next_attempt_at < :soon)
""")

COUNT_HOLES = text("""
    /* partners with an endpoint whose next number is missing, although later ones are given out: neither
       removed by retention nor jumped over after a restore */
    SELECT count(DISTINCT partner_id) FROM (
        SELECT cursor.partner_id
        FROM webhooks.cursors AS cursor JOIN feed_counters AS counter USING (partner_id)
        LEFT JOIN expired_feeds AS expired USING (partner_id)
        LEFT JOIN LATERAL (
            SELECT coalesce(feed.follows, feed.sequence - 1) AS follows FROM feed
            WHERE feed.partner_id = cursor.partner_id AND feed.sequence > cursor.sequence
            ORDER BY feed.sequence LIMIT 1
        ) AS following ON true
        WHERE cursor.status <> 'deleted' AND counter.last_sequence > cursor.sequence
          AND greatest(cursor.sequence, expired.expired_to) < coalesce(
              following.follows,
              CASE WHEN counter.last_sequence = counter.jumped_to THEN counter.jumped_from
              ELSE counter.last_sequence END)
        LIMIT :max_rows
    ) AS bounded
""")

SELECT_TOTALS = text("""
    /* rows ever written, by the statistics of the server: what they grow by is a rate. Not for money */
    SELECT relname, n_tup_ins FROM pg_stat_user_tables
    WHERE (schemaname, relname) IN (('public', 'payments'), ('public', 'events'), ('webhooks', 'attempts'))
""")


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many of something wait, up to MAX_COUNTED_ROWS, and since when the first one does."""

    count: int
    since: datetime | None

    def age_seconds(self, now: datetime) -> float:
        """0 when nothing waits."""
        return max((now - self.since).total_seconds(), 0.0) if self.since is not None else 0.0


@dataclass(frozen=True, slots=True)
class StateFigures:
    """`parked`: operations (those that are unknown: `unknown_by_lane`). `unsequenced`: events without a
    place in the feed yet, `unpublished`: all that have not gone out. `overdue`: webhook attempts.
    `disabled_endpoints`: not by their partners. `parked_for_operators`: without those whose partner's
    postings an operator holds, which go on by themselves.
    """

    parked: Waiting
    parked_for_operators: int
    unsequenced: Waiting
    unpublished: Waiting
    overdue: Waiting
    dead_letters: Waiting
    held_deliveries: int
    disabled_endpoints: int
    unplaced_documents: int


@dataclass(frozen=True, slots=True)
class Totals:
    """Rows written since the server's statistics began; they may begin anew after a crash of the server."""

    payments: int
    events: int
    webhook_attempts: int


def state_figures(connection: Connection, now: datetime) -> StateFigures:
    """Return what waits outside the lanes (those are in lane_figures)."""
    parameters = {"max_rows": MAX_COUNTED_ROWS, "overdue_at": now - OVERDUE}
    row = connection.execute(SELECT_STATE, parameters).one()
    return StateFigures(
        parked=Waiting(row.parked, row.parked_since),
        parked_for_operators=row.for_operators,
        unsequenced=Waiting(row.unsequenced, row.unsequenced_since),
        unpublished=Waiting(row.unpublished, row.unpublished_since),
        overdue=Waiting(row.overdue, row.overdue_since),
        dead_letters=Waiting(row.dead_letters, row.dead_letters_since),
        held_deliveries=row.held_deliveries,
        disabled_endpoints=row.disabled_endpoints,
        unplaced_documents=row.unplaced_documents,
    )


def unknown_by_lane(connection: Connection, now: datetime, *, settling_seconds: float) -> dict[str, Waiting]:
    """Return the operations whose outcome is unknown, for the lanes that have some.

    `settling_seconds`: how long after a lost call SAP may still be booking it, as whoever lost it had it.
    """
    settling = timedelta(seconds=settling_seconds)
    rows = connection.execute(SELECT_UNKNOWN, {"max_rows": MAX_COUNTED_ROWS})
    # after a restore it settles without a call; never in the future then
    return {
        row.sap_system: Waiting(row.operations, min((row.settled_at or now) - settling, now)) for row in rows
    }


def overdue_delivery(connection: Connection, now: datetime) -> datetime | None:
    """Return when the webhook attempt was due that has waited longest beyond its time.

    What waits for a turn counts where nothing will call it any more.
    """
    bounds = {"now": now, "max_rows": MAX_COUNTED_ROWS}
    due_at = connection.execute(SELECT_DUE_DELIVERY, bounds).scalar()
    stalled_at = connection.execute(SELECT_STALLED_TURN, bounds | {"soon": now + _NEXT_TASK}).scalar()
    return min((moment for moment in (due_at, stalled_at) if moment is not None), default=None)


def feeds_with_holes(connection: Connection) -> int:
    """Return how many partners have an endpoint that waits before a number missing in their feed."""
    return int(connection.execute(COUNT_HOLES, {"max_rows": MAX_COUNTED_ROWS}).scalar_one())


def totals(connection: Connection) -> Totals:
    rows = {row.relname: row.n_tup_ins for row in connection.execute(SELECT_TOTALS)}
    return Totals(rows.get("payments", 0), rows.get("events", 0), rows.get("attempts", 0))
