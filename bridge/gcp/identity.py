"""Who calls our private routes: the OIDC token of a Google service account, or nobody on the emulators.

https://cloud.google.com/pubsub/docs/authenticate-push-subscriptions: any Google account can mint a token for
any audience, so the signature and the audience prove little; the e-mail has to be the expected one too.
"""

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from google.auth import exceptions, transport
from google.auth.transport.requests import Request as RequestsTransport
from google.oauth2 import id_token

from bridge.clock import Clock
from bridge.environment import on_cloud_run
from bridge.errors import RejectedError, SettingsError, TransientError
from bridge.web.bounded_session import bounded_session

CERTIFICATES_TIMEOUT_SECONDS = 5.0
CLOCK_SKEW_SECONDS = 10
MIN_FRESH_SECONDS = 60.0
MAX_FRESH_SECONDS = 6 * 3600.0
# Google announces keys a day before it signs with them: old certificates serve while it can't be reached.
MAX_STALE_SECONDS = 24 * 3600.0

_EMAIL = re.compile(r"[^@\s,]+@[^@\s,]+")


@dataclass(frozen=True, slots=True)
class CallerSettings:
    """Whose calls a private route takes. `callers` are the e-mails of service accounts."""

    authentication: Literal["oidc", "emulator"]
    audience: str
    callers: frozenset[str]

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "CallerSettings":
        """Read PUSH_AUTHENTICATION (oidc, the default, or emulator), PUSH_AUDIENCE and PUSH_CALLERS.

        PUSH_CALLERS is a list of e-mails, separated by commas. The emulators send no token; on Cloud Run
        the mode for them is refused.
        """
        authentication = environ.get("PUSH_AUTHENTICATION", "oidc")
        if authentication == "emulator":
            if on_cloud_run(environ):
                raise SettingsError("PUSH_AUTHENTICATION=emulator is not allowed on Cloud Run")
            return cls("emulator", "", frozenset())
        if authentication != "oidc":
            raise SettingsError("PUSH_AUTHENTICATION is neither oidc nor emulator")
        audience = environ.get("PUSH_AUDIENCE", "")
        if not audience:
            raise SettingsError("PUSH_AUDIENCE is missing: the audience of the callers' OIDC tokens")
        callers = frozenset(
            filter(None, (part.strip() for part in environ.get("PUSH_CALLERS", "").split(",")))
        )
        if not callers or not all(_EMAIL.fullmatch(caller) for caller in callers):
            raise SettingsError("PUSH_CALLERS is not a list of service accounts' e-mails")
        return cls("oidc", audience, callers)


def make_authenticator(settings: CallerSettings, clock: Clock) -> Callable[[str | None], None]:
    """Return what checks an Authorization header: RejectedError (401) unless the caller is expected."""
    if settings.authentication == "emulator":
        return _accept_anybody
    return ServiceAccountVerifier(settings, google_certificates(clock))


class ServiceAccountVerifier:
    """Checks signature, audience, expiry, issuer, e-mail and that Google has verified the e-mail."""

    def __init__(self, settings: CallerSettings, certificates: transport.Request) -> None:
        self._settings = settings
        self._certificates = certificates

    def __call__(self, authorization: str | None) -> None:
        """RejectedError (401) for a token that is not a caller's, TransientError without certificates."""
        email = verified_email(authorization, self._certificates, self._settings.audience)
        if email not in self._settings.callers:
            raise _unauthenticated("the token is of another caller")


def verified_email(authorization: str | None, certificates: transport.Request, audience: str) -> str:
    """Return the e-mail of a bearer token's owner: signature, audience, expiry, issuer are checked first.

    RejectedError (401) for a token that is not good here, TransientError without certificates.
    """
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise _unauthenticated("a bearer token is missing")
    try:
        claims = id_token.verify_oauth2_token(  # type: ignore[no-untyped-call]
            token.strip(), certificates, audience, CLOCK_SKEW_SECONDS
        )
    except exceptions.TransportError as error:
        raise TransientError("Google's certificates can't be fetched") from error
    except (ValueError, exceptions.GoogleAuthError) as error:
        raise _unauthenticated("the token is not valid here") from error
    email = claims.get("email")
    if claims.get("email_verified") is not True or not isinstance(email, str):
        raise _unauthenticated("the token is of another caller")
    return email


def google_certificates(clock: Clock) -> transport.Request:
    """Google's certificates, fetched when they are first needed and kept."""
    return CachedCertificates(_http_transport(), clock)


@dataclass(frozen=True, slots=True)
class _Kept:
    response: Any
    fetched_at_seconds: float
    fresh_until_seconds: float


class CachedCertificates(transport.Request):
    """Keeps the certificates for as long as their Cache-Control says, and longer while Google is away."""

    def __init__(self, inner: transport.Request, clock: Clock) -> None:
        self._inner = inner
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: Any = None,
        headers: Any = None,
        timeout: float = CERTIFICATES_TIMEOUT_SECONDS,
        **_options: Any,
    ) -> Any:
        """Return the response to a GET of `url`; TransportError if there is none, old or new."""
        if method != "GET" or body is not None:
            raise ValueError("only certificates are fetched, by GET")
        with self._lock:
            kept = self._kept.get(url)
            now_seconds = self._clock.monotonic()
            if kept and now_seconds < kept.fresh_until_seconds:
                return kept.response
            try:
                response = self._fetch(url, headers, timeout)
            except exceptions.TransportError:
                if not kept or now_seconds >= kept.fetched_at_seconds + MAX_STALE_SECONDS:
                    raise
                # Ask again in a while, not at each push.
                self._kept[url] = replace(kept, fresh_until_seconds=now_seconds + MIN_FRESH_SECONDS)
                return kept.response
            self._kept[url] = _Kept(response, now_seconds, now_seconds + fresh_seconds(response.headers))
            return response

    def _fetch(self, url: str, headers: Any, timeout: float) -> Any:
        response = self._inner(url, method="GET", headers=headers, timeout=timeout)
        if response.status != 200:
            raise exceptions.TransportError("no certificates")  # type: ignore[no-untyped-call]
        return response


def fresh_seconds(headers: Mapping[str, str]) -> float:
    """Return how long a response may be kept: Cache-Control's max-age (RFC 9111), within our bounds."""
    found = None
    for name, value in headers.items():
        if name.lower() == "cache-control":
            found = re.search(r"\bmax-age=(\d{1,9})\b", value)
    return (
        min(max(float(found.group(1)), MIN_FRESH_SECONDS), MAX_FRESH_SECONDS) if found else MIN_FRESH_SECONDS
    )


def _http_transport() -> transport.Request:
    return RequestsTransport(session=bounded_session(CERTIFICATES_TIMEOUT_SECONDS))


def _accept_anybody(_authorization: str | None) -> None:
    """The emulators send no token."""


def _unauthenticated(detail: str) -> RejectedError:
    return RejectedError("unauthenticated", 401, detail, headers={"WWW-Authenticate": "Bearer"})
