"""The shapes of the API's answers, for the OpenAPI document.

What is answered is rendered from the domain (bridge/payment.py); the contract tests hold every real answer
against these models, member by member, so that neither can change alone.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from bridge.clock import rfc3339
from bridge.payment import EventType, OperationKind, OperationStatus, PaymentStatus

Moment = Annotated[
    str, Field(json_schema_extra={"format": "date-time"}, description="RFC 3339, UTC, with milliseconds.")
]
NextCursor = Annotated[str | None, Field(description="`cursor` of the next page; null on the last one.")]
ID_PATTERN = r"^{}_[0-9a-hjkmnp-tv-z]{{26}}$"
PAYMENT_ID_PATTERN = ID_PATTERN.format("pay")
EXAMPLE_PAYMENT_ID = "pay_01kaf3nyt8h8w5s2m6r7v9x4cd"
_EXAMPLE_MOMENT = rfc3339(datetime.fromisoformat("2026-11-20T12:00:00.123Z"))


class Answer(BaseModel):
    """What we answer: every member is always there, unless it says otherwise."""

    model_config = ConfigDict(strict=True, frozen=True)


class AmountAnswer(Answer):
    value: Annotated[str, Field(pattern=r"^(0|[1-9][0-9]*)(\.[0-9]+)?$", examples=["1250.00"])]
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$", examples=["EUR"])]


class SapDocumentAnswer(Answer):
    """The key of the accounting document in SAP."""

    company_code: Annotated[str, Field(examples=["1000"])]
    fiscal_year: Annotated[str, Field(examples=["2026"])]
    number: Annotated[str, Field(examples=["1400000001"])]


class FailureAnswer(Answer):
    """Why the operation was refused, in the partner's terms."""

    code: str
    message: str
    pointer: Annotated[
        str | None,
        Field(description="JSON Pointer into the payment as it was sent, if one member is to blame."),
    ]


class OperationAnswer(Answer):
    """One step of a payment that SAP has to book."""

    id: Annotated[str, Field(pattern=ID_PATTERN.format("op"))]
    kind: OperationKind
    status: OperationStatus
    amount: AmountAnswer
    sap_document: SapDocumentAnswer | None
    failure: FailureAnswer | None
    created_at: Moment
    completed_at: Moment | None


class EventPaymentAnswer(Answer):
    """A payment as it was at an event."""

    id: Annotated[str, Field(pattern=PAYMENT_ID_PATTERN, examples=[EXAMPLE_PAYMENT_ID])]
    external_id: str
    status: PaymentStatus
    amount: AmountAnswer
    captured: AmountAnswer
    refunded: AmountAnswer
    capture: Literal["automatic", "manual"]
    operations: list[OperationAnswer]
    created_at: Annotated[Moment, Field(examples=[_EXAMPLE_MOMENT])]
    updated_at: Moment
    # without a default it would be required: it is there only if it was asked for
    requested_execution_date: Annotated[
        str, Field(json_schema_extra={"format": "date"}, description="Only if the payment was sent with one.")
    ] = ""


class PaymentAnswer(EventPaymentAnswer):
    """A payment as its partner sees it. Names, accounts and texts are never echoed."""

    metadata: dict[str, str]
    receipt: Annotated[
        str | None,
        Field(
            description="Compact JWS (EdDSA, `typ` receipt+jws): proof of the acceptance, for the partner to "
            "keep. Its keys are in /.well-known/receipt-keys.json. null once it has been erased."
        ),
    ]
    # as above: there only while it can be told
    estimated_completion: Annotated[
        Moment,
        Field(
            description="When SAP will have booked the payment's next step, at the speed at which it books "
            "now. Only while the payment waits for a SAP system that is behind. It may move either way. "
            "Without it, the payment is about to be booked, or nobody knows when: while SAP is away it "
            "would be a guess."
        ),
    ] = ""


class PaymentPage(Answer):
    data: list[PaymentAnswer]
    next_cursor: NextCursor


class EventData(Answer):
    payment: EventPaymentAnswer


class TimelineEventAnswer(Answer):
    id: Annotated[str, Field(pattern=ID_PATTERN.format("evt"))]
    sequence: Annotated[
        int | None,
        Field(description="Its number in the feed; null while it is not in it: not yet, or no more."),
    ]
    type: EventType
    timestamp: Moment
    data: EventData


class EventAnswer(TimelineEventAnswer):
    sequence: Annotated[int, Field(description="Gap-free per partner, in order.")]


class TimelinePage(Answer):
    data: list[TimelineEventAnswer]
    next_cursor: NextCursor


class EventPage(Answer):
    data: list[EventAnswer]
    last_sequence: Annotated[int, Field(description="`after` of the next page.")]
    epoch: Annotated[int, Field(description="Changes only after a restore from backup: read from 0 again.")]


class TokenAnswer(Answer):
    """RFC 6749 section 5.1."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: Annotated[int, Field(description="Seconds.")]
    scope: str


class TokenErrorAnswer(Answer):
    """RFC 6749 section 5.2."""

    error: str
    error_description: str


class MetadataAnswer(BaseModel):
    """RFC 8414 section 2."""

    issuer: str
    token_endpoint: str
    jwks_uri: str
    grant_types_supported: list[str]
    response_types_supported: list[str]
    token_endpoint_auth_methods_supported: list[str]
    token_endpoint_auth_signing_alg_values_supported: list[str]
    scopes_supported: list[str]


class KeySetAnswer(Answer):
    """A JWK set (RFC 7517)."""

    keys: list[dict[str, str]]


class ProblemFieldAnswer(Answer):
    pointer: Annotated[str, Field(description="JSON Pointer (RFC 6901) into the body.")]
    detail: str


class ProblemAnswer(BaseModel):
    """RFC 9457. `type` resolves to a page that explains it; branch on it, not on the texts."""

    type: Annotated[
        str, Field(json_schema_extra={"format": "uri"}, examples=["https://…/problems/invalid-request"])
    ]
    title: str
    status: int
    detail: str
    errors: Annotated[list[ProblemFieldAnswer], Field(description="invalid-request: each mistake.")] = Field(
        default_factory=list
    )
    payment_id: Annotated[str, Field(description="duplicate-external-id: the payment that has it.")] = ""
    payment_status: Annotated[str, Field(description="invalid-state: what the payment will be.")] = ""
    reason: Annotated[
        str, Field(description="unavailable: recovery-due after a restore from backup, until it is over.")
    ] = ""


class AcceptedItemAnswer(Answer):
    status: Literal[202]
    payment: PaymentAnswer
    replayed: Annotated[Literal[True], Field(description="Only if the key was known.")] = True


class RefusedItemAnswer(Answer):
    status: Annotated[int, Field(ge=400)]
    problem: ProblemAnswer


class BatchAnswer(Answer):
    results: Annotated[
        list[AcceptedItemAnswer | RefusedItemAnswer], Field(description="In the order of `payments`.")
    ]


class EdgeErrorAnswer(Answer):
    """What the API Gateway answers itself, before a request reaches the API."""

    code: int
    message: str
