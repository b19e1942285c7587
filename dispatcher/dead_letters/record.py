"""One dead letter: recorded, and what it was about parked (poison) or returned to its lane."""

import hashlib
import logging
from datetime import datetime

import structlog
from sqlalchemy import Connection, Engine

from bridge.clock import Clock
from bridge.messages import (
    EVENT_SEQUENCED,
    EventMessage,
    OperationMessage,
    UnreadableMessageError,
    decode_event,
    decode_operation,
)
from bridge.payment import FINAL_OPERATION_STATUSES, OperationStatus, ParkReason
from bridge.storage.dead_letters import (
    DeadLetter,
    DeadLetterStatus,
    call_back,
    judge_dead_letter,
    record_dead_letter,
)
from bridge.storage.delays import tell_delay
from bridge.storage.events import put_back
from bridge.storage.operations import LockedOperation, lock_operation, lock_payment
from bridge.storage.outcomes import record_parked
from bridge.storage.wake import Waker
from bridge.web.push import PushedMessage
from dispatcher.watchdog import POISON_CLAIMS

# https://cloud.google.com/pubsub/docs/handling-failures#track_delivery_attempts
SOURCE_SUBSCRIPTION = "CloudPubSubDeadLetterSourceSubscription"

_log = structlog.get_logger(__name__)


class DeadLetterRecorder:
    """The push handler: returns once the letter is recorded; the database's errors go through."""

    def __init__(self, engine: Engine, clock: Clock, waker: Waker) -> None:
        self._engine = engine
        self._clock = clock
        self._waker = waker

    def record(self, pushed: PushedMessage) -> None:
        """Record the letter in one transaction with what follows from it. A second push changes nothing."""
        now = self._clock.now()
        letter, message = _read(pushed)
        reason, status = _at_first(message)
        with self._engine.begin() as connection:
            identity = record_dead_letter(connection, letter, reason, status, now=now)
            if identity is not None and isinstance(message, OperationMessage):
                reason, status = _settle(connection, message, now)
                judge_dead_letter(connection, identity, reason, status)
        if identity is None:
            return
        self._waker.wake()
        # An alert hangs on the error: only an open letter waits for somebody.
        level = logging.ERROR if status == DeadLetterStatus.OPEN else logging.WARNING
        _log.log(
            level,
            "dead letter",
            subscription=letter.subscription,
            message_id=letter.message_id,
            operation_id=letter.operation_id,
            event_id=letter.event_id,
            reason=reason,
            status=str(status),
        )


def _read(pushed: PushedMessage) -> tuple[DeadLetter, OperationMessage | EventMessage | None]:
    """Return the letter and what it says, if it can be read. Of unreadable data only size and hash stay."""
    message = _decode(pushed)
    attributes = pushed.attributes
    if message is None:
        digest = hashlib.sha256(pushed.data).hexdigest()
        attributes = attributes | {"data-bytes": str(len(pushed.data)), "data-sha256": digest}
    letter = DeadLetter(
        subscription=attributes.get(SOURCE_SUBSCRIPTION) or pushed.subscription,
        message_id=pushed.message_id,
        operation_id=message.operation_id if isinstance(message, OperationMessage) else None,
        event_id=message.event_id if isinstance(message, EventMessage) else None,
        attributes=attributes,
    )
    return letter, message


def _decode(pushed: PushedMessage) -> OperationMessage | EventMessage | None:
    try:
        if pushed.attributes.get("ce-type") == EVENT_SEQUENCED:
            return decode_event(pushed.data, pushed.attributes)
        return decode_operation(pushed.data, pushed.attributes)
    except UnreadableMessageError:
        return None


def _at_first(message: OperationMessage | EventMessage | None) -> tuple[str, DeadLetterStatus]:
    if message is None:
        return "unreadable", DeadLetterStatus.OPEN
    # Of an event nothing is lost: the message is a doorbell, and the sweeper follows the feed.
    return "undelivered", DeadLetterStatus.RETURNED


def _settle(connection: Connection, message: OperationMessage, now: datetime) -> tuple[str, DeadLetterStatus]:
    """Park the operation, return it to its lane, or leave it alone; say what was done and why."""
    lock_payment(connection, message.payment_id)
    operation = lock_operation(connection, message.operation_id)
    if operation is None or operation.payment_id != message.payment_id:
        return "unknown-operation", DeadLetterStatus.OPEN
    untouchable = _why_left_alone(operation)
    if untouchable is not None:
        return untouchable
    if operation.claims_unfinished >= POISON_CLAIMS:
        _park(connection, operation, now)
        return "poison", DeadLetterStatus.OPEN
    if operation.dispatch_number != message.dispatch_number:
        return "stale", DeadLetterStatus.RETURNED
    call_back(connection, message.operation_id, message.dispatch_number)
    put_back(connection, message.operation_id, not_before=now, now=now)
    return "undelivered", DeadLetterStatus.RETURNED


def _why_left_alone(operation: LockedOperation) -> tuple[str, DeadLetterStatus] | None:
    status = operation.operation.status
    if status in FINAL_OPERATION_STATUSES:
        return "final", DeadLetterStatus.DISCARDED
    if status == OperationStatus.PARKED:
        return "parked", DeadLetterStatus.DISCARDED
    if operation.lease_until is not None:
        # Somebody is at it, or was: the end of the lease is the watchdog's business.
        return "in-progress", DeadLetterStatus.RETURNED
    return None


def _park(connection: Connection, operation: LockedOperation, now: datetime) -> None:
    operation_id = operation.operation.operation_id
    record_parked(
        connection, operation_id, ParkReason.POISON,
        definitely_not_posted=False, refused=False, claimed=False, now=now,
    )  # fmt: skip
    if operation.delayed_at is None:
        tell_delay(connection, operation_id, now=now)
