"""What the OpenAPI document says of each endpoint beyond what its route declares itself.

Paths, methods and scopes are read from the routes, bodies from the models that validate them. A route without
an entry here, or an entry without a route, is an error when the document is built.
"""

from typing import Annotated

from pydantic import BaseModel, Field

from bridge.payment import PaymentStatus
from bridge.web.problems import PROBLEMS
from gateway import answers, client_assertions, webhook_api_description
from gateway.batch_request import BatchModel
from gateway.described import CURSOR, KEY, KEY_SCHEMA, OPTIONAL_KEY, Described, Parameter, Schema, limit
from gateway.event_routes import DEFAULT_PAGE_EVENTS, MAX_PAGE_EVENTS
from gateway.operation_request import AmountOfStepModel, NothingModel
from gateway.payment_request import STORABLE_PATTERN, PaymentModel
from gateway.payment_routes import (
    DEFAULT_PAGE_PAYMENTS,
    DEFAULT_PAGE_TIMELINE,
    MAX_PAGE_PAYMENTS,
    MAX_PAGE_TIMELINE,
)

# Served, but no part of the API that partners use.
NOT_DESCRIBED = {
    "livez": "asked by the platform",
    "readyz": "asked by the platform",
    "openapi": "this document",
    "docs": "this document, for people",
}

PROBLEM_STATUSES = {
    "malformed-request": 400,
    "idempotency-key-missing": 400,
    "unauthenticated": 401,
    "insufficient-scope": 403,
    "partner-suspended": 403,
    "not-found": 404,
    "duplicate-external-id": 409,
    "idempotency-key-in-progress": 409,
    "invalid-state": 409,
    "retention-expired": 409,
    "too-many-operations": 409,
    "endpoint-disabled": 409,
    "too-many-endpoints": 409,
    "too-many-secrets": 409,
    "feed-expired": 410,
    "payload-too-large": 413,
    "unsupported-media-type": 415,
    "invalid-request": 422,
    "idempotency-key-reused": 422,
    "too-many-requests": 429,
    "quota-exceeded": 429,
    "unavailable": 503,
}
OF_EVERY_SCOPE = (
    "unauthenticated",
    "insufficient-scope",
    "partner-suspended",
    "too-many-requests",
    "unavailable",
)
OF_EVERY_BODY = ("malformed-request", "payload-too-large", "unsupported-media-type", "invalid-request")
OF_EVERY_KEY = ("idempotency-key-in-progress", "idempotency-key-reused")
OF_EVERY_STEP = (
    *OF_EVERY_KEY,
    "idempotency-key-missing",
    "invalid-state",
    "too-many-operations",
    "retention-expired",
)


class BatchItemModel(PaymentModel):
    """A payment in a batch."""

    idempotency_key: Annotated[str, Field(json_schema_extra=KEY_SCHEMA)]


PATH_PARAMETERS = {
    "payment_id": Parameter(
        "payment_id",
        "path",
        "The payment's `id`.",
        {"type": "string", "pattern": answers.PAYMENT_ID_PATTERN, "example": answers.EXAMPLE_PAYMENT_ID},
        required=True,
    ),
    **webhook_api_description.PATH_PARAMETERS,
    "slug": Parameter(
        "slug", "path", "The last part of a problem's `type`.", {"enum": sorted(PROBLEMS)}, required=True
    ),
}
_MOMENT: Schema = {"type": "string", "format": "date-time"}


_LIST_PARAMETERS = (
    limit("Payments", DEFAULT_PAGE_PAYMENTS, MAX_PAGE_PAYMENTS),
    CURSOR,
    Parameter(
        "status", "query", "Only payments in this status.", {"enum": [str(each) for each in PaymentStatus]}
    ),
    Parameter(
        "external_id",
        "query",
        "Only payments with this one.",
        {"type": "string", "pattern": STORABLE_PATTERN},
    ),
    Parameter("created_from", "query", "Only payments accepted at this time or later.", _MOMENT),
    Parameter("created_to", "query", "Only payments accepted before this time.", _MOMENT),
)
_FEED_PARAMETERS = (
    Parameter(
        "after",
        "query",
        "`last_sequence` of the page before; 0 for the first.",
        {"type": "integer", "minimum": 0, "maximum": 2**63 - 1, "default": 0},
    ),
    limit("Events", DEFAULT_PAGE_EVENTS, MAX_PAGE_EVENTS),
)
_TIMELINE_PARAMETERS = (limit("Events", DEFAULT_PAGE_TIMELINE, MAX_PAGE_TIMELINE), CURSOR)

_TOKEN_FORM: Schema = {
    "type": "object",
    "required": ["grant_type"],
    "properties": {
        "grant_type": {"const": "client_credentials"},
        "scope": {
            "type": "string",
            "description": "Scopes separated by spaces; without it, all that the client may have.",
        },
        "client_id": {"type": "string", "description": "With `client_secret`, instead of HTTP Basic."},
        "client_secret": {"type": "string"},
        "client_assertion_type": {"const": client_assertions.ASSERTION_TYPE},
        "client_assertion": {"type": "string", "description": "A JWT (RFC 7523), instead of a secret."},
    },
}


def _step(summary: str, description: str, body: type[BaseModel]) -> Described:
    """Return what is common to all that is done to a payment."""
    return Described(
        "Payments",
        summary,
        answers.PaymentAnswer,
        202,
        description,
        body=body,
        parameters=(KEY,),
        problems=OF_EVERY_STEP,
        headers=("Location", "Idempotency-Replayed"),
    )


ENDPOINTS: dict[str, Described] = {
    "create_payment": Described(
        "Payments",
        "Hand over a payment",
        answers.PaymentAnswer,
        202,
        "The 202 is a promise: the payment is stored durably and will be posted to SAP once. What became of "
        "it is told by webhook, and is in the event feed.",
        body=PaymentModel,
        parameters=(KEY,),
        problems=(*OF_EVERY_KEY, "idempotency-key-missing", "duplicate-external-id", "quota-exceeded"),
        headers=("Location", "Idempotency-Replayed"),
    ),
    "create_payments": Described(
        "Payments",
        "Hand over up to 500 payments",
        answers.BatchAnswer,
        207,
        "Each stands alone, under the `idempotency_key` beside its members, and has a result of its own; so "
        "an item of the wrong form is no mistake of the whole. When the day's quota is used up, what was "
        "accepted before is told again; the other items have the problem `quota-exceeded`, or the whole "
        "request has it if there is nothing to tell again.",
        body=BatchModel,
        problems=("quota-exceeded",),
    ),
    "list_payments": Described(
        "Payments", "List payments, newest first", answers.PaymentPage, parameters=_LIST_PARAMETERS
    ),
    "get_payment": Described("Payments", "Read a payment", answers.PaymentAnswer),
    "get_timeline": Described(
        "Payments",
        "Read a payment's timeline, oldest first",
        answers.TimelinePage,
        parameters=_TIMELINE_PARAMETERS,
    ),
    "capture_payment": _step(
        "Capture an authorized payment",
        "Once, in full or in part; a partial capture releases the rest.",
        AmountOfStepModel,
    ),
    "reverse_payment": _step("Release an authorized payment", "Instead of capturing it.", NothingModel),
    "refund_payment": _step(
        "Refund a paid payment",
        "In full or in part, as often as there is something left of what was captured.",
        AmountOfStepModel,
    ),
    "cancel_payment": Described(
        "Payments",
        "Cancel a payment of which SAP has heard nothing yet",
        answers.PaymentAnswer,
        202,
        body=NothingModel,
        parameters=(OPTIONAL_KEY,),
        problems=(*OF_EVERY_KEY, "idempotency-key-missing", "invalid-state"),
        headers=("Location", "Idempotency-Replayed"),
    ),
    "list_events": Described(
        "Events",
        "Read the feed",
        answers.EventPage,
        200,
        "Every event of the partner, gap-free and in order: what webhooks tell, for whoever prefers to ask. "
        "Old events leave it (`feed-expired`); those of one payment stay in its timeline.",
        parameters=_FEED_PARAMETERS,
        problems=("feed-expired",),
    ),
    **webhook_api_description.ENDPOINTS,
    "token": Described(
        "Tokens",
        "Get an access token",
        answers.TokenAnswer,
        200,
        "client_credentials (RFC 6749 section 4.4). The client authenticates by HTTP Basic, by form fields, "
        "or by an assertion that it signs (RFC 7523).",
        body=_TOKEN_FORM,
        problems=("malformed-request", "payload-too-large", "too-many-requests", "unavailable"),
        errors={400: answers.TokenErrorAnswer, 401: answers.TokenErrorAnswer},
    ),
    "authorization_server_metadata": Described(
        "Tokens", "Authorization server metadata (RFC 8414)", answers.MetadataAnswer
    ),
    "token_keys": Described("Tokens", "The public keys of access tokens", answers.KeySetAnswer),
    "receipt_keys": Described(
        "Tokens", "The public keys of receipts; none is ever removed", answers.KeySetAnswer
    ),
    "problem_page": Described(
        "Problems", "What a problem type means, for people", None, problems=("not-found",)
    ),
}
