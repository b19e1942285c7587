"""The lanes as the relay sees them: the guard under lock, what is under way, when something is due."""

from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection, text

from bridge.lane import Answers, Lane
from bridge.messages import EVENTS_LANE
from bridge.storage.lane_rows import COLUMNS, lane_of
from bridge.storage.restores import IS_TRUSTED

SELECT_SAP_SYSTEMS = text("""
    /* every SAP system has a lane */
    SELECT sap_system FROM sap_systems ORDER BY sap_system
""")

LOCK_LANE = text(f"""
    /* one relay at a time is at a lane; the others go on with the next */
    SELECT {COLUMNS}, {IS_TRUSTED} AS is_trusted
    FROM sap_systems WHERE sap_system = :lane FOR NO KEY UPDATE SKIP LOCKED
""")  # noqa: S608 - made of constants

COUNT_TRAFFIC = text("""
    /* what the lane has on its way already, its permits within the window that are taken, its answers so far.
       A row whose lease has ended was published by nobody: its relay is dead and its operation not out */
    SELECT (SELECT count(*) FROM operations
            WHERE sap_system = :lane AND dispatched_at IS NOT NULL
              AND NOT EXISTS (SELECT FROM outbox WHERE outbox.operation_id = operations.operation_id
                              AND outbox.lease_until <= :now)) AS out,
           count(*) FILTER (WHERE is_taken AND NOT settling) AS calls,
           count(*) FILTER (WHERE is_taken AND settling) AS settling,
           coalesce(sum(answers), 0) AS answers, coalesce(sum(latency_ms_sum), 0) AS latency_ms
    FROM (SELECT settling, answers, latency_ms_sum,
                 slot_number <= :call_window AND lease_until > :now AS is_taken
          FROM sap_slots WHERE sap_system = :lane) AS permits
""")

NEXT_DUE = text(f"""
    /* per lane, when its first unclaimed row is due; one whose turn has not come never is. A held lane is
       left out, one whose circuit is open is due when its probe is. No lane walks past the rows of another */
    SELECT open_lane.lane,
           greatest(first_row.not_before, CASE WHEN call_window = 0 THEN probe_not_before END) AS due_at
    FROM (SELECT sap_system AS lane, call_window, probe_not_before FROM sap_systems
          WHERE NOT held AND {IS_TRUSTED}
          UNION ALL SELECT :events, NULL, NULL) AS open_lane
    CROSS JOIN LATERAL (
        SELECT not_before FROM outbox
        WHERE outbox.lane = open_lane.lane AND not_before IS NOT NULL
          AND (claim_id IS NULL OR lease_until < :now)
        ORDER BY not_before LIMIT 1
    ) AS first_row
    WHERE CAST(:lane AS text) IS NULL OR open_lane.lane = :lane
""")  # noqa: S608 - made of constants


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is under way in a lane.

    `out`: dispatched and not yet claimed. Of the permits within the window `calls` are with callers,
    `settling` are kept for lost calls. `answers`: all that SAP has given so far.
    """

    out: int
    calls: int
    settling: int
    answers: Answers


def sap_systems(connection: Connection) -> list[str]:
    return list(connection.execute(SELECT_SAP_SYSTEMS).scalars())


def lock_lane(connection: Connection, lane: str) -> Lane | None:
    """Return the lane's guard with its row locked, or None while somebody else has it.

    Before PostgreSQL was compared with the high-water mark every lane counts as held.
    """
    row = connection.execute(LOCK_LANE, {"lane": lane}).one_or_none()
    if row is None:
        return None
    guard = lane_of(row)
    return guard if row.is_trusted else replace(guard, held=True)


def count_traffic(connection: Connection, lane: str, *, call_window: int, now: datetime) -> Traffic:
    parameters = {"lane": lane, "call_window": call_window, "now": now}
    row = connection.execute(COUNT_TRAFFIC, parameters).one()
    answers = Answers(int(row.answers), int(row.latency_ms))
    return Traffic(out=row.out, calls=row.calls, settling=row.settling, answers=answers)


def next_due(connection: Connection, now: datetime, *, lane: str | None = None) -> dict[str, datetime]:
    """Return when each lane (or that one) has something to relay next; held and empty ones are left out."""
    rows = connection.execute(NEXT_DUE, {"now": now, "lane": lane, "events": EVENTS_LANE})
    return {row.lane: row.due_at for row in rows}
