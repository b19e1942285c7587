"""Query parameters: read strictly, 400 for what can't be read."""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from bridge.clock import read_moment
from bridge.errors import RejectedError
from bridge.payment import Payment, PaymentStatus
from bridge.storage.payments import PaymentFilter, Position
from bridge.web.strict import malformed

MAX_CURSOR_CHARACTERS = 200
_MAX_SEQUENCE = 2**63 - 1
_EVENT_ID = re.compile(r"evt_[0-9a-z]{26}")


def limit_parameter(arguments: Mapping[str, str], *, default: int, highest: int) -> int:
    """Return `limit`, 1 to `highest`."""
    value = arguments.get("limit")
    if value is None:
        return default
    if not (value.isascii() and value.isdigit() and len(value) <= 6 and 1 <= int(value) <= highest):
        raise malformed(f"limit is not a whole number from 1 to {highest}.")
    return int(value)


def sequence_parameter(arguments: Mapping[str, str], name: str) -> int:
    """Return a sequence of the feed, 0 when it is not there."""
    value = arguments.get(name, "0")
    if not (value.isascii() and value.isdigit() and len(value) <= 19 and int(value) <= _MAX_SEQUENCE):
        raise malformed(f"{name} is not a sequence of the feed.")
    return int(value)


def payment_filter(arguments: Mapping[str, str]) -> PaymentFilter:
    """Return what the list is narrowed to."""
    status = arguments.get("status")
    if status is not None and status not in frozenset(PaymentStatus):
        raise malformed("status is not the status of a payment.")
    external_id = arguments.get("external_id")
    if external_id is not None and "\x00" in external_id:
        raise malformed("external_id contains NUL.")
    return PaymentFilter(
        status=PaymentStatus(status) if status is not None else None,
        external_id=external_id,
        created_from=_moment(arguments, "created_from"),
        created_to=_moment(arguments, "created_to"),
    )


def cursor_after(payment: Payment) -> str:
    """Return the opaque cursor of the page that starts after `payment`."""
    return cursor_at(payment.created_at, payment.payment_id)


def cursor_at(created_at: datetime, identity: str) -> str:
    """Return the opaque cursor of the page that starts after what was made then and has that id."""
    return base64.urlsafe_b64encode(json.dumps([created_at.isoformat(), identity]).encode()).decode()


def position_parameter(arguments: Mapping[str, str]) -> Position | None:
    """Return where `cursor` points to. It needs no signature: every query is bound to the partner anyway."""
    value = arguments.get("cursor")
    if not value:
        return None
    try:
        created_at, payment_id = json.loads(
            base64.b64decode(value[:MAX_CURSOR_CHARACTERS], "-_", validate=True)
        )
        moment = datetime.fromisoformat(created_at)
        position = Position(moment.astimezone(UTC), payment_id)
    except (binascii.Error, ValueError, TypeError, OverflowError) as error:
        raise bad_cursor() from error
    readable = isinstance(payment_id, str) and payment_id.isascii() and payment_id.isprintable()
    if not readable or moment.tzinfo is None:
        raise bad_cursor()
    return position


def cursor_after_event(event_id: str) -> str:
    """Return the opaque cursor of the page that starts after the event."""
    return base64.urlsafe_b64encode(event_id.encode()).decode()


def event_parameter(arguments: Mapping[str, str]) -> str | None:
    """Return the event that `cursor` points to, as `position_parameter` does."""
    value = arguments.get("cursor")
    if not value:
        return None
    try:
        event_id = base64.b64decode(value[:MAX_CURSOR_CHARACTERS], "-_", validate=True).decode("ascii")
    except ValueError as error:
        raise bad_cursor() from error
    if not _EVENT_ID.fullmatch(event_id):
        raise bad_cursor()
    return event_id


def _moment(arguments: Mapping[str, str], name: str) -> datetime | None:
    if name not in arguments:
        return None
    # an unencoded + arrives as a space
    try:
        return read_moment(arguments[name].replace(" ", "+"))
    except ValueError as error:
        raise malformed(f"{name} is not a time such as 2026-12-01T00:00:00Z.") from error


def bad_cursor() -> RejectedError:
    """Return the 400 for a cursor that points nowhere."""
    return malformed("cursor is not one that a list has given.")
