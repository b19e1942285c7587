"""The lanes as the relay sees them: which are open, how much room they have, when something is due."""

from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection, text

# How much more than the calls allowed at once may be on its way: it hides the way through the broker.
ROOM_FACTOR = 2

SELECT_SAP_SYSTEMS = text("""
    /* every SAP system has a lane */
    SELECT sap_system FROM sap_systems ORDER BY sap_system
""")

LOCK_LANE = text("""
    /* one relay at a time is at a lane; the others go on with the next */
    SELECT held, call_window, probe_not_before, failed_probes
    FROM sap_systems WHERE sap_system = :lane FOR NO KEY UPDATE SKIP LOCKED
""")

COUNT_OUT = text("""
    /* what the lane has on its way already, and the permits within its window that are taken */
    SELECT (SELECT count(*) FROM operations WHERE sap_system = :lane AND dispatched_at IS NOT NULL),
           (SELECT count(*) FROM sap_slots
            WHERE sap_system = :lane AND slot_number <= :call_window AND lease_until > :now)
""")

HALF_OPEN = text("""
    /* let one probe through */
    UPDATE sap_systems SET call_window = 1, failed_probes = greatest(failed_probes, 1)
    WHERE sap_system = :lane AND call_window = 0
""")

NEXT_DUE = text("""
    /* per lane, when its first unclaimed row is due: by the index from partner to partner. An event without
       a place in the feed is due, a row whose turn has not come is not, and a held or open-circuited lane is
       due when its probe is */
    WITH RECURSIVE heads AS (
        (SELECT lane, partner_id FROM outbox ORDER BY lane, partner_id LIMIT 1)
        UNION ALL
        SELECT next.lane, next.partner_id
        FROM heads CROSS JOIN LATERAL (
            SELECT lane, partner_id FROM outbox
            WHERE (lane, partner_id) > (heads.lane, heads.partner_id)
            ORDER BY lane, partner_id LIMIT 1
        ) AS next
    )
    SELECT heads.lane, greatest(min(first_row.not_before),
                                min(CASE WHEN call_window = 0 THEN probe_not_before END)) AS due_at
    FROM heads CROSS JOIN LATERAL (
        SELECT not_before FROM outbox
        WHERE outbox.lane = heads.lane AND outbox.partner_id = heads.partner_id
          AND not_before IS NOT NULL AND (claim_id IS NULL OR lease_until < :now)
        ORDER BY not_before LIMIT 1
    ) AS first_row LEFT JOIN sap_systems ON sap_system = heads.lane
    WHERE held IS NOT TRUE
    GROUP BY heads.lane
""")


@dataclass(frozen=True, slots=True)
class LaneState:
    """A lane's guard. `call_window` 0: the circuit is open; 1 with failed probes: half-open."""

    held: bool
    call_window: int
    probe_not_before: datetime | None
    failed_probes: int

    def is_probe_due(self, now: datetime) -> bool:
        """Whether the open circuit may be tried by one call."""
        if self.held or self.call_window > 0:
            return False
        return self.probe_not_before is None or self.probe_not_before <= now

    def probing(self) -> "LaneState":
        """Return the guard as `half_open` leaves it."""
        return replace(self, call_window=1, failed_probes=max(self.failed_probes, 1))

    def is_half_open(self) -> bool:
        return self.call_window == 1 and self.failed_probes > 0

    def is_probed_by_question(self) -> bool:
        """Whether the probe is preferably a question, the gentlest call: the first is, then every second.

        Questions that SAP can't answer must not keep a lane closed that takes postings.
        """
        return self.is_half_open() and self.failed_probes % 2 == 1

    def room(self, *, out: int, calls: int) -> int:
        """Return how many more operations may go out.

        `out` are dispatched and not yet claimed; `calls` are the permits taken within the window. While it is
        half-open a single one may be on its way or calling.
        """
        if self.held:
            return 0
        wanted = 1 if self.is_half_open() else ROOM_FACTOR * self.call_window
        return max(0, wanted - out - calls)


def sap_systems(connection: Connection) -> list[str]:
    return list(connection.execute(SELECT_SAP_SYSTEMS).scalars())


def lock_lane(connection: Connection, lane: str) -> LaneState | None:
    """Return the lane's guard with its row locked, or None while somebody else has it."""
    row = connection.execute(LOCK_LANE, {"lane": lane}).one_or_none()
    return LaneState(*row) if row else None


def half_open(connection: Connection, lane: str) -> None:
    connection.execute(HALF_OPEN, {"lane": lane})


def count_out(connection: Connection, lane: str, *, call_window: int, now: datetime) -> tuple[int, int]:
    """Return (operations dispatched and not yet claimed, permits taken within the window)."""
    parameters = {"lane": lane, "call_window": call_window, "now": now}
    out, calls = connection.execute(COUNT_OUT, parameters).one()
    return int(out), int(calls)


def next_due(connection: Connection, now: datetime) -> dict[str, datetime]:
    """Return when each lane has something to relay next; lanes without, and held ones, are left out."""
    rows = connection.execute(NEXT_DUE, {"now": now})
    return {row.lane: row.due_at for row in rows}
