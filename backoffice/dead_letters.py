"""The use cases on dead letters: list, show, redrive, discard. What a letter was about is in our database."""

from collections.abc import Callable
from typing import Any

import structlog
from sqlalchemy import Connection, Engine

from backoffice.change_operation import Operations
from backoffice.order import Order, invalid_state, not_found
from bridge.clock import Clock, Moment, moment
from bridge.storage import dead_letters as letters
from bridge.storage.dead_letters import DeadLetterStatus
from bridge.storage.operator_views import find_target

_log = structlog.get_logger(__name__)

# What has been dealt with, so that doing it again is no mistake.
_DONE = {"redrive": DeadLetterStatus.REDRIVEN, "discard": DeadLetterStatus.DISCARDED}


class DeadLetters:
    """Changes one letter per transaction, with its line in the audit trail. Repeating changes nothing."""

    def __init__(
        self, engine: Engine, clock: Clock, wake: Callable[[], None], operations: Operations
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._wake = wake
        self._operations = operations

    def list(self, status: DeadLetterStatus | None, *, before: int, limit: int) -> list[dict[str, Any]]:
        """Return letters, newest first, below the number `before`."""
        with self._engine.connect() as connection:
            return letters.dead_letters(connection, status, before=before, limit=limit)

    def show(self, number: int) -> dict[str, Any]:
        with self._engine.connect() as connection:
            found = letters.find_dead_letter(connection, number)
        if found is None:
            raise not_found("dead letter")
        return found

    def redrive(self, number: int, order: Order) -> bool:
        """Let what the letter was about go on; RejectedError (409) if there is nothing that could."""
        return self._close(number, "redrive", order, self._redrive)

    def discard(self, number: int, order: Order) -> bool:
        """Close the letter and do nothing; return whether that changed anything."""
        return self._close(number, "discard", order, lambda *_: None)

    def _close(
        self,
        number: int,
        action: str,
        order: Order,
        act: Callable[[Connection, dict[str, Any], Moment], None],
    ) -> bool:
        at = moment(self._clock)
        with self._engine.begin() as connection:
            if _is_done(connection, number, action):
                return False
            act(connection, letters.find_dead_letter(connection, number) or {}, at)
            # The operation's locks come first; who of two operators was quicker is decided here.
            if not letters.close_dead_letter(connection, number, _DONE[action]) and _is_done(
                connection, number, action
            ):
                return False
            order.note(connection, f"dead-letter.{action}", str(number), at.now)
        _log.info("dead letter closed", number=number, action=action)
        self._wake()
        return True

    def _redrive(self, connection: Connection, letter: dict[str, Any], at: Moment) -> None:
        operation_id = letter["operation_id"]
        if operation_id is None or find_target(connection, operation_id) is None:
            raise invalid_state(
                "Nothing could be sent: the message was not readable, or is about an operation that is not "
                "here. Discard it when you have found out where it came from."
            )
        outcome = self._operations.redrive_within(connection, operation_id, at)
        _log.info("dead letter redriven", operation_id=operation_id, outcome=str(outcome))


def _is_done(connection: Connection, number: int, action: str) -> bool:
    """Tell whether the letter is closed in this way; RejectedError if it is closed in another."""
    letter = letters.find_dead_letter(connection, number)
    if letter is None:
        raise not_found("dead letter")
    if letter["status"] not in (_DONE[action], DeadLetterStatus.OPEN):
        raise invalid_state(f"The dead letter is {letter['status']} already.")
    return bool(letter["status"] == _DONE[action])
