"""What an endpoint is described by in the OpenAPI document, and what several of them share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from gateway.parameters import MAX_CURSOR_CHARACTERS

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    where: str
    description: str
    schema: Schema
    required: bool = False


@dataclass(frozen=True, slots=True)
class Described:
    """`success` is the status of the good answer, `answer` its model (None: HTML; 204: nothing).

    `problems` are slugs.
    """

    tag: str
    summary: str
    answer: type[BaseModel] | None
    success: int = 200
    description: str = ""
    body: type[BaseModel] | Schema | None = None
    body_required: bool = True
    parameters: tuple[Parameter, ...] = ()
    problems: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    # answers in another form than a problem: status to model
    errors: Mapping[int, type[BaseModel]] = field(default_factory=dict)


KEY_SCHEMA: Schema = {"type": "string", "format": "idempotency-key", "pattern": "^[!-+\\--~]{1,255}$"}

KEY = Parameter(
    "Idempotency-Key",
    "header",
    "New for each request, the same when a request is repeated: then the answer is the payment as it stands, "
    "with `Idempotency-Replayed: true`, and nothing is done twice.",
    KEY_SCHEMA,
    required=True,
)
OPTIONAL_KEY = Parameter(KEY.name, KEY.where, "Optional: nothing could be done twice.", KEY_SCHEMA)
CURSOR = Parameter(
    "cursor",
    "query",
    "`next_cursor` of the page before; opaque.",
    {"type": "string", "format": "cursor", "maxLength": MAX_CURSOR_CHARACTERS},
)


def limit(what: str, default: int, highest: int) -> Parameter:
    schema = {"type": "integer", "minimum": 1, "maximum": highest, "default": default}
    return Parameter("limit", "query", f"{what} on a page.", schema)
