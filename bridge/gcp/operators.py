"""Who operates the private APIs: named by Identity-Aware Proxy, a Google ID token, or locally a header."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from google.auth import transport

from bridge.clock import Clock
from bridge.environment import on_cloud_run
from bridge.errors import RejectedError, SettingsError
from bridge.gcp import iap
from bridge.gcp.iap import verified_iap_email
from bridge.gcp.identity import google_certificates, verified_email

OPERATOR_HEADER = "X-Operator"

_EMAIL = re.compile(r"[^@\s,]+@[^@\s,]+")
_NAME = re.compile(r"[A-Za-z0-9._@+-]{1,100}")


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """Who may operate. `operators` are the e-mails of people or service accounts."""

    authentication: Literal["iap", "oidc", "emulator"]
    audience: str
    operators: frozenset[str]

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "OperatorSettings":
        """Read OPERATOR_AUTHENTICATION (oidc by default, iap, or emulator), OPERATOR_AUDIENCE and OPERATORS.

        OPERATORS is a list of e-mails, separated by commas. The audience is that of the ID tokens, or of the
        assertions of Identity-Aware Proxy. In emulator mode the header X-Operator is believed; on Cloud Run
        that mode is refused.
        """
        authentication = environ.get("OPERATOR_AUTHENTICATION", "oidc")
        if authentication == "emulator":
            if on_cloud_run(environ):
                raise SettingsError("OPERATOR_AUTHENTICATION=emulator is not allowed on Cloud Run")
            return cls("emulator", "", frozenset())
        if authentication not in ("iap", "oidc"):
            raise SettingsError("OPERATOR_AUTHENTICATION is none of iap, oidc and emulator")
        audience = environ.get("OPERATOR_AUDIENCE", "")
        if not audience:
            raise SettingsError("OPERATOR_AUDIENCE is missing: the audience of the operators' tokens")
        parts = (part.strip() for part in environ.get("OPERATORS", "").split(","))
        operators = frozenset(filter(None, parts))
        if not operators or not all(_EMAIL.fullmatch(operator) for operator in operators):
            raise SettingsError("OPERATORS is not a list of e-mails")
        return cls("iap" if authentication == "iap" else "oidc", audience, operators)


# Takes a request's headers (names in any case); returns the operator's name for the audit trail.
OperatorAuthenticator = Callable[[Mapping[str, str]], str]


def make_operator_authenticator(
    settings: OperatorSettings, clock: Clock, certificates: transport.Request | None = None
) -> OperatorAuthenticator:
    """Return what names the operator of a request, or raises RejectedError (401, 403).

    `certificates` answers requests for Google's certificates; they are fetched from Google by default.
    """
    if settings.authentication == "emulator":
        return _believe
    return OperatorVerifier(settings, certificates or google_certificates(clock))


class OperatorVerifier:
    """Takes the Google ID token of a listed operator, or what Identity-Aware Proxy asserts of one.

    Behind IAP only its assertion counts: an ID token has been checked by IAP, and for another audience.
    """

    def __init__(self, settings: OperatorSettings, certificates: transport.Request) -> None:
        self._settings = settings
        self._certificates = certificates

    def __call__(self, headers: Mapping[str, str]) -> str:
        """RejectedError: 401 for a bad token, 403 for somebody who is no operator."""
        audience = self._settings.audience
        if self._settings.authentication == "iap":
            email = verified_iap_email(headers.get(iap.HEADER), self._certificates, audience)
        else:
            email = verified_email(headers.get("Authorization"), self._certificates, audience)
        if email not in self._settings.operators:
            raise RejectedError(
                "not-an-operator", 403, "The token's owner is not an operator of this service."
            )
        return email


def _believe(headers: Mapping[str, str]) -> str:
    name = headers.get(OPERATOR_HEADER, "")
    if not _NAME.fullmatch(name):
        raise RejectedError("unauthenticated", 401, f"{OPERATOR_HEADER} has to name the operator.")
    return name
