"""How the lanes stand, for operators and for estimates: window, backlog, its age, how fast it drains."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Connection, text

# Counting stops here: nobody needs to know a longer queue to the row, and it is counted often.
MAX_COUNTED_ROWS = 100_000

SELECT_FIGURES = text("""
    /* every lane with its guard, its permits and what is due in it */
    SELECT lane.sap_system, lane.held, lane.hard_cap, lane.call_window, lane.failed_probes,
           lane.probe_not_before, lane.closed_at, lane.latency_ms, lane.answers_per_second,
           lane.read_lag_excess_seconds, permits.calling, permits.settling, dispatched.count AS dispatched,
           waiting.count AS waiting, oldest.not_before AS oldest_due_at
    FROM sap_systems AS lane
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE NOT settling) AS calling, count(*) FILTER (WHERE settling) AS settling
        FROM sap_slots WHERE sap_slots.sap_system = lane.sap_system AND lease_until > :now
    ) AS permits
    CROSS JOIN LATERAL (
        SELECT count(*) FROM operations
        WHERE operations.sap_system = lane.sap_system AND dispatched_at IS NOT NULL
          AND NOT EXISTS (SELECT FROM outbox WHERE outbox.operation_id = operations.operation_id)
    ) AS dispatched
    CROSS JOIN LATERAL (
        SELECT count(*) FROM (
            SELECT FROM outbox WHERE outbox.lane = lane.sap_system AND not_before <= :now LIMIT :max_rows
        ) AS due
    ) AS waiting
    LEFT JOIN LATERAL (
        SELECT not_before FROM outbox
        WHERE outbox.lane = lane.sap_system AND not_before <= :now ORDER BY not_before LIMIT 1
    ) AS oldest ON true
    ORDER BY lane.sap_system
""")


SELECT_RATE = text("""
    /* how fast a lane drains, if it does at all */
    SELECT answers_per_second FROM sap_systems
    WHERE sap_system = :lane AND NOT held AND call_window > 0 AND failed_probes = 0
""")

SELECT_BACKLOGS = text("""
    /* what waits in a lane for each partner; from partner to partner by the index */
    WITH RECURSIVE partners AS (
        (SELECT partner_id FROM outbox WHERE lane = :lane ORDER BY partner_id LIMIT 1)
        UNION ALL
        SELECT (SELECT outbox.partner_id FROM outbox
                WHERE outbox.lane = :lane AND outbox.partner_id > partners.partner_id
                ORDER BY outbox.partner_id LIMIT 1)
        FROM partners WHERE partners.partner_id IS NOT NULL
    )
    SELECT partners.partner_id, due.waiting, due.oldest_at, due.newest_at
    FROM partners CROSS JOIN LATERAL (
        SELECT count(*) AS waiting, min(not_before) AS oldest_at, max(not_before) AS newest_at
        FROM (
            SELECT not_before FROM outbox
            WHERE lane = :lane AND partner_id = partners.partner_id AND not_before <= :now
            ORDER BY not_before LIMIT :max_rows
        ) AS rows
    ) AS due
    WHERE due.waiting > 0
""")


class LaneState(StrEnum):
    """OPEN: calls go out. PROBING: one at a time does. CLOSED: the circuit is open. HELD: by an operator."""

    OPEN = "open"
    PROBING = "probing"
    CLOSED = "closed"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class LaneFigures:
    """One lane. Counts are operations; `backlog` is due (waiting or dispatched) and not with SAP yet.

    `waiting` is what of it is still in the outbox. `closed_at`: since when nothing but probes goes out.
    `calls` are with SAP now, `settling` permits are kept for lost calls. `oldest_due_at` is since when the
    first of those that wait has been due. `latency_ms` is smoothed. `answers_per_second` was measured while
    the lane was last behind; None: never. `read_lag_excess_seconds`: by how much SAP's read side was last
    seen to be later than SAP_READ_LAG_SECONDS.
    """

    sap_system: str
    state: LaneState
    hard_cap: int
    call_window: int
    calls: int
    settling: int
    backlog: int
    waiting: int
    oldest_due_at: datetime | None
    probe_not_before: datetime | None
    failed_probes: int
    closed_at: datetime | None
    latency_ms: float | None
    answers_per_second: float | None
    read_lag_excess_seconds: float

    @property
    def drain_seconds(self) -> float | None:
        """How long the backlog takes at the measured rate; None: SAP is away, or was never measured."""
        if self.backlog == 0:
            return 0.0
        if self.state is not LaneState.OPEN or not self.answers_per_second:
            return None
        return self.backlog / self.answers_per_second

    def closed_seconds(self, now: datetime) -> float:
        """How long nothing but probes has gone out; 0 for a lane that is open or that somebody holds."""
        if self.closed_at is None or self.state is LaneState.HELD:
            return 0.0
        return max((now - self.closed_at).total_seconds(), 0.0)

    def oldest_age(self, now: datetime) -> timedelta | None:
        """How long the first of those that wait has been due."""
        return None if self.oldest_due_at is None else now - self.oldest_due_at


def lane_figures(connection: Connection, now: datetime) -> list[LaneFigures]:
    """Return how every lane stands, by name. A backlog above MAX_COUNTED_ROWS is given as that."""
    rows = connection.execute(SELECT_FIGURES, {"now": now, "max_rows": MAX_COUNTED_ROWS})
    return [
        LaneFigures(
            sap_system=row.sap_system,
            state=state_of(held=row.held, call_window=row.call_window, failed_probes=row.failed_probes),
            hard_cap=row.hard_cap,
            call_window=row.call_window,
            calls=row.calling,
            settling=row.settling,
            backlog=row.waiting + row.dispatched,
            waiting=row.waiting,
            oldest_due_at=row.oldest_due_at,
            probe_not_before=row.probe_not_before,
            failed_probes=row.failed_probes,
            closed_at=row.closed_at,
            latency_ms=row.latency_ms,
            answers_per_second=row.answers_per_second,
            read_lag_excess_seconds=row.read_lag_excess_seconds,
        )
        for row in rows
    ]


def state_of(*, held: bool, call_window: int, failed_probes: int) -> LaneState:
    if held:
        return LaneState.HELD
    if call_window == 0:
        return LaneState.CLOSED
    return LaneState.PROBING if call_window == 1 and failed_probes > 0 else LaneState.OPEN


@dataclass(frozen=True, slots=True)
class PartnerBacklog:
    """What waits in a lane for one partner, in operations, and since when the first and the last do."""

    waiting: int
    oldest_at: datetime
    newest_at: datetime

    def place_of(self, due_at: datetime) -> int:
        """Return about where in the partner's own queue something stands that has been due since then."""
        span = (self.newest_at - self.oldest_at).total_seconds()
        if span <= 0:
            return self.waiting
        share = (due_at - self.oldest_at).total_seconds() / span
        return max(1, round(min(max(share, 0.0), 1.0) * self.waiting))


@dataclass(frozen=True, slots=True)
class LaneBacklog:
    """What waits in an open lane, by partner, and how many of them SAP answers in a second."""

    per_second: float
    partners: Mapping[str, PartnerBacklog]

    def seconds_until(self, partner_id: str, due_at: datetime) -> float:
        """Return how long it takes until something of the partner's is done that has been due since then.

        Partners take turns: before its nth come the first n of every other.
        """
        own = self.partners.get(partner_id)
        place = own.place_of(due_at) if own else 1
        others = sum(
            min(backlog.waiting, place) for name, backlog in self.partners.items() if name != partner_id
        )
        return (place + others) / self.per_second


def lane_backlog(connection: Connection, sap_system: str, now: datetime) -> LaneBacklog | None:
    """Return what waits in the lane; None while it is closed, held or was never measured."""
    per_second = connection.execute(SELECT_RATE, {"lane": sap_system}).scalar()
    if not per_second:
        return None
    parameters = {"lane": sap_system, "now": now, "max_rows": MAX_COUNTED_ROWS}
    return LaneBacklog(
        per_second,
        {
            row.partner_id: PartnerBacklog(row.waiting, row.oldest_at, row.newest_at)
            for row in connection.execute(SELECT_BACKLOGS, parameters)
        },
    )
