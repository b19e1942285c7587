"""What the OpenAPI document says of the webhooks' endpoints (see gateway/api_description.py)."""

from gateway.described import CURSOR, KEY_SCHEMA, Described, Parameter, limit
from gateway.operation_request import NothingModel
from gateway.webhook_answers import (
    DELIVERY_ID_PATTERN,
    ENDPOINT_ID_PATTERN,
    EXAMPLE_DELIVERY_ID,
    EXAMPLE_ENDPOINT_ID,
    ReplayAnswer,
    WebhookDeliveryAnswer,
    WebhookDeliveryDetailAnswer,
    WebhookDeliveryPage,
    WebhookEndpointAnswer,
    WebhookEndpointList,
    WebhookSecretAnswer,
)
from gateway.webhook_request import EndpointChangesModel, NewEndpointModel, ReplayModel
from gateway.webhook_routes import DEFAULT_PAGE_DELIVERIES, DELIVERY_STATUSES, MAX_PAGE_DELIVERIES

PATH_PARAMETERS = {
    "endpoint_id": Parameter(
        "endpoint_id",
        "path",
        "The webhook endpoint's `id`.",
        {"type": "string", "pattern": ENDPOINT_ID_PATTERN, "example": EXAMPLE_ENDPOINT_ID},
        required=True,
    ),
    "delivery_id": Parameter(
        "delivery_id",
        "path",
        "The delivery's `id`.",
        {"type": "string", "pattern": DELIVERY_ID_PATTERN, "example": EXAMPLE_DELIVERY_ID},
        required=True,
    ),
}
_TAG = "Webhooks"
_ONCE = Parameter(
    "Idempotency-Key",
    "header",
    "Optional, new for each request: a request that is repeated with it gets the same secret again, with "
    "`Idempotency-Replayed: true`, and makes no second one.",
    KEY_SCHEMA,
)

ENDPOINTS: dict[str, Described] = {
    "create_webhook_endpoint": Described(
        _TAG,
        "Register a webhook endpoint",
        WebhookSecretAnswer,
        201,
        "The next event is told to it already. The secret is shown in this answer only.",
        body=NewEndpointModel,
        parameters=(_ONCE,),
        problems=("too-many-endpoints", "idempotency-key-reused", "idempotency-key-missing"),
        headers=("Location", "Idempotency-Replayed"),
    ),
    "list_webhook_endpoints": Described(
        _TAG, "List the webhook endpoints, oldest first", WebhookEndpointList
    ),
    "get_webhook_endpoint": Described(_TAG, "Read a webhook endpoint", WebhookEndpointAnswer),
    "change_webhook_endpoint": Described(
        _TAG,
        "Change, enable or disable a webhook endpoint",
        WebhookEndpointAnswer,
        description="What the body does not name stays as it is. On enabling, what was held is sent.",
        body=EndpointChangesModel,
    ),
    "delete_webhook_endpoint": Described(
        _TAG, "Delete a webhook endpoint", None, 204, "What was still to be told to it is not any more."
    ),
    "rotate_webhook_secret": Described(
        _TAG,
        "Get a new secret; the old one signs beside it for a day",
        WebhookSecretAnswer,
        description="The next of the public keys signs from now on, and there is another next one.",
        body=NothingModel,
        body_required=False,
        parameters=(_ONCE,),
        problems=("too-many-secrets", "idempotency-key-reused", "idempotency-key-missing"),
        headers=("Idempotency-Replayed",),
    ),
    "test_webhook_endpoint": Described(
        _TAG,
        "Have a test sent",
        WebhookDeliveryAnswer,
        202,
        "One attempt at an event of the type `webhook.test`, also to a disabled endpoint.",
        body=NothingModel,
        body_required=False,
    ),
    "list_webhook_deliveries": Described(
        _TAG,
        "List an endpoint's deliveries, newest first",
        WebhookDeliveryPage,
        parameters=(
            limit("Deliveries", DEFAULT_PAGE_DELIVERIES, MAX_PAGE_DELIVERIES),
            CURSOR,
            Parameter(
                "status", "query", "Only deliveries in this status.", {"enum": list(DELIVERY_STATUSES)}
            ),
        ),
    ),
    "replay_webhook_events": Described(
        _TAG,
        "Have the events of a time sent again",
        ReplayAnswer,
        202,
        "Up to 10,000 events at a time; each keeps its `webhook-id` and its sequences.",
        body=ReplayModel,
        problems=("endpoint-disabled",),
    ),
    "get_webhook_delivery": Described(_TAG, "Read a delivery and its attempts", WebhookDeliveryDetailAnswer),
    "redeliver_webhook": Described(
        _TAG,
        "Have one delivery attempted again",
        WebhookDeliveryAnswer,
        202,
        "Now, and with the whole schedule if that fails. While an attempt runs, nothing changes.",
        body=NothingModel,
        body_required=False,
        problems=("endpoint-disabled",),
    ),
}
