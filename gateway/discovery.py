"""What anybody may read: the server's metadata, its public keys, the pages that explain problems."""

import html
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, jsonify

from bridge.errors import RejectedError
from bridge.partner import ALL_SCOPES
from bridge.web.problems import PROBLEMS
from gateway import token_endpoint
from gateway.client_assertions import ALGORITHMS

KEYS_MAX_AGE_SECONDS = 300
METADATA_PATH = "/.well-known/oauth-authorization-server"
JWKS_PATH = "/.well-known/jwks.json"
RECEIPT_KEYS_PATH = "/.well-known/receipt-keys.json"


def register_discovery(
    app: Flask,
    *,
    issuer: str,
    token_jwks: Callable[[], dict[str, Any]],
    receipt_jwks: dict[str, Any],
) -> None:
    """Add the public documents. The keys of the tokens change while the process lives."""
    document = metadata(issuer)
    for path, endpoint, produce in (
        (METADATA_PATH, "authorization_server_metadata", lambda: document),
        (JWKS_PATH, "token_keys", token_jwks),
        (RECEIPT_KEYS_PATH, "receipt_keys", lambda: receipt_jwks),
    ):
        app.add_url_rule(path, endpoint=endpoint, view_func=_serving(produce))
    app.add_url_rule("/problems/<slug>", endpoint="problem_page", view_func=problem_page)


def metadata(issuer: str) -> dict[str, Any]:
    """Return the server's metadata (RFC 8414 section 2).

    `response_types_supported` is required and empty: there is no authorization endpoint.
    """
    return {
        "issuer": issuer,
        "token_endpoint": issuer + token_endpoint.PATH,
        "jwks_uri": issuer + JWKS_PATH,
        "grant_types_supported": ["client_credentials"],
        "response_types_supported": [],
        "token_endpoint_auth_methods_supported": list(token_endpoint.AUTHENTICATION_METHODS),
        "token_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
        "scopes_supported": list(ALL_SCOPES),
    }


def problem_page(slug: str) -> Response:
    """Explain one problem type to a person."""
    if slug not in PROBLEMS:
        raise RejectedError("not-found", 404, "There is no problem type of this name.")
    title, meaning = (html.escape(part) for part in PROBLEMS[slug])
    page = f'<!doctype html><html lang="en"><title>{title}</title><h1>{title}</h1><p>{meaning}</p></html>\n'
    return Response(page, content_type="text/html; charset=utf-8")


def _serving(produce: Callable[[], dict[str, Any]]) -> Any:
    def serve() -> Response:
        answer = jsonify(produce())
        answer.headers["Cache-Control"] = f"public, max-age={KEYS_MAX_AGE_SECONDS}"
        return answer

    return serve
