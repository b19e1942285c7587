"""Who Identity-Aware Proxy says has called: its signed header, verified.

https://cloud.google.com/iap/docs/signed-headers-howto: IAP signs with ES256; the audience names the resource
that it protects, for Cloud Run `/projects/NUMBER/locations/REGION/services/NAME`. Its public keys change.
"""

from collections.abc import Mapping
from typing import Any

from google.auth import exceptions, jwt, transport
from google.oauth2 import id_token

from bridge.errors import RejectedError, TransientError
from bridge.gcp.identity import CLOCK_SKEW_SECONDS

HEADER = "X-Goog-IAP-JWT-Assertion"
ISSUER = "https://cloud.google.com/iap"
KEYS_URL = "https://www.gstatic.com/iap/verify/public_key"
ALGORITHM = "ES256"


def verified_iap_email(assertion: str | None, keys: transport.Request, audience: str) -> str:
    """Return the e-mail of the person whom IAP has let in.

    `keys` answers a GET of KEYS_URL. RejectedError (401) for an assertion that is missing or not good here,
    TransientError without keys.
    """
    if not assertion:
        raise _unauthenticated(f"{HEADER} is missing: the service is reached through Identity-Aware Proxy")
    try:
        if jwt.decode_header(assertion).get("alg") != ALGORITHM:  # type: ignore[no-untyped-call]
            raise _unauthenticated(f"{HEADER} is not signed with {ALGORITHM}")
        claims: Mapping[str, Any] = id_token.verify_token(
            assertion, keys, audience, KEYS_URL, CLOCK_SKEW_SECONDS
        )
    except exceptions.TransportError as error:
        raise TransientError("the keys of Identity-Aware Proxy can't be fetched") from error
    except (ValueError, exceptions.GoogleAuthError) as error:
        raise _unauthenticated(f"{HEADER} is not valid here") from error
    email = claims.get("email")
    if claims.get("iss") != ISSUER or not isinstance(email, str):
        raise _unauthenticated(f"{HEADER} is of another issuer")
    return email


def _unauthenticated(detail: str) -> RejectedError:
    return RejectedError("unauthenticated", 401, detail)
