"""What is sent: the event's body, the same bytes in every attempt, and the Standard Webhooks headers.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import rfc8785
from standardwebhooks import Webhook

from bridge.clock import rfc3339
from bridge.errors import PermanentError
from bridge.keyring import KeyRing
from bridge.partner import WebhookEndpoint
from bridge.storage.webhook_attempts import ClaimedEvent

USER_AGENT = "Partner-Payments-Bridge-Webhooks/1"


def body_of(event: ClaimedEvent) -> bytes:
    """Return API.md's event with `previous_sequence`, as canonical JSON (RFC 8785)."""
    return rfc8785.dumps(
        {
            "id": event.event_id,
            "sequence": event.sequence,
            "previous_sequence": event.previous_sequence,
            "type": event.event_type,
            "timestamp": rfc3339(event.created_at),
            "data": event.data,
        }
    )


def headers_of(event_id: str, body: bytes, secrets: Sequence[str], now: datetime) -> dict[str, str]:
    """Return the headers of one attempt; every secret (`whsec_…`) signs, so that a rotation loses nothing."""
    timestamp = now.astimezone(UTC).replace(microsecond=0)
    text = body.decode("utf-8")
    signatures = [Webhook(secret).sign(event_id, timestamp, text) for secret in secrets]
    return {
        "Content-Type": "application/json",
        "User-Agent": USER_AGENT,
        "webhook-id": event_id,
        "webhook-timestamp": str(int(timestamp.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def secrets_of(endpoint: WebhookEndpoint, key_ring: KeyRing) -> list[str]:
    """Decrypt the endpoint's signing secrets; PermanentError if the ring can't read one of them."""
    place = {"table": "webhook_endpoints", "column": "encrypted_secrets", "row": endpoint.endpoint_id}
    values = [key_ring.decrypt(value, **place) for value in endpoint.encrypted_secrets]
    try:
        return [value.decode("ascii") for value in values]
    except UnicodeDecodeError as error:
        raise PermanentError(f"a secret of {endpoint.endpoint_id} is not a whsec_ text") from error
