"""What every service refuses before a route sees it: repeated single headers, unknown query parameters.

A parameter that is misspelt and ignored answers another question than the one asked.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from flask import Flask, current_app, request

from bridge.errors import RejectedError
from bridge.web.single_headers import joined_header

_ATTRIBUTE = "query_parameters"
View = TypeVar("View", bound=Callable[..., Any])


def takes_query(*names: str, several: tuple[str, ...] = ()) -> Callable[[View], View]:
    """Declare the query parameters of a route; those in `several` may come more than once."""

    def declare(view: View) -> View:
        setattr(view, _ATTRIBUTE, dict.fromkeys(names, False) | dict.fromkeys(several, True))
        return view

    return declare


def query_of(view: Callable[..., Any]) -> dict[str, bool]:
    """Return the parameters that a route has declared, and whether each may come more than once."""
    declared: dict[str, bool] = getattr(view, _ATTRIBUTE, {})
    return declared


def register_strict_requests(app: Flask) -> None:
    """Answer such requests with 400. Call it after register_problems, and before what looks at the caller."""

    @app.before_request
    def refuse() -> None:
        header = joined_header(request.environ)
        if header is not None:
            raise malformed(f"The header {header} comes more than once, or has a comma.")
        if request.query_string and request.endpoint is not None:
            _require_known(query_of(current_app.view_functions[request.endpoint]))


def _require_known(declared: dict[str, bool]) -> None:
    for name, values in request.args.lists():
        if name not in declared:
            # the name is the sender's text and is not repeated
            known = f"takes the query parameters {', '.join(declared)}" if declared else "takes no query"
            raise malformed(f"This route {known}, and nothing else.")
        if len(values) > 1 and not declared[name]:
            raise malformed(f"The query parameter {name} comes more than once.")


def malformed(detail: str) -> RejectedError:
    """Return the 400 for a request that can't be read."""
    return RejectedError("malformed-request", 400, detail)
