"""The outbox: claiming rows for publishing, deleting them when published, giving them back when not.

Rows are locked with SKIP LOCKED throughout, so that the relay never waits for anybody who holds a payment or
an operation: it takes the lane before the operations, against the usual order, and may only do so because of
that. A row whose operation is locked is simply left for the next round.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar
from uuid import UUID

from sqlalchemy import Connection, text

from bridge.messages import EVENTS_LANE, EventMessage, OperationMessage
from bridge.payment import OperationStatus
from bridge.storage.due_rows import FAIR_ROWS, fair_rows, is_more, unknown_row

Message = TypeVar("Message", OperationMessage, EventMessage)

DISPATCHABLE = frozenset({OperationStatus.ACCEPTED, OperationStatus.SCHEDULED, OperationStatus.UNKNOWN})

LOCK_ROWS = text("""
    /* these rows with their operations, as far as nobody else is at them */
    SELECT outbox.identity, operations.operation_id, operations.status,
           coalesce(operations.lease_until > :now, false) AS is_claimed
    FROM outbox JOIN operations USING (operation_id)
    WHERE outbox.identity = ANY(CAST(:identities AS bigint[])) AND outbox.not_before <= :now
      AND (outbox.claim_id IS NULL OR outbox.lease_until < :now)
    FOR NO KEY UPDATE OF operations SKIP LOCKED FOR UPDATE OF outbox SKIP LOCKED
""")

DISPATCH_OPERATIONS = text("""
    /* the operations go out: every earlier message of theirs is out of date from now on, and nobody else
       publishes their rows until the lease ends */
    WITH claimed AS (
        UPDATE outbox SET claim_id = :claim_id, lease_until = :lease_until
        WHERE identity = ANY(CAST(:identities AS bigint[]))
    )
    UPDATE operations SET dispatch_number = dispatch_number + 1, dispatched_at = :now
    WHERE operation_id = ANY(CAST(:operation_ids AS text[]))
    RETURNING operation_id, payment_id, partner_id, sap_system, dispatch_number, traceparent
""")

CLAIM_EVENTS = text(f"""
    /* nobody else publishes these until the lease ends. The rows are found again where they lie, which costs
       as many looks as there are rows, and come as one document, which the driver reads at once. Nobody waits
       for the disk: without the claim somebody else publishes them too */
    WITH hurried AS MATERIALIZED (
        SELECT set_config('synchronous_commit', 'off', true)
    ), candidates AS MATERIALIZED ({FAIR_ROWS.text}), locked AS MATERIALIZED (
        SELECT ctid FROM outbox
        WHERE identity = ANY(ARRAY(SELECT identity FROM candidates))
          AND (claim_id IS NULL OR lease_until < :now)
        FOR UPDATE SKIP LOCKED
    ), claimed AS (
        UPDATE outbox SET claim_id = :claim_id, lease_until = :lease_until FROM hurried
        WHERE outbox.ctid = ANY(ARRAY(SELECT ctid FROM locked))
        RETURNING identity, event_id, partner_id, sequence, traceparent
    )
    SELECT (SELECT count(*) FROM candidates) AS found,
           json_agg(json_build_array(identity, event_id, claimed.partner_id, sequence, traceparent)
                    ORDER BY turn, place) AS rows
    FROM claimed JOIN candidates USING (identity)
""")  # noqa: S608 - made of constants

DELETE_ROWS = text("""
    /* what has nothing to say any more: the operation is with somebody, who puts it back, or at its end */
    DELETE FROM outbox WHERE identity = ANY(CAST(:identities AS bigint[]))
""")

DELETE_PUBLISHED = text("""
    /* published; a row that was put back meanwhile has lost the claim and stays. One that is just being put
       back is left alone: whoever does that has rows of its own, and takes them in another order. No waiting
       for the disk: what a crash of the database brings back is published again */
    WITH hurried AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
    DELETE FROM outbox USING hurried WHERE outbox.ctid = ANY(ARRAY(
        SELECT ctid FROM outbox
        WHERE identity = ANY(CAST(:identities AS bigint[])) AND claim_id = :claim_id
        FOR UPDATE SKIP LOCKED
    ))
""")

RECALL_OPERATIONS = text("""
    /* not published: they are not out, unless somebody has gone on with them meanwhile */
    UPDATE operations SET dispatched_at = NULL
    WHERE operation_id IN (
        SELECT operation_id FROM operations
        JOIN unnest(CAST(:operation_ids AS text[]), CAST(:dispatch_numbers AS bigint[]))
             AS sent (operation_id, dispatch_number) USING (operation_id, dispatch_number)
        FOR NO KEY UPDATE OF operations SKIP LOCKED
    )
""")

RELEASE_ROWS = text("""
    /* not published: the next round may have them; one that is just being put back loses its claim by that */
    UPDATE outbox SET claim_id = NULL, lease_until = NULL
    WHERE identity IN (
        SELECT identity FROM outbox
        WHERE identity = ANY(CAST(:identities AS bigint[])) AND claim_id = :claim_id
        FOR UPDATE SKIP LOCKED
    )
""")


@dataclass(frozen=True, slots=True)
class Claim:
    """Our right to publish some rows. `lease_until`: afterwards anybody may."""

    claim_id: UUID
    lease_until: datetime


@dataclass(frozen=True, slots=True)
class Batch(Generic[Message]):
    """What was claimed. `found` counts the rows that were due, claimed or not, up to the limit.

    `is_more`: some partner has perhaps more of them.
    """

    claim: Claim
    identities: tuple[int, ...]
    messages: tuple[Message, ...]
    found: int
    is_more: bool
    last_partner: str


def claim_operations(
    connection: Connection,
    lane: str,
    claim: Claim,
    *,
    limit: int,
    after_partner: str,
    returned_first: bool,
    unknown_first: bool,
    now: datetime,
) -> Batch[OperationMessage]:
    """Claim up to `limit` due rows of a SAP lane and raise their operations' dispatch numbers.

    `returned_first` gives up to half of the room to what has been out before: else it would wait behind a
    backlog that was accepted after it. Only half, so that what comes back again and again stops nobody.
    `unknown_first` prefers an operation whose outcome is unknown: asking about it is the gentlest probe.
    The caller holds the lane's row, which keeps other relays away. Lock order: see the module.
    """
    candidates = unknown_row(connection, lane, now) if unknown_first else []
    if not candidates:
        returned = math.ceil(limit / 2) if returned_first else 0
        candidates = fair_rows(
            connection, lane, limit=limit, returned=returned, after_partner=after_partner, now=now
        )
    identities = [identity for identity, _ in candidates]
    parameters = {"identities": identities, "now": now}
    rows = connection.execute(LOCK_ROWS, parameters).all() if identities else []
    locked = {row.identity: row for row in rows}
    outdated = {
        identity for identity, row in locked.items() if row.status not in DISPATCHABLE or row.is_claimed
    }
    if outdated:
        connection.execute(DELETE_ROWS, {"identities": list(outdated)})
    taken = [(identity, partner) for identity, partner in candidates if identity in locked.keys() - outdated]
    operation_ids = [locked[identity].operation_id for identity, _ in taken]
    messages = _dispatch(connection, claim, [identity for identity, _ in taken], operation_ids, now)
    return Batch(
        claim=claim,
        identities=tuple(identity for identity, _ in taken),
        messages=tuple(messages[locked[identity].operation_id] for identity, _ in taken),
        found=len(candidates),
        is_more=is_more(candidates, limit),
        last_partner=taken[-1][1] if taken else after_partner,
    )


def claim_events(
    connection: Connection, claim: Claim, *, limit: int, after_partner: str, now: datetime
) -> Batch[EventMessage]:
    """Claim up to `limit` sequenced rows of the events lane."""
    claimed = connection.execute(
        CLAIM_EVENTS,
        {
            "lane": EVENTS_LANE,
            "limit": limit,
            "returned": 0,
            "after_partner": after_partner,
            "claim_id": claim.claim_id,
            "lease_until": claim.lease_until,
            "now": now,
        },
    ).one()
    rows = claimed.rows or []
    taken = [(row[0], row[2]) for row in rows]
    return Batch(
        claim=claim,
        identities=tuple(row[0] for row in rows),
        messages=tuple(EventMessage(*row[1:]) for row in rows),
        found=claimed.found,
        # what somebody else holds may be all that there is, or not
        is_more=bool(taken) and (len(taken) < claimed.found or is_more(taken, limit)),
        last_partner=taken[-1][1] if taken else after_partner,
    )


def delete_published(connection: Connection, claim: Claim, identities: Sequence[int]) -> int:
    """Delete what was published under the claim; return how many rows that were."""
    parameters = {"identities": _array(identities), "claim_id": claim.claim_id}
    return connection.execute(DELETE_PUBLISHED, parameters).rowcount


def release(
    connection: Connection,
    claim: Claim,
    identities: Sequence[int],
    messages: Sequence[OperationMessage | EventMessage],
) -> None:
    """Give claimed rows back that were not (or perhaps not) published."""
    operations = [message for message in messages if isinstance(message, OperationMessage)]
    if operations:
        connection.execute(
            RECALL_OPERATIONS,
            {
                "operation_ids": [message.operation_id for message in operations],
                "dispatch_numbers": [message.dispatch_number for message in operations],
            },
        )
    parameters = {"identities": list(identities), "claim_id": claim.claim_id}
    connection.execute(RELEASE_ROWS, parameters)


def _dispatch(
    connection: Connection,
    claim: Claim,
    identities: Sequence[int],
    operation_ids: Sequence[str],
    now: datetime,
) -> dict[str, OperationMessage]:
    if not operation_ids:
        return {}
    rows = connection.execute(
        DISPATCH_OPERATIONS,
        {
            "identities": _array(identities),
            "claim_id": claim.claim_id,
            "lease_until": claim.lease_until,
            "operation_ids": list(operation_ids),
            "now": now,
        },
    )
    return {
        row.operation_id: OperationMessage(
            operation_id=row.operation_id,
            payment_id=row.payment_id,
            partner_id=row.partner_id,
            sap_system=row.sap_system,
            dispatch_number=row.dispatch_number,
            traceparent=row.traceparent,
        )
        for row in rows
    }


def _array(identities: Sequence[int]) -> str:
    """Return the array as PostgreSQL writes it: the driver takes longer over a long one."""
    return f"{{{','.join(map(str, identities))}}}"
