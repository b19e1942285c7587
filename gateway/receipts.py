"""Receipts: what a partner keeps as our signed word that a payment was accepted (JWS, EdDSA)."""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from joserfc import jws
from joserfc.jwk import OKPKey
from joserfc.jws import JWSRegistry

from bridge.clock import rfc3339
from bridge.money import Money

TYPE = "receipt+jws"
ALGORITHM = "EdDSA"


class _Registry(JWSRegistry):
    """Knows EdDSA. joserfc warns of that name since RFC 9864, but partners' libraries know no other yet."""

    def get_alg(self, name: str) -> Any:
        return self.algorithms[name]


@dataclass(frozen=True, slots=True)
class Receipts:
    """`key` is an Ed25519 private key with a kid; `issuer` is our public URL."""

    key: OKPKey
    issuer: str

    def sign(
        self, *, payment_id: str, external_id: str, amount: Money, body: bytes, accepted_at: datetime
    ) -> str:
        """Return the compact JWS. `body_sha256` is the hex SHA-256 of the body's bytes as they came."""
        payload = {
            "iss": self.issuer,
            "payment_id": payment_id,
            "external_id": external_id,
            "amount": amount.as_json(),
            "body_sha256": hashlib.sha256(body).hexdigest(),
            "accepted_at": rfc3339(accepted_at),
        }
        header = {"alg": ALGORITHM, "typ": TYPE, "kid": self.key.kid}
        return jws.serialize_compact(
            header, json.dumps(payload, separators=(",", ":")).encode(), self.key, registry=_Registry()
        )

    def public_jwks(self) -> dict[str, Any]:
        return {"keys": [self.key.as_dict(private=False)]}
