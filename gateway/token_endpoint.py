"""`POST /oauth2/token`: client_credentials (RFC 6749 sections 4.4 and 5).

Clients authenticate by HTTP Basic, form fields, or an assertion that they sign (RFC 7523): by one of them.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote_plus

import structlog
from flask import Flask, Response, jsonify, request

from bridge.clock import Clock
from bridge.partner import Client, PartnerConfiguration, PartnerStatus
from bridge.ports import PartnerDirectory
from gateway.authorization import REALM, authorization_header
from gateway.client_assertions import (
    ASSERTION_TYPE,
    ClientAssertions,
    InvalidAssertionError,
    claimed_client_id,
)
from gateway.client_secrets import SecretVerifier
from gateway.json_body import read_bounded
from gateway.limits import TokenLimits
from gateway.tokens import AccessTokens

PATH = "/oauth2/token"
MAX_BODY_BYTES = 16 * 1024
MAX_PARAMETERS = 20
AUTHENTICATION_METHODS = ("client_secret_basic", "client_secret_post", "private_key_jwt")
_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}

_log = structlog.get_logger(__name__)


class _TokenError(Exception):
    """An error answer of RFC 6749 section 5.2."""

    def __init__(self, code: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.code = code
        self.description = description
        self.status = status


@dataclass(frozen=True, slots=True)
class _Secret:
    client_id: str
    secret: str


@dataclass(frozen=True, slots=True)
class _Assertion:
    client_id: str
    assertion: str


@dataclass(frozen=True, slots=True)
class TokenEndpoint:
    """Authenticates clients and gives them tokens."""

    tokens: AccessTokens
    secrets: SecretVerifier
    assertions: ClientAssertions
    limits: TokenLimits
    directory: PartnerDirectory
    clock: Clock

    def register(self, app: Flask) -> None:
        app.add_url_rule(PATH, endpoint="token", view_func=self._answer, methods=["POST"])

    def _answer(self) -> Response:
        address = self.limits.request_comes()
        try:
            form = _form()
            partner, client = self._authenticate(_credentials(form), address)
            self.limits.token_goes(client.client_id)
            scopes = _granted(form, client)
        except _TokenError as error:
            return _error_answer(error)
        token = self.tokens.issue(client, partner.partner_id, scopes, self.clock.now())
        _log.info("token issued", partner_id=partner.partner_id, client_id=client.client_id)
        answer = jsonify(
            access_token=token,
            token_type="Bearer",  # noqa: S106 - the type's name in RFC 6750, no secret
            expires_in=self.tokens.lifetime_seconds,
            scope=" ".join(scopes),
        )
        answer.headers.update(_NO_STORE)
        return answer

    def _authenticate(
        self, credentials: _Secret | _Assertion, address: str
    ) -> tuple[PartnerConfiguration, Client]:
        client_id = credentials.client_id
        partner = self.directory.by_client(client_id)
        client = partner.client(client_id) if partner else None
        if isinstance(credentials, _Secret):
            known = self._verify_secret(credentials, client, address)
        else:
            known = client is not None and self._verify_assertion(credentials, client)
        if not known or partner is None or client is None:
            raise _unknown_client()
        if partner.status != PartnerStatus.ACTIVE:
            raise _TokenError("unauthorized_client", "The partner's access is suspended.")
        return partner, client

    def _verify_secret(self, credentials: _Secret, client: Client | None, address: str) -> bool:
        # An unknown client is verified too, against nobody's hash: it must not be told from a wrong secret.
        arguments = credentials.client_id, client.secret_hash if client else None, credentials.secret
        if not self.secrets.remembers(*arguments):
            self.limits.guess_comes(credentials.client_id, address)
        return self.secrets.verify(*arguments)

    def _verify_assertion(self, credentials: _Assertion, client: Client) -> bool:
        try:
            self.assertions.verify(credentials.assertion, client, self.clock.now())
        except InvalidAssertionError as error:
            _log.info("client assertion refused", client_id=client.client_id, reason=str(error))
            return False
        return True


def _form() -> dict[str, str]:
    """Return the form's parameters; those without a value count as left out (RFC 6749 section 3.2)."""
    if request.mimetype != "application/x-www-form-urlencoded":
        raise _TokenError("invalid_request", "Send the parameters as application/x-www-form-urlencoded.")
    body = read_bounded(request, max_bytes=MAX_BODY_BYTES)
    try:
        fields = parse_qsl(
            body.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS
        )
    except ValueError as error:
        raise _TokenError("invalid_request", "The parameters can't be read.") from error
    form = dict(fields)
    if len(form) != len(fields):
        raise _TokenError("invalid_request", "A parameter is there twice.")
    return {name: value for name, value in form.items() if value}


def _credentials(form: Mapping[str, str]) -> _Secret | _Assertion:
    """Return what the client authenticates with; RFC 6749 section 2.3 allows one method per request."""
    # Another scheme is not the client's: the API Gateway puts its own bearer token where none was.
    scheme, _, encoded = (authorization_header() or "").partition(" ")
    is_basic = scheme.lower() == "basic"
    is_assertion = "client_assertion" in form or "client_assertion_type" in form
    if is_basic + is_assertion + ("client_secret" in form) > 1:
        raise _TokenError("invalid_request", "Use one way of client authentication.")
    if is_assertion:
        return _assertion(form)
    if is_basic:
        credentials = _basic(encoded)
        if form.get("client_id", credentials.client_id) != credentials.client_id:
            raise _TokenError("invalid_request", "client_id is not the client that authenticates.")
        return credentials
    if "client_id" in form and "client_secret" in form:
        return _Secret(form["client_id"], form["client_secret"])
    raise _TokenError("invalid_client", "Authenticate the client, best by HTTP Basic.", 401)


def _assertion(form: Mapping[str, str]) -> _Assertion:
    if form.get("client_assertion_type") != ASSERTION_TYPE or "client_assertion" not in form:
        raise _TokenError("invalid_client", f"client_assertion_type is {ASSERTION_TYPE}.", 401)
    try:
        client_id = claimed_client_id(form["client_assertion"])
    except InvalidAssertionError as error:
        raise _unknown_client() from error
    if form.get("client_id", client_id) != client_id:
        raise _unknown_client()
    return _Assertion(client_id, form["client_assertion"])


def _unknown_client() -> _TokenError:
    return _TokenError("invalid_client", "The client is unknown or has not proved that it is it.", 401)


def _basic(encoded: str) -> _Secret:
    """Read HTTP Basic; id and secret are form-encoded within it (RFC 6749 section 2.3.1)."""
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True).decode("utf-8")
        client_id, colon, secret = decoded.partition(":")
        credentials = _Secret(unquote_plus(client_id, errors="strict"), unquote_plus(secret, errors="strict"))
    except (binascii.Error, ValueError) as error:
        raise _TokenError("invalid_client", "The HTTP Basic credentials can't be read.", 401) from error
    if not colon:
        raise _TokenError("invalid_client", "The HTTP Basic credentials can't be read.", 401)
    return credentials


def _granted(form: Mapping[str, str], client: Client) -> tuple[str, ...]:
    grant_type = form.get("grant_type")
    if grant_type is None:
        raise _TokenError("invalid_request", "grant_type is missing.")
    if grant_type != "client_credentials":
        raise _TokenError("unsupported_grant_type", "The grant type is client_credentials.")
    if "scope" not in form:
        return client.scopes
    wanted = form["scope"].split(" ")
    if not set(wanted) <= set(client.scopes):
        raise _TokenError("invalid_scope", "The client may not have all of these scopes.")
    return tuple(scope for scope in client.scopes if scope in wanted)


def _error_answer(error: _TokenError) -> Response:
    answer = jsonify(error=error.code, error_description=error.description)
    answer.status_code = error.status
    answer.headers.update(_NO_STORE)
    if error.status == 401:
        answer.headers["WWW-Authenticate"] = f'Basic realm="{REALM}", charset="UTF-8"'
    return answer
