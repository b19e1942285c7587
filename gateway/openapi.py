"""The OpenAPI 3.1 document: from the routes, the models that validate, and gateway/api_description.py."""

import re
from collections import defaultdict
from typing import Any, get_args

from flask import Flask
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from werkzeug.routing import Rule

from bridge.partner import Scope
from bridge.web.problems import CONTENT_TYPE as PROBLEM_TYPE
from bridge.web.problems import PROBLEMS
from gateway import token_endpoint
from gateway.answers import EdgeErrorAnswer, ProblemAnswer
from gateway.api_description import (
    ENDPOINTS,
    NOT_DESCRIBED,
    OF_EVERY_BODY,
    OF_EVERY_SCOPE,
    PATH_PARAMETERS,
    PROBLEM_STATUSES,
    BatchItemModel,
)
from gateway.authorization import required_scope
from gateway.batch_request import BatchModel
from gateway.described import Described, Parameter

VERSION = "1"
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
HTML = "text/html"
_REF = "#/components/schemas/{model}"
# What the API Gateway answers itself with: to a request that it can't read, for any operation; without a good
# token or for a parameter that it does not take. 405 is no answer of any operation.
_EDGE_ALWAYS = (400,)
_EDGE_WITH_TOKEN = (401, 404)
_IMPLIED_METHODS = {"HEAD", "OPTIONS"}
_DESCRIPTION = """\
Hand over payments and learn what became of them.

Errors are RFC 9457 problem documents; `type` names a page that explains it. A 400, 401, 404 or 405 of the API
Gateway itself has the form `{"code", "message"}`. Every other answer carries `X-Request-ID`, the caller's if
it sent one.
Answers may get new members: ignore those that you do not know.
"""
_SCOPES: dict[Scope, str] = {
    "payments:read": "Read payments.",
    "payments:write": "Hand over payments, capture, refund, cancel them.",
    "events:read": "Read the event feed.",
    "webhooks:read": "Read webhook endpoints and deliveries.",
    "webhooks:write": "Register and change webhook endpoints.",
}
_HEADERS: dict[str, tuple[bool, str, dict[str, Any]]] = {
    "X-Request-ID": (
        True,
        "Names this request in our logs.",
        {"type": "string", "pattern": "^[!-+\\--~]{1,128}$"},
    ),
    "Location": (
        True,
        "The path of what was made.",
        {"type": "string", "pattern": "^/v1/(payments/pay|webhook-endpoints/whe)_"},
    ),
    "Idempotency-Replayed": (False, "The key was known: nothing was done now.", {"const": "true"}),
    "Retry-After": (True, "Seconds.", {"type": "integer", "minimum": 1}),
    "WWW-Authenticate": (True, "RFC 6750 section 3, RFC 7617.", {"type": "string"}),
    "RateLimit-Policy": (
        True,
        "What is allowed: `q` in each window of `w` seconds (draft-ietf-httpapi-ratelimit-headers-10).",
        {
            "type": "string",
            "pattern": '^"requests";q=[0-9]+;w=[0-9]+(, "payments";q=[0-9]+;w=[0-9]+)?$',
            "example": '"requests";q=500;w=10',
        },
    ),
    "RateLimit": (
        True,
        "What is left: `r` until the window ends in `t` seconds. `payments` is the day's quota.",
        {
            "type": "string",
            "pattern": '^"requests";r=[0-9]+;t=[0-9]+(, "payments";r=[0-9]+;t=[0-9]+)?$',
            "example": '"requests";r=499;t=10',
        },
    ),
}
_LIMIT_HEADERS = ("RateLimit-Policy", "RateLimit")
# Answered before the partner is known to be who counts; with others the API may be answering, or the edge.
_WITHOUT_LIMITS = {401, 403}
_PERHAPS_WITH_LIMITS = {*_EDGE_ALWAYS, *_EDGE_WITH_TOKEN, 503}


_GOOD = {200: "As asked.", 201: "Made.", 204: "Done.", 202: "Accepted, durably.", 207: "A result for each."}


def build(app: Flask, issuer: str) -> dict[str, Any]:
    """Return the document of the API whose URL is `issuer`.

    KeyError names an endpoint that is described or served, but not both.
    """
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    errors: dict[str, Any] = {}
    served = set()
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        if rule.endpoint not in NOT_DESCRIBED:
            served.add(rule.endpoint)
            for method in sorted((rule.methods or set()) - _IMPLIED_METHODS):
                paths[_template(rule)][method.lower()] = _operation(app, rule, errors)
    if served != set(ENDPOINTS):
        raise KeyError(f"served or described, not both: {sorted(served ^ set(ENDPOINTS))}")
    return {
        "openapi": "3.1.0",
        "info": {"title": "Partner Payments Bridge", "version": VERSION, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "paths": dict(paths),
        "components": {
            "schemas": _schemas(),
            "responses": dict(sorted(errors.items())),
            "headers": {name: _header(name) for name in _HEADERS},
            "securitySchemes": _security_schemes(issuer),
        },
    }


def _template(rule: Rule) -> str:
    """Return `/v1/payments/{payment_id}` for `/v1/payments/<string(length=30):payment_id>`."""
    return re.sub(r"<(?:[^<>:]*:)?([^<>:]+)>", r"{\1}", rule.rule)


def _operation(app: Flask, rule: Rule, errors: dict[str, Any]) -> dict[str, Any]:
    """Return one operation; its error answers, which others share, are put into `errors`."""
    described = ENDPOINTS[rule.endpoint]
    scope = required_scope(app.view_functions[rule.endpoint])
    operation: dict[str, Any] = {
        "operationId": rule.endpoint,
        "tags": [described.tag],
        "summary": described.summary,
    }
    if described.description:
        operation["description"] = described.description
    parameters = [*(PATH_PARAMETERS[name] for name in sorted(rule.arguments)), *described.parameters]
    if parameters:
        operation["parameters"] = [_parameter(parameter) for parameter in parameters]
    if described.body is not None:
        operation["requestBody"] = {
            "required": described.body_required,
            "content": _body(described.body),
        }
    operation["responses"] = {str(described.success): _good(described, scope)}
    for status, slugs in _problems(rule, described, scope).items():
        forms = _forms(status, described, scope)
        error = _error(status, slugs, forms, scope)
        name = f"{status}-" + "-or-".join([*slugs, *(_name(form) for form in forms)])
        name += "" if scope else "-of-anybody"
        errors[name] = error
        operation["responses"][str(status)] = {"$ref": f"#/components/responses/{name}"}
    operation["security"] = _security(rule, scope)
    return operation


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.required,
        "description": parameter.description,
        "schema": parameter.schema,
    }


def _body(body: type[BaseModel] | dict[str, Any]) -> dict[str, Any]:
    return {FORM: {"schema": body}} if isinstance(body, dict) else {JSON: {"schema": _reference(body)}}


def _good(described: Described, scope: Scope | None) -> dict[str, Any]:
    answer = described.answer
    good: dict[str, Any] = {
        "description": _GOOD[described.success],
        "headers": _headers("X-Request-ID", *described.headers) | _limit_headers(described.success, scope),
    }
    if described.success != 204:
        good["content"] = {HTML: {}} if answer is None else {JSON: {"schema": _reference(answer)}}
    return good


def _problems(rule: Rule, described: Described, scope: Scope | None) -> dict[int, list[str]]:
    """Return status to slugs of all the problems that the endpoint may answer with."""
    slugs = set(described.problems)
    if scope:
        slugs.update(OF_EVERY_SCOPE)
    if rule.arguments:
        slugs.add("not-found")
    if described.parameters:
        slugs.add("malformed-request")
    if isinstance(described.body, type):
        slugs.update(OF_EVERY_BODY)
    by_status: dict[int, list[str]] = {status: [] for status in (*_EDGE_ALWAYS, *described.errors)}
    for slug in sorted(slugs):
        by_status.setdefault(PROBLEM_STATUSES[slug], []).append(slug)
    return dict(sorted(by_status.items()))


def _error(
    status: int, slugs: list[str], forms: list[type[BaseModel]], scope: Scope | None
) -> dict[str, Any]:
    """Return an error answer: a problem of `slugs`, or JSON in one of the other `forms`."""
    content: dict[str, Any] = {}
    if slugs:
        # with types and without const: generators of clients merge the two, or drop the answer
        kind = {
            "type": "object",
            "properties": {
                "type": {"type": "string", "format": "uri", "pattern": f"/problems/({'|'.join(slugs)})$"},
                "status": {"type": "integer", "minimum": status, "maximum": status},
            },
        }
        content[PROBLEM_TYPE] = {"schema": {"allOf": [_reference(ProblemAnswer), kind]}}
    if forms:
        content[JSON] = {"schema": {"anyOf": [_reference(form) for form in forms]}}
    lines = [f"`{slug}`: {PROBLEMS[slug][1]}" for slug in slugs]
    lines += [f"{form.__name__}: {(form.__doc__ or '').strip()}" for form in forms]
    # the edge answers before the API could name the request
    named = [] if EdgeErrorAnswer in forms else ["X-Request-ID"]
    return {
        "description": "\n".join(f"- {line}" for line in lines),
        "headers": _headers(*named, *_error_headers(status)) | _limit_headers(status, scope),
        "content": content,
    }


def _forms(status: int, described: Described, scope: Scope | None) -> list[type[BaseModel]]:
    """Return the models of the answers with `status` that are no problem documents."""
    ours = [described.errors[status]] if status in described.errors else []
    by_the_edge = status in _EDGE_ALWAYS or (scope and status in _EDGE_WITH_TOKEN)
    return [*ours, EdgeErrorAnswer] if by_the_edge else list(ours)


def _error_headers(status: int) -> list[str]:
    return {401: ["WWW-Authenticate"], 429: ["Retry-After"], 503: ["Retry-After"]}.get(status, [])


def _limit_headers(status: int, scope: Scope | None) -> dict[str, Any]:
    """Return the headers that tell a partner its limits, on what is answered to a partner."""
    if scope is None or status in _WITHOUT_LIMITS:
        return {}
    if status in _PERHAPS_WITH_LIMITS:
        return {name: _header(name) | {"required": False} for name in _LIMIT_HEADERS}
    return _headers(*_LIMIT_HEADERS)


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _header(name: str) -> dict[str, Any]:
    required, description, schema = _HEADERS[name]
    return {"required": required, "description": description, "schema": schema}


def _security(rule: Rule, scope: Scope | None) -> list[dict[str, list[str]]]:
    if rule.rule == token_endpoint.PATH:
        return [{"client": []}, {}]
    return [{"access_token": [scope]}] if scope else []


def _security_schemes(issuer: str) -> dict[str, Any]:
    flow = {
        "tokenUrl": issuer + token_endpoint.PATH,
        "scopes": {name: _SCOPES[name] for name in get_args(Scope)},
    }
    return {
        "access_token": {"type": "oauth2", "flows": {"clientCredentials": flow}},
        "client": {"type": "http", "scheme": "basic", "description": "The client's id and secret."},
    }


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=_name(model))}


def _name(model: type[BaseModel]) -> str:
    return model.__name__


def _models() -> list[type[BaseModel]]:
    found: dict[type[BaseModel], None] = {ProblemAnswer: None, EdgeErrorAnswer: None, BatchItemModel: None}
    for described in ENDPOINTS.values():
        for model in (described.answer, described.body, *described.errors.values()):
            if isinstance(model, type):
                found[model] = None
    return list(found)


def _schemas() -> dict[str, Any]:
    """Return the schemas of all models, without what pydantic makes up or only we have use for."""
    _, found = models_json_schema([(model, "validation") for model in _models()], ref_template=_REF)
    definitions: dict[str, Any] = found["$defs"]
    for schema in definitions.values():
        schema.pop("title", None)
        for member in schema.get("properties", {}).values():
            member.pop("title", None)
            member.pop("default", None)
    # each is judged for itself: one that is no payment has a problem for its result
    item = {"anyOf": [_reference(BatchItemModel), {"description": "Anything else: refused for itself."}]}
    definitions[_name(BatchModel)]["properties"]["payments"]["items"] = item
    return definitions
