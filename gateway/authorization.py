"""Who may call what. Closed by default: a route is in PUBLIC_ENDPOINTS or names the scope that it asks for.

The token is verified here, whatever the edge has done, and the partner's and the client's status are looked
up at each request. `X-Apigateway-Api-Userinfo` is unsigned and never read.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import structlog
from flask import Flask, current_app, g, request

from bridge.clock import Clock
from bridge.errors import RejectedError
from bridge.partner import PartnerConfiguration, PartnerStatus, Scope
from bridge.ports import PartnerDirectory
from gateway.tokens import AccessTokens, InvalidTokenError
from gateway.verified_tokens import Claims

# The only routes without a token; each is here on purpose.
PUBLIC_ENDPOINTS = frozenset(
    {
        "livez",
        "readyz",
        "token",
        "authorization_server_metadata",
        "token_keys",
        "receipt_keys",
        "problem_page",
        "openapi",
        "docs",
    }
)
REALM = "partner-payments-bridge"

_SCOPE_ATTRIBUTE = "required_scope"
_log = structlog.get_logger(__name__)
View = TypeVar("View", bound=Callable[..., Any])


def requires(scope: Scope) -> Callable[[View], View]:
    """Declare the scope that a route asks for."""

    def declare(view: View) -> View:
        setattr(view, _SCOPE_ATTRIBUTE, scope)
        return view

    return declare


def required_scope(view: Callable[..., Any]) -> Scope | None:
    """Return the scope that a route has declared."""
    scope: Scope | None = getattr(view, _SCOPE_ATTRIBUTE, None)
    return scope


def authorization_header() -> str | None:
    """Return the caller's own header: the API Gateway moves it aside and puts its own token in its place."""
    return request.headers.get("X-Forwarded-Authorization") or request.headers.get("Authorization")


def current_partner() -> PartnerConfiguration:
    """Return the partner whose token came with the request."""
    partner: PartnerConfiguration = g.partner
    return partner


def register_authorization(
    app: Flask, tokens: AccessTokens, directory: PartnerDirectory, clock: Clock
) -> None:
    """Let no request reach a view that it has no right to."""

    @app.before_request
    def authorize() -> None:
        if request.endpoint is None or request.endpoint in PUBLIC_ENDPOINTS:
            return  # without an endpoint it becomes a 404 or 405
        scope = required_scope(current_app.view_functions[request.endpoint])
        if scope is None:
            raise RuntimeError("a route without a scope")
        claims = _verified(tokens, clock)
        g.partner = _active_partner(directory, claims, scope)
        structlog.contextvars.bind_contextvars(partner_id=claims.partner_id)


def require_declared_routes(app: Flask) -> None:
    """Fail at start if a route is neither public nor names its scope."""
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        if rule.endpoint not in PUBLIC_ENDPOINTS and not hasattr(view, _SCOPE_ATTRIBUTE):
            raise RuntimeError(f"{rule.rule} is neither public nor declares a scope")


def _verified(tokens: AccessTokens, clock: Clock) -> Claims:
    scheme, _, token = (authorization_header() or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise _unauthenticated("Send an access token: Authorization: Bearer <token>.", None)
    try:
        return tokens.verify(token.strip(), clock.now())
    except InvalidTokenError as error:
        _log.info("token refused", reason=str(error))
        raise _unauthenticated("The access token is expired or not one of ours.", "invalid_token") from error


def _active_partner(directory: PartnerDirectory, claims: Claims, scope: str) -> PartnerConfiguration:
    partner = directory.partner(claims.partner_id)
    client = partner.client(claims.client_id) if partner else None
    if partner is None or client is None:
        raise _unauthenticated("The access token's client is no longer known.", "invalid_token")
    if partner.status != PartnerStatus.ACTIVE:
        raise RejectedError("partner-suspended", 403, "The partner's access is suspended.")
    if scope not in claims.scopes or scope not in client.scopes:
        challenge = f'Bearer realm="{REALM}", error="insufficient_scope", scope="{scope}"'
        detail = f"This needs the scope {scope}."
        raise RejectedError("insufficient-scope", 403, detail, headers={"WWW-Authenticate": challenge})
    return partner


def _unauthenticated(detail: str, error: str | None) -> RejectedError:
    """RFC 6750 section 3.1: no error code where no token was sent."""
    challenge = f'Bearer realm="{REALM}"' + (f', error="{error}"' if error else "")
    return RejectedError("unauthenticated", 401, detail, headers={"WWW-Authenticate": challenge})
