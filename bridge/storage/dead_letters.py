"""What no subscriber took: recorded once, without contents."""

import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, text

from bridge.clock import rfc3339

INSERT_DEAD_LETTER = text("""
    /* once per message, however often it is pushed */
    INSERT INTO dead_letters (subscription, message_id, reason, operation_id, event_id, attributes, status,
                              received_at)
    VALUES (:subscription, :message_id, :reason, :operation_id, :event_id, CAST(:attributes AS jsonb),
            :status, :now)
    ON CONFLICT (subscription, message_id) DO NOTHING
    RETURNING identity
""")

UPDATE_DEAD_LETTER = text("""
    /* what became of it */
    UPDATE dead_letters SET reason = :reason, status = :status WHERE identity = :identity
""")

SELECT_DEAD_LETTERS = text("""
    /* what operators look at, newest first */
    SELECT identity, subscription, message_id, reason, operation_id, event_id, attributes, status, received_at
    FROM dead_letters
    WHERE identity < :before AND (CAST(:status AS text) IS NULL OR status = :status)
    ORDER BY identity DESC LIMIT :limit
""")

CLOSE_DEAD_LETTER = text("""
    /* an operator has dealt with it, once */
    UPDATE dead_letters SET status = :status WHERE identity = :identity AND status = 'open'
    RETURNING identity
""")

CALL_BACK = text("""
    /* the message is lost, so the operation is not out any more */
    UPDATE operations SET dispatched_at = NULL
    WHERE operation_id = :operation_id AND dispatch_number = :dispatch_number
""")


class DeadLetterStatus(StrEnum):
    """`open` waits for an operator, who redrives or discards; `returned` went on by itself."""

    OPEN = "open"
    REDRIVEN = "redriven"
    DISCARDED = "discarded"
    RETURNED = "returned"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that ended as a dead letter. `attributes` are its own, never its data."""

    subscription: str
    message_id: str
    operation_id: str | None
    event_id: str | None
    attributes: dict[str, str]


def record_dead_letter(
    connection: Connection, letter: DeadLetter, reason: str, status: DeadLetterStatus, *, now: datetime
) -> int | None:
    """Record it and return its number, or None if it was recorded before."""
    identity: int | None = connection.execute(
        INSERT_DEAD_LETTER,
        {
            "subscription": storable(letter.subscription),
            "message_id": storable(letter.message_id),
            "reason": reason,
            "operation_id": letter.operation_id,
            "event_id": letter.event_id,
            "attributes": json.dumps({storable(k): storable(v) for k, v in letter.attributes.items()}),
            "status": str(status),
            "now": now,
        },
    ).scalar_one_or_none()
    return identity


def judge_dead_letter(connection: Connection, identity: int, reason: str, status: DeadLetterStatus) -> None:
    parameters = {"identity": identity, "reason": reason, "status": str(status)}
    connection.execute(UPDATE_DEAD_LETTER, parameters)


def dead_letters(
    connection: Connection, status: DeadLetterStatus | None, *, before: int, limit: int
) -> list[dict[str, Any]]:
    """Return letters below the number `before`, newest first, as operators see them."""
    parameters = {"before": before, "status": str(status) if status else None, "limit": limit}
    return [_view(row) for row in connection.execute(SELECT_DEAD_LETTERS, parameters)]


def find_dead_letter(connection: Connection, identity: int) -> dict[str, Any] | None:
    parameters = {"before": identity + 1, "status": None, "limit": 1}
    row = connection.execute(SELECT_DEAD_LETTERS, parameters).one_or_none()
    return None if row is None or row.identity != identity else _view(row)


def close_dead_letter(connection: Connection, identity: int, status: DeadLetterStatus) -> bool:
    """Close an open letter; False if somebody else was quicker."""
    parameters = {"identity": identity, "status": str(status)}
    return connection.execute(CLOSE_DEAD_LETTER, parameters).first() is not None


def _view(row: Row[tuple[object, ...]]) -> dict[str, Any]:
    attributes = row.attributes
    return {
        "number": row.identity,
        "status": row.status,
        "reason": row.reason,
        "subscription": row.subscription,
        "message_id": row.message_id,
        "operation_id": row.operation_id,
        "event_id": row.event_id,
        "attributes": json.loads(attributes) if isinstance(attributes, str) else attributes,
        "received_at": rfc3339(row.received_at),
    }


def call_back(connection: Connection, operation_id: str, dispatch_number: int) -> None:
    """Take the operation off those that are out, if this dispatch is the current one."""
    parameters = {"operation_id": operation_id, "dispatch_number": dispatch_number}
    connection.execute(CALL_BACK, parameters)


def storable(value: str) -> str:
    """Replace what PostgreSQL takes neither in text nor in jsonb: NUL and halves of surrogate pairs."""
    return value.encode("utf-8", "replace").decode().replace("\x00", "\N{REPLACEMENT CHARACTER}")
