"""What an endpoint signs with: made new, and rotated with an overlap (Standard Webhooks)."""

import base64
import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bridge.errors import RejectedError
from bridge.keyring import KeyRing
from bridge.webhook_endpoint import (
    MAX_SECRETS,
    PUBLIC_KEY_PREFIX,
    SECRET_PREFIX,
    AskedBy,
    SigningKey,
    SigningSecret,
    WebhookEndpoint,
)
from bridge.webhook_secrets import open_secret, seal_key, seal_secret

# Standard Webhooks: 24 to 64 bytes.
SECRET_BYTES = 32
OVERLAP = timedelta(hours=24)

Signer = TypeVar("Signer", SigningSecret, SigningKey)


@dataclass(frozen=True, slots=True)
class SecretMaker:
    """Makes secrets and keys, sealed by the webhook key ring."""

    key_ring: KeyRing

    def secret(self, endpoint_id: str, asked_by: AskedBy | None) -> SigningSecret:
        value = SECRET_PREFIX + base64.b64encode(os.urandom(SECRET_BYTES)).decode()
        return SigningSecret(encrypted=seal_secret(self.key_ring, endpoint_id, value), asked_by=asked_by)

    def key(self, endpoint_id: str) -> SigningKey:
        private = Ed25519PrivateKey.generate()
        public = PUBLIC_KEY_PREFIX + base64.b64encode(private.public_key().public_bytes_raw()).decode()
        return SigningKey(
            public=public, encrypted=seal_key(self.key_ring, endpoint_id, private.private_bytes_raw())
        )

    def shown(self, endpoint_id: str, secret: SigningSecret) -> str:
        """Return the secret in clear, for the one answer that shows it."""
        return open_secret(self.key_ring, endpoint_id, secret.encrypted)

    def rotated(self, endpoint: WebhookEndpoint, asked_by: AskedBy | None, now: datetime) -> WebhookEndpoint:
        """Return the endpoint with a new secret and its next key in use; the others sign for a day more.

        409 if there were too many rotations within that day.
        """
        secrets = [_ending(secret, now) for secret in endpoint.secrets if secret.signs_at(now)]
        keys = [_ending(key, now) for key in endpoint.keys if key.signs_at(now)]
        if max(len(secrets), len(keys)) >= MAX_SECRETS:
            raise RejectedError(
                "too-many-secrets", 409, f"{MAX_SECRETS} secrets sign already; the oldest ends within a day."
            )
        return endpoint.model_copy(
            update={
                "secrets": (self.secret(endpoint.endpoint_id, asked_by), *secrets),
                "keys": (endpoint.next_key or self.key(endpoint.endpoint_id), *keys),
                "next_key": self.key(endpoint.endpoint_id),
            }
        )


def _ending(signer: Signer, now: datetime) -> Signer:
    until = now + OVERLAP
    if signer.signs_until is not None and signer.signs_until < until:
        return signer
    return signer.model_copy(update={"signs_until": until})
