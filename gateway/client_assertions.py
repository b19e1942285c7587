"""`private_key_jwt`: a client that signs a short JWT instead of sending a secret (RFC 7521, RFC 7523).

The key is one that was registered on the client; nothing in the assertion's header (`jwk`, `jku`, `x5u`) is
looked at for one. An assertion is good once: its `jti` is spent by a unique constraint.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey
from joserfc.jws import JWSRegistry
from sqlalchemy import Engine

from bridge.partner import Client, ClientKey, EcClientKey
from bridge.storage.client_assertions import spend

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ALGORITHMS = ("RS256", "ES256")
# The last is what the successor of RFC 7523 asks for. Never a token's or a receipt's.
TYPES = (None, "JWT", "jwt", "client-authentication+jwt")
MAX_CHARACTERS = 8192
MAX_JTI_CHARACTERS = 255
MAX_LIFETIME_SECONDS = 300
MAX_CLOCK_SKEW_SECONDS = 10
# header members that are not known are ignored (RFC 7515 section 4), which joserfc does not do by default
_REGISTRY = JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)


class InvalidAssertionError(Exception):
    """The assertion does not prove who the client is; the text is for our logs."""


@dataclass(frozen=True, slots=True)
class ClientAssertions:
    """`audiences` are the names that this server answers to: its issuer and its token endpoint."""

    engine: Engine
    audiences: frozenset[str]

    def verify(self, assertion: str, client: Client, now: datetime) -> None:
        """Return if `client` has signed the assertion for us, now, and it is the first time that we see it.

        InvalidAssertionError otherwise. Only what has been verified is written down.
        """
        claims = _signed_claims(assertion, client)
        jti, expires_at = self._checked(claims, client.client_id, now)
        with self.engine.begin() as connection:
            kept_until = expires_at + timedelta(seconds=MAX_CLOCK_SKEW_SECONDS)
            if not spend(connection, client_id=client.client_id, jti=jti, kept_until=kept_until, now=now):
                raise InvalidAssertionError("replayed")

    def _checked(self, claims: Mapping[str, Any], client_id: str, now: datetime) -> tuple[str, datetime]:
        if claims.get("iss") != client_id or claims.get("sub") != client_id:
            raise InvalidAssertionError("iss and sub are not the client")
        audience = claims.get("aud")
        # one audience only: an assertion that another server may use as well is no proof to us
        if isinstance(audience, list) and len(audience) == 1:
            audience = audience[0]
        if not isinstance(audience, str) or audience not in self.audiences:
            raise InvalidAssertionError("for another audience")
        moment = now.timestamp()
        expires_at = _moment(claims, "exp")
        if (
            expires_at is None
            or not moment < expires_at <= moment + MAX_LIFETIME_SECONDS + MAX_CLOCK_SKEW_SECONDS
        ):
            raise InvalidAssertionError("expired, or good for too long")
        for name in ("iat", "nbf"):
            begins_at = _moment(claims, name)
            if begins_at is not None and begins_at > moment + MAX_CLOCK_SKEW_SECONDS:
                raise InvalidAssertionError("from the future")
        jti = claims.get("jti")
        if not isinstance(jti, str) or not 1 <= len(jti) <= MAX_JTI_CHARACTERS or not jti.isprintable():
            raise InvalidAssertionError("jti is missing or too long")
        return jti, datetime.fromtimestamp(expires_at, UTC)


def claimed_client_id(assertion: str) -> str:
    """Return whose it says it is, before anything is verified; InvalidAssertionError if it says nothing."""
    if len(assertion) > MAX_CHARACTERS:
        raise InvalidAssertionError("longer than an assertion has to be")
    try:
        encoded = assertion.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    except (IndexError, ValueError, RecursionError) as error:
        raise InvalidAssertionError("not a JWT") from error
    subject = claims.get("sub") if isinstance(claims, dict) else None
    if not isinstance(subject, str):
        raise InvalidAssertionError("without a subject")
    return subject


def _signed_claims(assertion: str, client: Client) -> dict[str, Any]:
    def key_of(signed: Any) -> RSAKey | ECKey:
        header = signed.headers()
        if header.get("typ") not in TYPES:
            raise ValueError("typ is not an assertion's")
        if "crit" in header:
            raise ValueError("crit names extensions, and none is known here")
        return imported(_registered(client, header.get("kid"), header.get("alg")))

    try:
        decoded = jwt.decode(assertion, key_of, registry=_REGISTRY)
    except (JoseError, ValueError, TypeError, RecursionError) as error:
        raise InvalidAssertionError(f"does not verify: {type(error).__name__}") from error
    if not isinstance(decoded.claims, dict):
        raise InvalidAssertionError("its claims are not an object")
    return decoded.claims


def _registered(client: Client, kid: object, algorithm: object) -> ClientKey:
    """Return the one key that the assertion can mean; without `kid` there must be no doubt."""
    fitting = [
        key for key in client.public_keys if key.algorithm == algorithm and (kid is None or key.kid == kid)
    ]
    if len(fitting) != 1:
        raise ValueError("kid is not one of the client's keys")
    return fitting[0]


@lru_cache(maxsize=1024)
def imported(key: ClientKey) -> RSAKey | ECKey:
    """Return the key ready to verify. ValueError: its numbers are no key (a point beside the curve)."""
    members = key.model_dump(exclude_none=True)
    if isinstance(key, EcClientKey):
        return ECKey.import_key(members)
    return RSAKey.import_key(members)


def _moment(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
        raise InvalidAssertionError(f"{name} is not a moment")
    return value
