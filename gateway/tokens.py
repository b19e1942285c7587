"""Access tokens: JWT, `at+jwt` (RFC 9068), RS256. Made and verified here, by the same rules."""

import math
import secrets
from datetime import datetime
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

from bridge.partner import Client
from gateway.signing_keys import TokenKeys
from gateway.verified_tokens import Claims, VerifiedToken, VerifiedTokens

ALGORITHM = "RS256"
TOKEN_TYPES = frozenset({"at+jwt", "application/at+jwt"})
# Two instances' clocks may differ by this; a token is never good for longer than its `exp`.
MAX_CLOCK_SKEW_SECONDS = 10
MAX_TOKEN_CHARACTERS = 8192


class InvalidTokenError(Exception):
    """The token is not one of ours, or its time is over; the text is for our logs."""


class AccessTokens:
    """Issues and verifies; both take the time as a parameter."""

    def __init__(self, keys: TokenKeys, *, issuer: str, audience: str, lifetime_seconds: int) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self.lifetime_seconds = lifetime_seconds
        self._verified = VerifiedTokens()

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
        signing = self._keys.signing(now)
        header = {"alg": ALGORITHM, "typ": "at+jwt", "kid": signing.kid}
        return jwt.encode(header, claims, signing.key, algorithms=[ALGORITHM])

    def verify(self, token: str, now: datetime) -> Claims:
        """Return the claims; InvalidTokenError for any token that this issuer would not have made."""
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise InvalidTokenError("longer than any token of ours")
        known = self._verified.find(token)
        # A key that is gone takes its tokens with it, also those that were verified before.
        if known is not None and self._keys.find(known.kid, now) is not known.key:
            self._verified.forget(token)
            known = None
        verified = known or self._verify_signature(token, now)
        _require_time(verified, now)
        if known is None:
            self._verified.remember(token, verified)
        return verified.claims

    def _verify_signature(self, token: str, now: datetime) -> VerifiedToken:
        keys: list[RSAKey] = []

        def key_of(signed: Any) -> RSAKey:
            keys.append(self._key_of(signed, now))
            return keys[-1]

        try:
            decoded = jwt.decode(token, key_of, algorithms=[ALGORITHM])
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            raise InvalidTokenError(f"does not verify: {type(error).__name__}") from error
        if not isinstance(decoded.claims, dict):
            raise InvalidTokenError("its claims are not an object")
        issued_at = _number(decoded.claims, "iat")
        not_before = _number(decoded.claims, "nbf") if "nbf" in decoded.claims else issued_at
        return VerifiedToken(
            claims=self._read(decoded.claims),
            starts_at=max(issued_at, not_before),
            expires_at=_number(decoded.claims, "exp"),
            kid=decoded.header["kid"],
            key=keys[-1],
        )

    def _key_of(self, signed: Any, now: datetime) -> RSAKey:
        header = signed.headers()
        # Checked before the signature: neither an id token nor a receipt is an access token.
        if header.get("typ") not in TOKEN_TYPES:
            raise ValueError("typ is not at+jwt")
        key = self._keys.find(header.get("kid"), now)
        if key is None:
            raise ValueError("kid is none of ours")
        return key

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


def _require_time(token: VerifiedToken, now: datetime) -> None:
    moment = now.timestamp()
    if moment >= token.expires_at:
        raise InvalidTokenError("expired")
    if token.starts_at > moment + MAX_CLOCK_SKEW_SECONDS:
        raise InvalidTokenError("from the future")


def _number(claims: dict[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidTokenError(f"{name} is not a number")
    return value
