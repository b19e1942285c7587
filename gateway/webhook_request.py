"""What a partner may send about its webhook endpoints: the models that validate it."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from bridge.clock import read_moment
from bridge.payment import EventType
from bridge.webhook_endpoint import MAX_EVENT_TYPES, MAX_URL_CHARACTERS
from gateway.payment_request import TEXT_PATTERN, RequestModel, published, text

MAX_DESCRIPTION_CHARACTERS = 200
# In the contract's words, and all that there are now: each type, or all of them.
EVENT_TYPES = ("payment.*", *(str(each) for each in EventType))


def _event_type(value: str) -> str:
    if value not in EVENT_TYPES:
        raise ValueError("is not the type of an event, nor payment.*")
    return value


def _moment(value: str) -> str:
    try:
        read_moment(value)
    except ValueError as error:
        raise ValueError("is not a time such as 2026-12-01T00:00:00Z") from error
    return value


Url = Annotated[
    str,
    Field(max_length=MAX_URL_CHARACTERS),
    published(
        "https; its host has to resolve, to public addresses only. No credentials.", format="webhook-url"
    ),
]
EventTypes = Annotated[
    list[Annotated[str, AfterValidator(_event_type), published(enum=list(EVENT_TYPES))]],
    Field(min_length=1, max_length=MAX_EVENT_TYPES),
]
Description = Annotated[
    str,
    AfterValidator(text),
    Field(max_length=MAX_DESCRIPTION_CHARACTERS),
    published("For yourself.", pattern=TEXT_PATTERN),
]
Moment = Annotated[str, AfterValidator(_moment), published(format="date-time")]


class NewEndpointModel(RequestModel):
    """The body of `POST /v1/webhook-endpoints`."""

    url: Url
    event_types: EventTypes = Field(default_factory=lambda: ["payment.*"])
    description: Description | None = None


class EndpointChangesModel(RequestModel):
    """The body of `PATCH /v1/webhook-endpoints/{endpoint_id}`: what is not there stays as it is."""

    url: Url = ""
    event_types: EventTypes = Field(default_factory=list)
    description: Description | None = None
    status: Annotated[
        Literal["enabled", "disabled"],
        Field(description="Enabling sends what was held; disabling holds what is to come."),
    ] = "enabled"


class ReplayModel(RequestModel):
    """The body of `POST /v1/webhook-endpoints/{endpoint_id}/replay`."""

    since: Moment
    until: Moment | None = None
    only: Annotated[
        Literal["failed", "missing", "all"],
        Field(
            description="failed: whose attempts are exhausted. missing: which the endpoint wants now and has "
            "never been sent. all: both, and what was delivered."
        ),
    ]
    dry_run: Annotated[bool, Field(description="Only count.")] = False
