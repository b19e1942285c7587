"""Receipts: what a partner keeps as our signed word that a payment was accepted (JWS, EdDSA)."""

import base64
import hashlib
import json
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bridge.clock import rfc3339
from bridge.money import Money
from gateway.keys import ReceiptKeys

TYPE = "receipt+jws"
ALGORITHM = "EdDSA"


class Receipts:
    """`keys` are Ed25519 with kids; `issuer` is our public URL.

    The signature is the key's own (RFC 8037 section 3.1): a JOSE library's way around it costs twice as much,
    for every payment.
    """

    def __init__(self, keys: ReceiptKeys, issuer: str) -> None:
        private = keys.signing.private_key
        if not isinstance(private, Ed25519PrivateKey):
            raise TypeError("receipts are signed with Ed25519")
        self._sign = private.sign
        self._issuer = issuer
        self._public = [key.as_dict(private=False) for key in (keys.signing, *keys.former)]
        header = {"alg": ALGORITHM, "typ": TYPE, "kid": keys.signing.kid}
        self._head = _part(json.dumps(header, separators=(",", ":")).encode()) + b"."

    def sign(
        self, *, payment_id: str, external_id: str, amount: Money, body: bytes, accepted_at: datetime
    ) -> str:
        """Return the compact JWS. `body_sha256` is the hex SHA-256 of the body's bytes as they came."""
        payload = {
            "iss": self._issuer,
            "payment_id": payment_id,
            "external_id": external_id,
            "amount": amount.as_json(),
            "body_sha256": hashlib.sha256(body).hexdigest(),
            "accepted_at": rfc3339(accepted_at),
        }
        message = self._head + _part(json.dumps(payload, separators=(",", ":")).encode())
        return b".".join((message, _part(self._sign(message)))).decode()

    def public_jwks(self) -> dict[str, Any]:
        """Every key that has ever signed: a receipt is kept for longer than its key signs."""
        return {"keys": self._public}


def _part(raw: bytes) -> bytes:
    """Base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=")
