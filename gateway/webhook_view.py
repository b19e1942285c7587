"""How webhook endpoints, deliveries and attempts are shown to their partner."""

from datetime import datetime
from typing import Any

from bridge.clock import rfc3339
from bridge.storage.webhook_deliveries import Attempt, Delivery
from gateway.webhook_endpoints import StandingEndpoint


def endpoint_view(standing: StandingEndpoint, now: datetime) -> dict[str, Any]:
    """Return the endpoint; with its secret only if this answer shows it."""
    endpoint, state = standing.endpoint, standing.state
    current = [key.public for key in endpoint.keys[:1]]
    following = [endpoint.next_key.public] if endpoint.next_key else []
    former = [key.public for key in endpoint.keys[1:] if key.signs_at(now)]
    shown: dict[str, Any] = {
        "id": endpoint.endpoint_id,
        "url": endpoint.url,
        "event_types": list(endpoint.event_types),
        "description": endpoint.description,
        "status": state.status,
        "disabled_reason": state.disabled_reason,
        "failing_since": _moment(state.failing_since),
        "public_keys": [*current, *following, *former],
        "created_at": _moment(endpoint.created_at),
    }
    if standing.secret is not None:
        shown["secret"] = standing.secret
    return shown


def delivery_view(delivery: Delivery) -> dict[str, Any]:
    return {
        "id": delivery.delivery_id,
        "endpoint_id": delivery.endpoint_id,
        "event_id": delivery.event_id,
        "event_type": delivery.event_type,
        "sequence": delivery.sequence,
        "previous_sequence": delivery.previous_sequence,
        "status": delivery.status,
        "attempt_count": delivery.attempts,
        "next_attempt_at": _moment(delivery.next_attempt_at),
        "delivered_at": _moment(delivery.delivered_at),
        "created_at": _moment(delivery.created_at),
    }


def attempt_view(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.attempt_number,
        "started_at": _moment(attempt.started_at),
        "duration_ms": attempt.duration_ms,
        "response_status": attempt.response_status,
        "error_class": attempt.error_class,
        "response_excerpt": attempt.response_excerpt,
        "next_attempt_at": _moment(attempt.next_attempt_at),
    }


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)
