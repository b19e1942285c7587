"""What is sent: the event's body, the same bytes in every attempt, and the Standard Webhooks headers.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from standardwebhooks import Webhook

from bridge.clock import rfc3339
from bridge.keyring import KeyRing
from bridge.storage.webhook_claims import ClaimedEvent
from bridge.webhook_endpoint import WebhookEndpoint
from bridge.webhook_secrets import open_key, open_secret

USER_AGENT = "Partner-Payments-Bridge-Webhooks/1"


@dataclass(frozen=True, slots=True)
class Signers:
    """`secrets` (`whsec_…`) make v1 signatures, HMAC-SHA256; `keys` make v1a, ed25519. The newest first."""

    secrets: Sequence[str]
    keys: Sequence[Ed25519PrivateKey]


def body_of(event: ClaimedEvent) -> bytes:
    """Return the event with `previous_sequence`, as canonical JSON (RFC 8785)."""
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


def headers_of(event_id: str, body: bytes, signers: Signers, now: datetime) -> dict[str, str]:
    """Return the headers of one attempt; each secret and key signs, so that a rotation loses nothing."""
    timestamp = now.astimezone(UTC).replace(microsecond=0)
    seconds = int(timestamp.timestamp())
    text = body.decode("utf-8")
    signatures = [Webhook(secret).sign(event_id, timestamp, text) for secret in signers.secrets]
    signed = f"{event_id}.{seconds}.{text}".encode()
    signatures += [f"v1a,{base64.b64encode(key.sign(signed)).decode()}" for key in signers.keys]
    return {
        "Content-Type": "application/json",
        "User-Agent": USER_AGENT,
        "webhook-id": event_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": " ".join(signatures),
    }


def signers_of(endpoint: WebhookEndpoint, key_ring: KeyRing, now: datetime) -> Signers:
    """Decrypt what signs for the endpoint at this moment; PermanentError if the ring can't read it."""
    secrets = [
        open_secret(key_ring, endpoint.endpoint_id, secret.encrypted)
        for secret in endpoint.secrets
        if secret.signs_at(now)
    ]
    keys = [
        Ed25519PrivateKey.from_private_bytes(open_key(key_ring, endpoint.endpoint_id, key.encrypted))
        for key in endpoint.keys
        if key.signs_at(now)
    ]
    return Signers(secrets, keys)
