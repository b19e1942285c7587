"""Fan-out: each webhook endpoint's cursor over its partner's feed, and the deliveries that it leaves behind.

Every function takes a connection inside the caller's transaction. A partner's feed becomes visible in the
order of its sequence (the dispatcher numbers it under the counter's lock), so a cursor never passes by an
event that commits later. A number that is missing all the same is a hole: no cursor passes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

# How long one endpoint may keep a fan-out waiting, for whatever lock.
LOCK_TIMEOUT_MILLISECONDS = 2000

SELECT_POSITIONS = text("""
    /* how far each endpoint of the partner has come, and which version of its document that needs */
    SELECT endpoint_id, sequence, configuration_version, failing_since IS NOT NULL AS is_failing,
           status = 'enabled' AND probe_at IS NOT NULL AND EXISTS (
               SELECT FROM webhooks.deliveries AS waiting
               WHERE waiting.task = 'waiting' AND waiting.endpoint_id = cursor.endpoint_id) AS has_probes
    FROM webhooks.cursors AS cursor
    WHERE partner_id = :partner_id AND status <> 'deleted'
""")

LOCK_CURSOR = text("""
    /* one fan-out at a time per endpoint; while it goes on, nobody enables or disables the endpoint. The
       transaction waits for no lock for long: other endpoints have their turn */
    WITH impatient AS MATERIALIZED (SELECT set_config('lock_timeout', CAST(:lock_timeout AS text), true))
    SELECT sequence, previous_sequence, status, probe_at,
           EXISTS (SELECT FROM webhooks.deliveries AS waiting
                   WHERE waiting.task = 'waiting' AND waiting.endpoint_id = cursor.endpoint_id) AS has_waiting
    FROM webhooks.cursors AS cursor, impatient
    WHERE endpoint_id = :endpoint_id AND partner_id = :partner_id FOR NO KEY UPDATE OF cursor
""")

INSERT_CURSOR = text("""
    /* a new endpoint starts after what was sequenced when it was made, however late it becomes known here */
    INSERT INTO webhooks.cursors (endpoint_id, partner_id, sequence, configuration_version, created_at)
    VALUES (:endpoint_id, :partner_id, :sequence, :configuration_version, :now)
    ON CONFLICT (endpoint_id) DO NOTHING
""")

INSERT_DELIVERIES = text("""
    /* one delivery per matching event; an event that the endpoint has already is left as it is */
    INSERT INTO webhooks.deliveries (delivery_id, endpoint_id, partner_id, event_id, sequence,
                                     previous_sequence, status, task, next_attempt_at, created_at)
    SELECT delivery_id, :endpoint_id, :partner_id, event_id, sequence, previous_sequence, :status, :task,
           CAST(:next_attempt_at AS timestamptz), :now
    FROM unnest(CAST(:delivery_ids AS text[]), CAST(:event_ids AS text[]), CAST(:sequences AS bigint[]),
                CAST(:previous_sequences AS bigint[]))
         AS delivery (delivery_id, event_id, sequence, previous_sequence)
    ON CONFLICT (endpoint_id, event_id) DO NOTHING
    RETURNING delivery_id
""")

MOVE_CURSOR = text("""
    /* everything up to here has been looked at */
    UPDATE webhooks.cursors SET sequence = :sequence, previous_sequence = :previous_sequence
    WHERE endpoint_id = :endpoint_id
""")


@dataclass(frozen=True, slots=True)
class Position:
    """`sequence`: the feed has been walked up to here; `configuration_version`: see the table.

    `has_probes`: its gate is closed, and deliveries wait to probe it.
    """

    sequence: int
    configuration_version: int
    is_failing: bool = False
    has_probes: bool = False


@dataclass(frozen=True, slots=True)
class Cursor:
    """`sequence`: as in Position; `previous_sequence`: the last event that matched.

    `status` is enabled, disabled (its events are held) or deleted (they are none of its any more).
    `probe_at`: while it fails, when it may be probed. `has_waiting`: some of its deliveries have no task.
    """

    sequence: int
    previous_sequence: int
    status: str
    probe_at: datetime | None
    has_waiting: bool


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """An event for an endpoint. `previous_sequence` is fixed here, for every attempt and replay."""

    delivery_id: str
    event_id: str
    sequence: int
    previous_sequence: int


def cursor_positions(connection: Connection, partner_id: str) -> dict[str, Position]:
    """Return how far each known endpoint of the partner has come; deleted ones are not known."""
    rows = connection.execute(SELECT_POSITIONS, {"partner_id": partner_id})
    return {row.endpoint_id: Position(*row[1:]) for row in rows}


def insert_cursor(
    connection: Connection,
    *,
    endpoint_id: str,
    partner_id: str,
    starts_after_sequence: int,
    configuration_version: int,
    now: datetime,
) -> None:
    """Make the endpoint's cursor, unless it is there."""
    connection.execute(
        INSERT_CURSOR,
        {
            "endpoint_id": endpoint_id,
            "partner_id": partner_id,
            "sequence": starts_after_sequence,
            "configuration_version": configuration_version,
            "now": now,
        },
    )


def lock_cursor(connection: Connection, *, endpoint_id: str, partner_id: str) -> Cursor | None:
    """Lock the endpoint's cursor until the transaction ends; None if the partner has none of that id."""
    parameters = {
        "endpoint_id": endpoint_id,
        "partner_id": partner_id,
        "lock_timeout": LOCK_TIMEOUT_MILLISECONDS,
    }
    row = connection.execute(LOCK_CURSOR, parameters).one_or_none()
    return None if row is None else Cursor(*row)


def insert_deliveries(
    connection: Connection,
    deliveries: Sequence[NewDelivery],
    *,
    endpoint_id: str,
    partner_id: str,
    held: bool,
    now: datetime,
    task: str = "made",
) -> set[str]:
    """Write deliveries that are due now, or held; return the ids of those that were not there before.

    `task`: made, by the caller once this is committed, wanted, or waiting.
    """
    if not deliveries:
        return set()
    rows = connection.execute(
        INSERT_DELIVERIES,
        {
            "endpoint_id": endpoint_id,
            "partner_id": partner_id,
            "status": "held" if held else "pending",
            "task": task,
            "next_attempt_at": None if held else now,
            "now": now,
            "delivery_ids": [delivery.delivery_id for delivery in deliveries],
            "event_ids": [delivery.event_id for delivery in deliveries],
            "sequences": [delivery.sequence for delivery in deliveries],
            "previous_sequences": [delivery.previous_sequence for delivery in deliveries],
        },
    )
    return set(rows.scalars())


def move_cursor(connection: Connection, endpoint_id: str, *, sequence: int, previous_sequence: int) -> None:
    connection.execute(
        MOVE_CURSOR,
        {"endpoint_id": endpoint_id, "sequence": sequence, "previous_sequence": previous_sequence},
    )
