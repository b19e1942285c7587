"""`/openapi.json` and `/docs`: what the API is, for programs and for people. Open to everybody."""

import json
from collections.abc import Callable
from functools import cache

from flask import Flask, Response, current_app

from gateway import docs_page, openapi


def register_openapi(app: Flask, issuer: str) -> None:
    """Add the two; they are made when first asked for, so that starting costs nothing."""

    @cache
    def document() -> str:
        return as_text(current_app, issuer)

    @cache
    def page() -> str:
        return docs_page.render(json.loads(document()))

    app.add_url_rule("/openapi.json", endpoint="openapi", view_func=_serving(document, "application/json"))
    app.add_url_rule("/docs", endpoint="docs", view_func=_serving(page, "text/html; charset=utf-8"))


def as_text(app: Flask, issuer: str) -> str:
    """Return the document as it is served and kept in docs/openapi.json."""
    return json.dumps(openapi.build(app, issuer), indent=2, ensure_ascii=False) + "\n"


def _serving(produce: Callable[[], str], content_type: str) -> Callable[[], Response]:
    def serve() -> Response:
        answer = Response(produce(), content_type=content_type)
        answer.headers["Content-Security-Policy"] = docs_page.CONTENT_SECURITY_POLICY
        return answer

    return serve
