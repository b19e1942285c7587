"""The shapes of the answers about webhooks, for the OpenAPI document (see gateway/answers.py)."""

from typing import Annotated, Literal

from pydantic import Field

from gateway.answers import ID_PATTERN, Answer, Moment

ENDPOINT_ID_PATTERN = ID_PATTERN.format("whe")
DELIVERY_ID_PATTERN = ID_PATTERN.format("dlv")
EXAMPLE_ENDPOINT_ID = "whe_01kaf3nyt8h8w5s2m6r7v9x4cd"
EXAMPLE_DELIVERY_ID = "dlv_01kaf3nyt8h8w5s2m6r7v9x4cd"


class WebhookEndpointAnswer(Answer):
    """Where webhooks are sent."""

    id: Annotated[str, Field(pattern=ENDPOINT_ID_PATTERN, examples=[EXAMPLE_ENDPOINT_ID])]
    url: str
    event_types: list[str]
    description: str | None
    status: Literal["enabled", "disabled"]
    disabled_reason: Annotated[
        Literal["partner", "gone", "failing"] | None,
        Field(description="gone: it has answered 410. failing: every attempt has failed for 120 hours."),
    ]
    failing_since: Annotated[
        Moment | None, Field(description="The first failed attempt after the last that succeeded.")
    ]
    public_keys: Annotated[
        list[Annotated[str, Field(pattern=r"^whpk_[A-Za-z0-9+/]{43}=$")]],
        Field(
            description="For `v1a` (ed25519) signatures: the current key, the one after the next rotation, "
            "and former ones as long as they sign. Trust them all."
        ),
    ]
    created_at: Moment | None


class WebhookSecretAnswer(WebhookEndpointAnswer):
    """A webhook endpoint with its secret."""

    secret: Annotated[
        str,
        Field(
            pattern="^whsec_[A-Za-z0-9+/]+=*$",
            description="Signs with `v1` (HMAC-SHA256). Shown in this answer only.",
        ),
    ]


class WebhookEndpointList(Answer):
    data: list[WebhookEndpointAnswer]


class WebhookDeliveryAnswer(Answer):
    """An event for an endpoint, or a test (`sequence` 0)."""

    id: Annotated[str, Field(pattern=DELIVERY_ID_PATTERN, examples=[EXAMPLE_DELIVERY_ID])]
    endpoint_id: Annotated[str, Field(pattern=ENDPOINT_ID_PATTERN)]
    event_id: Annotated[str, Field(pattern=ID_PATTERN.format("evt"), description="`webhook-id`.")]
    event_type: str
    sequence: int
    previous_sequence: int
    status: Annotated[
        Literal["pending", "delivered", "exhausted", "held"],
        Field(description="held: until the endpoint is enabled."),
    ]
    attempt_count: int
    next_attempt_at: Moment | None
    delivered_at: Moment | None
    created_at: Moment


class WebhookDeliveryPage(Answer):
    data: list[WebhookDeliveryAnswer]
    next_cursor: Annotated[str | None, Field(description="`cursor` of the next page; null on the last one.")]


class WebhookAttemptAnswer(Answer):
    """One request to the endpoint."""

    number: int
    started_at: Moment
    duration_ms: int
    response_status: int | None
    error_class: Annotated[
        str | None, Field(description="What went wrong, in one word, such as timeout; null for a success.")
    ]
    response_excerpt: Annotated[
        str | None, Field(description="How the answer began: up to 1 KiB, without what looks like a secret.")
    ]
    next_attempt_at: Moment | None


class WebhookDeliveryDetailAnswer(WebhookDeliveryAnswer):
    """A delivery with its attempts."""

    attempts: Annotated[list[WebhookAttemptAnswer], Field(description="Newest first, up to 100.")]


class ReplayAnswer(Answer):
    only: Literal["failed", "missing", "all"]
    events: Annotated[int, Field(description="How many are sent again, or would be.")]
    dry_run: bool
