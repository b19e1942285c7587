"""How far a run has come, in a handful of numbers that are cheap enough to read several times a second."""

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import text

from devstack.evidence import get_json, open_database, received
from devstack.running_stack import RunningStack

PROGRESS = text("""
    /* what was accepted since then and how much of it is still under way; and the lane it goes through */
    SELECT (SELECT count(*) FROM payments WHERE created_at >= :since) AS payments,
           (SELECT count(*) FROM payments WHERE created_at >= :since AND status = 'paid') AS paid,
           (SELECT count(*) FROM operations WHERE created_at >= :since
              AND status NOT IN ('succeeded', 'rejected', 'cancelled')) AS backlog,
           (SELECT count(*) FROM operations WHERE created_at >= :since AND status = 'unknown') AS unknown,
           (SELECT count(*) FROM operations WHERE created_at >= :since AND status = 'succeeded') AS succeeded,
           (SELECT count(*) FROM events WHERE created_at >= :since) AS events,
           (SELECT count(*) FROM webhooks.deliveries JOIN events USING (event_id)
            WHERE events.created_at >= :since AND status = 'delivered') AS delivered,
           (SELECT count(*) FROM outbox WHERE created_at >= :since AND lane <> 'events') AS in_lane,
           (SELECT count(*) FROM outbox WHERE created_at >= :since AND lane = 'events') AS in_events,
           (SELECT count(*) FROM sap_slots WHERE lease_until > :now) AS permits,
           ARRAY(SELECT payment_id FROM payments WHERE created_at >= :since) AS payment_ids,
           sap_system, hard_cap, call_window, held
    FROM sap_systems WHERE sap_system = :sap_system
""")

LEFTOVERS = text("""
    /* operations that are on their way, whenever accepted */
    SELECT count(*) FROM operations WHERE status IN ('accepted', 'processing', 'unknown')
""")


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts of what was accepted since the start of a scenario. `webhooks`: received and verified."""

    payments: int
    paid: int
    backlog: int
    unknown: int
    succeeded: int
    events: int
    delivered: int
    in_lane: int
    in_events: int
    permits: int
    sap_system: str
    hard_cap: int
    call_window: int
    held: bool
    documents: int
    webhooks: int

    @property
    def is_drained(self) -> bool:
        """Whether nothing is under way any more; an event's webhook included."""
        under_way = self.backlog + self.in_lane + self.in_events + self.permits
        return under_way == 0 and self.events == self.delivered == self.webhooks

    @property
    def lane(self) -> str:
        """The guard's state in a word."""
        if self.held:
            return "held"
        if self.call_window == 0:
            return "circuit open"
        return f"{self.call_window} of {self.hard_cap} calls"


def read_progress(
    stack: RunningStack, *, since: datetime, documents_before: int, sap_system: str = "s4-main"
) -> Progress:
    """`documents_before`: how many SAP had then."""
    parameters = {"since": since, "now": datetime.now(UTC), "sap_system": sap_system}
    with open_database(stack).connect() as connection:
        row = dict(connection.execute(PROGRESS, parameters).mappings().one())
    ours = set(row.pop("payment_ids"))
    arrived = received(stack, since=since, distinct=True)
    return Progress(
        **row,
        documents=get_json(stack.sap_mock, "stats")["documents"] - documents_before,
        webhooks=sum(one["verified"] and one["payment_id"] in ours for one in arrived),
    )


def count_leftovers(stack: RunningStack) -> int:
    """How many operations earlier runs have left on their way."""
    with open_database(stack).connect() as connection:
        return int(connection.execute(LEFTOVERS).scalar_one())
