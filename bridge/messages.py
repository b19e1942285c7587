"""What travels over Pub/Sub: ids and a dispatch number, never contents; and the names of what carries it.

Attributes follow CloudEvents 1.0 (binary content mode of the Pub/Sub binding: `ce-` attributes).
Terraform and the local stack use the same names; a contract test compares them.
"""

import json
from dataclasses import dataclass
from typing import Any

CLOUDEVENTS_SPEC_VERSION = "1.0"
EVENTS_LANE = "events"


def require_lane_name(sap_system: str) -> str:
    """Return the name of a SAP system, which is its lane's in the outbox; ValueError if that is taken."""
    if sap_system == EVENTS_LANE:
        raise ValueError(f"no SAP system can have the name {EVENTS_LANE}: the lane of events has it")
    return sap_system


EVENTS_TOPIC = "payment-events"
WEBHOOK_QUEUE = "webhook-deliveries"

OPERATION_DISPATCHED = "bridge.operation.dispatched"
EVENT_SEQUENCED = "bridge.event.sequenced"


def operations_topic(sap_system: str) -> str:
    """Return the topic of one SAP system's lane; each has its own, so that none holds up another."""
    return f"payment-operations-{sap_system}"


def push_subscription(topic: str) -> str:
    return f"{topic}-push"


def dead_letter_topic(topic: str) -> str:
    return f"{topic}-dead-letters"


class UnreadableMessageError(ValueError):
    """The message does not carry what its kind must carry; it will never be readable (poison)."""


@dataclass(frozen=True, slots=True)
class OperationMessage:
    """Asks the adapter to take the operation's next step; spent by the claim that matches the number."""

    operation_id: str
    payment_id: str
    partner_id: str
    sap_system: str
    dispatch_number: int
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class EventMessage:
    """Rings at the door of the webhooks service: the feed of a partner has grown up to `sequence`."""

    event_id: str
    partner_id: str
    sequence: int
    traceparent: str | None = None


def encode(message: OperationMessage | EventMessage) -> tuple[bytes, dict[str, str]]:
    """Return the data (JSON, UTF-8) and the attributes of a Pub/Sub message."""
    if isinstance(message, OperationMessage):
        data: dict[str, Any] = {
            "operation_id": message.operation_id,
            "payment_id": message.payment_id,
            "partner_id": message.partner_id,
            "sap_system": message.sap_system,
            "dispatch_number": message.dispatch_number,
        }
        event_id = f"{message.operation_id}.{message.dispatch_number}"
        event_type, source = OPERATION_DISPATCHED, "dispatcher/operations"
    else:
        data = {
            "event_id": message.event_id,
            "partner_id": message.partner_id,
            "sequence": message.sequence,
        }
        event_id, event_type, source = message.event_id, EVENT_SEQUENCED, "dispatcher/events"
    attributes = {
        "ce-specversion": CLOUDEVENTS_SPEC_VERSION,
        "ce-id": event_id,
        "ce-type": event_type,
        "ce-source": source,
        "content-type": "application/json",
    }
    if message.traceparent:
        attributes["traceparent"] = message.traceparent
    return json.dumps(data, separators=(",", ":")).encode(), attributes


def decode_operation(data: bytes, attributes: dict[str, str]) -> OperationMessage:
    """Read an operation message; UnreadableMessageError names what is missing, never a content."""
    document = _document(data, attributes, OPERATION_DISPATCHED)
    return OperationMessage(
        operation_id=_text(document, "operation_id"),
        payment_id=_text(document, "payment_id"),
        partner_id=_text(document, "partner_id"),
        sap_system=_text(document, "sap_system"),
        dispatch_number=_number(document, "dispatch_number"),
        traceparent=attributes.get("traceparent"),
    )


def decode_event(data: bytes, attributes: dict[str, str]) -> EventMessage:
    """Read an event message; UnreadableMessageError names what is missing, never a content."""
    document = _document(data, attributes, EVENT_SEQUENCED)
    return EventMessage(
        event_id=_text(document, "event_id"),
        partner_id=_text(document, "partner_id"),
        sequence=_number(document, "sequence"),
        traceparent=attributes.get("traceparent"),
    )


def _document(data: bytes, attributes: dict[str, str], expected_type: str) -> dict[str, Any]:
    if attributes.get("ce-type") != expected_type:
        raise UnreadableMessageError(f"attribute ce-type is not {expected_type}")
    try:
        document = json.loads(data)
    except ValueError as error:
        raise UnreadableMessageError("data is not JSON") from error
    if not isinstance(document, dict):
        raise UnreadableMessageError("data is not a JSON object")
    return document


def _text(document: dict[str, Any], name: str) -> str:
    value = document.get(name)
    # Ids are visible ASCII; anything else the database might refuse, each time the message comes.
    if not isinstance(value, str) or not value or not (value.isascii() and value.isprintable()):
        raise UnreadableMessageError(f"{name} is missing or no id")
    return value


def _number(document: dict[str, Any], name: str) -> int:
    value = document.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UnreadableMessageError(f"{name} is missing or not a whole number")
    return value
