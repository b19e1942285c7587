"""Access tokens: JWT, `at+jwt` (RFC 9068), RS256. Made and verified here, by the same rules."""

import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

from bridge.partner import Client
from gateway.keys import TokenKeys

ALGORITHM = "RS256"
TOKEN_TYPES = frozenset({"at+jwt", "application/at+jwt"})
# Two instances' clocks may differ by this; a token is never good for longer than its `exp`.
MAX_CLOCK_SKEW_SECONDS = 10
MAX_TOKEN_CHARACTERS = 8192


class InvalidTokenError(Exception):
    """The token is not one of ours, or its time is over; the text is for our logs."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says."""

    partner_id: str
    client_id: str
    scopes: frozenset[str]


class AccessTokens:
    """Issues and verifies; both take the time as a parameter."""

    def __init__(self, keys: TokenKeys, *, issuer: str, audience: str, lifetime_seconds: int) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self.lifetime_seconds = lifetime_seconds

    def issue(self, client: Client, partner_id: str, scopes: tuple[str, ...], now: datetime) -> str:
        issued_at = int(now.timestamp())
        claims = {
            "iss": self._issuer,
            "sub": client.client_id,
            "aud": self._audience,
            "iat": issued_at,
            "exp": issued_at + self.lifetime_seconds,
            "jti": secrets.token_urlsafe(16),
            "client_id": client.client_id,
            "scope": " ".join(scopes),
            "partner_id": partner_id,
        }
        header = {"alg": ALGORITHM, "typ": "at+jwt", "kid": self._keys.signing_kid}
        return jwt.encode(header, claims, self._keys.signing_key, algorithms=[ALGORITHM])

    def verify(self, token: str, now: datetime) -> Claims:
        """Return the claims; InvalidTokenError for any token that this issuer would not have made."""
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise InvalidTokenError("longer than any token of ours")
        try:
            decoded = jwt.decode(token, self._key_of, algorithms=[ALGORITHM])
        except (JoseError, ValueError) as error:
            raise InvalidTokenError(f"does not verify: {type(error).__name__}") from error
        if not isinstance(decoded.claims, dict):
            raise InvalidTokenError("its claims are not an object")
        self._check_time(decoded.claims, now)
        return self._read(decoded.claims)

    def _key_of(self, signed: Any) -> RSAKey:
        header = signed.headers()
        # Checked before the signature: neither an id token nor a receipt is an access token.
        if header.get("typ") not in TOKEN_TYPES:
            raise ValueError("typ is not at+jwt")
        key = self._keys.find(header.get("kid"))
        if key is None:
            raise ValueError("kid is none of ours")
        return key

    def _check_time(self, claims: dict[str, Any], now: datetime) -> None:
        moment = now.timestamp()
        expires_at, issued_at = _number(claims, "exp"), _number(claims, "iat")
        not_before = _number(claims, "nbf") if "nbf" in claims else issued_at
        if moment >= expires_at:
            raise InvalidTokenError("expired")
        if max(issued_at, not_before) > moment + MAX_CLOCK_SKEW_SECONDS:
            raise InvalidTokenError("from the future")

    def _read(self, claims: dict[str, Any]) -> Claims:
        if claims.get("iss") != self._issuer:
            raise InvalidTokenError("another issuer's")
        audience = claims.get("aud")
        if self._audience not in (audience if isinstance(audience, list) else [audience]):
            raise InvalidTokenError("for another audience")
        values = [claims.get(name) for name in ("partner_id", "client_id", "scope")]
        partner_id, client_id, scope = values
        if not (isinstance(partner_id, str) and isinstance(client_id, str) and isinstance(scope, str)):
            raise InvalidTokenError("partner_id, client_id or scope is missing")
        return Claims(partner_id, client_id, frozenset(scope.split()))


def _number(claims: dict[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidTokenError(f"{name} is not a number")
    return value
