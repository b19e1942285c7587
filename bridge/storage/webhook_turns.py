"""Partners take turns: few tasks of each stand in the queue, the rest of its deliveries wait in their rows.

Every function takes a connection inside the caller's transaction. The queue serves tasks roughly in the order
of their creation, so a partner waits for the few tasks of others that stand before its own, however many
deliveries those others have. A delivery stands in the queue from when its task is due until the task is
handled, or has been due for so long that it must be lost. Whoever handles a task calls the partner's next.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, text

from bridge.clock import MAX_CLOCK_DIFFERENCE_SECONDS
from bridge.storage.prepared import Prepared
from bridge.storage.webhook_sweeps import DueDelivery

# As many as keep one process busy while a task is on its way; not a limit on the attempts that run.
MAX_QUEUED_PER_PARTNER = 8
# A place in an endpoint's rate that is further ahead was written by a clock that was ahead.
MAX_PLACE_AHEAD = timedelta(seconds=40.0 + MAX_CLOCK_DIFFERENCE_SECONDS)
# An endpoint is at its rate when its next place is not now: the bucket holds a second's worth.
_BUCKET = timedelta(seconds=1)
# Before any probe.
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)

_QUEUED = """
    SELECT count(*) FROM (
        SELECT FROM webhooks.deliveries AS queued JOIN webhooks.cursors AS whose USING (endpoint_id)
        WHERE queued.partner_id = {partner_id} AND queued.status = 'pending' AND queued.task = 'made'
          AND queued.next_attempt_at <= :now AND queued.next_attempt_at > :lost_by
          AND (queued.lease_until IS NULL OR queued.lease_until <= :now) AND whose.status <> 'deleted'
        LIMIT :max_queued) AS bounded
"""

COUNT_QUEUED = text(f"""
    /* how many tasks of the partner stand in the queue */
    {_QUEUED.format(partner_id=":partner_id")}
""")

TAKE_TURN = text(f"""
    /* the next waiting deliveries of the partner, as far as it has places in the queue: one of each endpoint
       in turn, behind the one served last. Left out are endpoints that fail (they are probed, and called only
       if a probe that was due has found no worker), those at their rate (whoever is sent at a place calls the
       next) and those without room in the calling process */
    WITH turn AS MATERIALIZED (
        SELECT cursor.endpoint_id,
               CASE WHEN cursor.endpoint_id = :endpoint_id THEN CAST(:own AS integer) ELSE 1 END AS most
        FROM webhooks.cursors AS cursor
        WHERE cursor.partner_id = :partner_id AND cursor.status <> 'deleted'
          AND (cursor.probe_at IS NULL OR cursor.probe_at <= :probed_by)
          AND (cursor.endpoint_id = :endpoint_id OR cursor.paced_until IS NULL
               OR cursor.paced_until <= :paced_by OR cursor.paced_until > :possible_by)
          AND (cursor.endpoint_id <> :endpoint_id OR :own > 0)
          AND cursor.endpoint_id <> ALL (CAST(:without AS text[]))
          AND EXISTS (SELECT FROM webhooks.deliveries AS waiting
                      WHERE waiting.task = 'waiting' AND waiting.endpoint_id = cursor.endpoint_id)
        ORDER BY cursor.endpoint_id > :endpoint_id DESC, cursor.endpoint_id LIMIT :limit
    ), taken AS MATERIALIZED (
        SELECT oldest.delivery_id FROM turn CROSS JOIN LATERAL (
            SELECT delivery_id FROM webhooks.deliveries
            WHERE task = 'waiting' AND endpoint_id = turn.endpoint_id
            ORDER BY next_attempt_at LIMIT turn.most
            FOR UPDATE SKIP LOCKED
        ) AS oldest
        LIMIT LEAST(CAST(:limit AS bigint), :max_queued - ({_QUEUED.format(partner_id=":partner_id")}))
    )
    UPDATE webhooks.deliveries AS delivery
    SET sweep = delivery.sweep + 1, task = 'made', swept_until = NULL, next_attempt_at = :now
    FROM taken WHERE delivery.delivery_id = taken.delivery_id
    RETURNING delivery.delivery_id, delivery.attempts, delivery.sweep
""")  # noqa: S608 - made of constants
TAKE_WANTED = text(f"""
    /* deliveries that somebody has asked for, of the next partners by id. They get tasks at once as far as
       their partner has places in the queue; the others wait for its turn. At a failing endpoint one may be
       the probe, if that is due, whatever the places */
    WITH wanted AS MATERIALIZED (
        SELECT oldest.*, cursor.probe_at
        FROM (SELECT DISTINCT partner_id FROM webhooks.cursors WHERE partner_id > :after) AS partner
        CROSS JOIN LATERAL (
            SELECT delivery_id, partner_id, endpoint_id, event_id IS NULL AS is_test, next_attempt_at
            FROM webhooks.deliveries
            WHERE task = 'wanted' AND partner_id = partner.partner_id
            ORDER BY next_attempt_at LIMIT :limit
            FOR UPDATE SKIP LOCKED
        ) AS oldest
        JOIN webhooks.cursors AS cursor USING (endpoint_id)
        ORDER BY partner.partner_id LIMIT :limit
    ), places AS MATERIALIZED (
        SELECT partner_id, :max_queued - ({_QUEUED.format(partner_id="partner.partner_id")}) AS free
        FROM (SELECT DISTINCT partner_id FROM wanted) AS partner
    ), decided AS (
        SELECT delivery_id, partner_id, NOT is_test AND CASE
            WHEN probe_at IS NULL THEN row_number() OVER (
                PARTITION BY partner_id, is_test, probe_at IS NULL ORDER BY next_attempt_at) > free
            ELSE probe_at > :due_by OR row_number() OVER (
                PARTITION BY endpoint_id, is_test ORDER BY next_attempt_at) > 1 END AS waits
        FROM wanted JOIN places USING (partner_id)
    )
    UPDATE webhooks.deliveries AS delivery
    SET sweep = delivery.sweep + 1, task = CASE WHEN decided.waits THEN 'waiting' ELSE 'made' END,
        swept_until = NULL
    FROM decided WHERE delivery.delivery_id = decided.delivery_id
    RETURNING delivery.delivery_id, delivery.attempts, delivery.sweep, decided.partner_id, decided.waits
""")  # noqa: S608 - made of constants

_COUNT_QUEUED = Prepared(COUNT_QUEUED)
_TAKE_TURN = Prepared(TAKE_TURN)


@dataclass(frozen=True, slots=True)
class Turn:
    """Whose turn it is: the endpoints of the partner behind `after`, in the order of ids, round and round.

    At most `limit` deliveries are taken, one of each endpoint, and `own` of `after` itself. `with_probes`:
    also of endpoints that fail and may be probed now.
    """

    partner_id: str
    after: str = ""
    own: int = 1
    limit: int = MAX_QUEUED_PER_PARTNER
    without: Sequence[str] = ()
    with_probes: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """Deliveries that were asked for: whose each is, those that need a task, whose the waiting ones are."""

    partner_ids: list[str]
    due: list[DueDelivery]
    waiting: set[str]


def take_wanted(
    connection: Connection, *, now: datetime, due_by: datetime, lost_after: timedelta, after: str, limit: int
) -> Wanted:
    """Raise `sweep` of deliveries that were asked for, of the partners above `after`, and let some wait.

    At a failing endpoint all do whose probe is due past `due_by`.
    """
    parameters = {
        "now": now,
        "due_by": due_by,
        "lost_by": now - lost_after,
        "after": after,
        "limit": limit,
        "max_queued": MAX_QUEUED_PER_PARTNER,
    }
    rows = connection.execute(TAKE_WANTED, parameters).all()
    return Wanted(
        [row.partner_id for row in rows],
        [DueDelivery(row.delivery_id, row.attempts, row.sweep) for row in rows if not row.waits],
        {row.partner_id for row in rows if row.waits},
    )


def free_places(connection: Connection, partner_id: str, *, now: datetime, lost_after: timedelta) -> int:
    """Return how many more tasks of the partner may stand in the queue.

    One that has been due for longer than `lost_after` holds no place: the sweeper looks after it.
    """
    parameters = {
        "partner_id": partner_id,
        "now": now,
        "lost_by": now - lost_after,
        "max_queued": MAX_QUEUED_PER_PARTNER,
    }
    ((queued,),) = _COUNT_QUEUED.rows(connection, parameters)
    return MAX_QUEUED_PER_PARTNER - int(queued)


def take_turn(
    connection: Connection, turn: Turn, *, now: datetime, lost_after: timedelta
) -> list[DueDelivery]:
    """Raise `sweep` of the partner's next waiting deliveries, due now, and return them.

    None if its places in the queue are taken. Two that take at once may exceed them by what one takes.
    """
    rows = _TAKE_TURN.rows(
        connection,
        {
            "partner_id": turn.partner_id,
            "endpoint_id": turn.after,
            "own": turn.own,
            "limit": turn.limit,
            "without": list(turn.without),
            "probed_by": now if turn.with_probes else _NEVER,
            "now": now,
            "paced_by": now + _BUCKET,
            "possible_by": now + MAX_PLACE_AHEAD,
            "lost_by": now - lost_after,
            "max_queued": MAX_QUEUED_PER_PARTNER,
        },
    )
    return [DueDelivery(*row) for row in rows]
