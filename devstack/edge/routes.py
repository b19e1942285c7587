"""The routes of the edge: every operation of the description, 405 for its path's other methods, else 404.

Paths match as in ESPv2 (src/go/configgenerator/routegen there), and the texts are its own.
"""

import re
from typing import Any

from devstack.edge.description import Address, Description, Operation

# What stands where Google puts the identity token of the API Gateway's account.
BACKEND_TOKEN = "Bearer emulated-api-gateway"  # noqa: S105 - says that it is none
JWT_FILTER = "envoy.filters.http.jwt_authn"
BUFFER_FILTER = "envoy.filters.http.buffer"
_TYPES = "type.googleapis.com/envoy.extensions.filters.http"
_JWT_ROUTE = f"{_TYPES}.jwt_authn.v3.PerRouteConfig"
_NO_TOKEN = {"@type": _JWT_ROUTE, "disabled": True}
_NO_BUFFER = {"@type": f"{_TYPES}.buffer.v3.BufferPerRoute", "disabled": True}
_NOT_FOUND = "The current request is not defined by this API."
_WRONG_METHOD = (
    'The current request is matched to the defined url template "{}" but its http method is not allowed'
)


def routes_of(description: Description) -> list[dict[str, Any]]:
    """Return Envoy's routes in the order in which they are tried."""
    operations = sorted(description.operations, key=lambda operation: _precedence(operation.path))
    paths = sorted({operation.path for operation in operations}, key=_precedence)
    return [
        *(_to_backend(operation) for operation in operations),
        *(_answer(405, _WRONG_METHOD.format(path), path_match(path), f"405 {path}") for path in paths),
        _answer(404, _NOT_FOUND, {"prefix": "/"}, "404"),
    ]


def path_match(path: str) -> dict[str, Any]:
    """Match a path template, with or without a slash at its end; a parameter is one segment, never empty."""
    segments = path.strip("/").split("/")
    pattern = "".join("/" + ("[^/]+" if _is_parameter(part) else re.escape(part)) for part in segments)
    return {"safe_regex": {"regex": pattern + "/?"}}


def cluster_name(address: Address) -> str:
    return f"{address.host}:{address.port}"


def _is_parameter(segment: str) -> bool:
    return segment.startswith("{")


def _precedence(path: str) -> tuple[tuple[bool, str], ...]:
    """Segment by segment, text before parameter: `/v1/payments/batch` before `/v1/payments/{payment_id}`."""
    return tuple((_is_parameter(segment), segment) for segment in path.split("/"))


def _to_backend(operation: Operation) -> dict[str, Any]:
    token = {"@type": _JWT_ROUTE, "requirement_name": operation.provider} if operation.provider else _NO_TOKEN
    return {
        "name": operation.operation_id,
        "match": {
            **path_match(operation.path),
            "headers": [{"name": ":method", "string_match": {"exact": operation.method}}],
        },
        "route": {
            "cluster": cluster_name(operation.backend),
            "host_rewrite_literal": cluster_name(operation.backend),
            "timeout": f"{operation.deadline_seconds:g}s",
            "retry_policy": {"retry_on": "reset,connect-failure,refused-stream", "num_retries": 1},
        },
        # The values are those before any of these changes. Without an Authorization of the
        # client's, none is forwarded.
        "request_headers_to_add": [
            _set_header("x-forwarded-authorization", "%REQ(authorization)%"),
            _set_header("authorization", BACKEND_TOKEN),
            {
                "header": {
                    "key": "x-forwarded-for",
                    "value": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%",
                },
                "append_action": "APPEND_IF_EXISTS_OR_ADD",
            },
        ],
        "typed_per_filter_config": {JWT_FILTER: token},
    }


def _set_header(name: str, value: str) -> dict[str, Any]:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _answer(status: int, message: str, match: dict[str, Any], name: str) -> dict[str, Any]:
    return {
        "name": name,
        "match": match,
        "direct_response": {"status": status, "body": {"inline_string": message}},
        # answered at once: neither a token nor the body changes anything
        "typed_per_filter_config": {JWT_FILTER: _NO_TOKEN, BUFFER_FILTER: _NO_BUFFER},
    }
