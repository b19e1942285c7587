"""What a partner may send as a payment: the models that validate it, and mistakes as JSON Pointers."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from bridge.errors import FieldError, RejectedError
from bridge.money import InvalidMoneyError, Money, exponent, require_payable
from bridge.parties import Parties, Party
from bridge.partner import SapTarget
from gateway.iban import is_iban

MAX_EXTERNAL_ID_CHARACTERS = 35
MAX_NAME_CHARACTERS = 140
MAX_REMITTANCE_CHARACTERS = 140
MAX_METADATA_ENTRIES = 20
MAX_METADATA_KEY_CHARACTERS = 40
MAX_METADATA_VALUE_CHARACTERS = 200
MAX_ERRORS = 50
MEMBER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", re.ASCII)

_IBAN = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
# For the published schema: the same as the validators say, in words that all regular expression engines have
# (tests/contract holds the two against each other).
_CONTROLS = r"\u0000-\u001f\u007f-\u009f\ufffe\uffff"
_SPACES = r" \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
TEXT_PATTERN = f"^[^{_CONTROLS}]*[^{_CONTROLS}{_SPACES}][^{_CONTROLS}]*$"
STORABLE_PATTERN = r"^[^\u0000]*$"
VALUE_PATTERN = r"^(?!0(\.0*)?$)(0|[1-9][0-9]{0,12})(\.[0-9]{1,4})?$"
# controls, surrogates, and the two code points that are no characters in XML either
_NOT_TEXT = frozenset({"Cc", "Cs"})
_NONCHARACTERS = frozenset("\ufffe\uffff")
_NOT_VISIBLE = frozenset({"Cc", "Cs", "Cf", "Cn", "Co", "Zl", "Zp", "Zs"})

# pydantic's own texts may quote what was sent; these never do
_DETAILS = {
    "missing": "is required",
    "extra_forbidden": "is not a known member",
    "string_type": "must be a string",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "dict_type": "must be an object",
    "list_type": "must be an array",
    "string_unicode": "is not Unicode text",
}


def _is_plain(value: str) -> bool:
    """Tell at once what nearly every text is: printable ASCII, with which no rule finds fault."""
    return value.isascii() and value.isprintable()


def text(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    if not _is_plain(value) and any(
        unicodedata.category(c) in _NOT_TEXT or c in _NONCHARACTERS for c in value
    ):
        raise ValueError("must not contain control characters")
    return value


def _identifier(value: str) -> str:
    if value != value.strip() or (
        not _is_plain(value) and any(unicodedata.category(c) in _NOT_VISIBLE for c in value if c != " ")
    ):
        raise ValueError("must be visible characters, without space at its ends")
    return value


def _storable(value: str) -> str:
    if not _is_plain(value) and any(c == "\x00" or unicodedata.category(c) == "Cs" for c in value):
        raise ValueError("must be Unicode text without NUL")
    return value


def _iban(value: str) -> str:
    # not the printed form, which has spaces
    if not _IBAN.fullmatch(value):
        raise ValueError("must be an IBAN in capital letters and digits, without spaces")
    if not is_iban(value):
        raise ValueError("must be an IBAN with the right length and check digits for its country")
    return value


def _currency(value: str) -> str:
    exponent(value)
    return value


def _date(value: str) -> str:
    # fromisoformat takes 20261201 and 2026-W49-2 as well
    problem = "must be a date such as 2026-12-01"
    if not _DATE.fullmatch(value):
        raise ValueError(problem)
    try:
        date.fromisoformat(value)
    except ValueError as error:
        raise ValueError(problem) from error
    return value


class RequestModel(BaseModel):
    """What a body is made of: no unknown members, no conversions."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


Model = TypeVar("Model", bound=RequestModel)


def published(description: str = "", **schema: Any) -> Any:
    """Return what the OpenAPI document says of a field that a validator of ours judges."""
    return Field(description=description or None, json_schema_extra=schema)


class AmountModel(RequestModel):
    # before the value, whose decimals depend on it
    currency: Annotated[
        str,
        AfterValidator(_currency),
        published(
            "ISO 4217, of a currency that payments are made in.", format="iso-4217", pattern="^[A-Z]{3}$"
        ),
    ]
    value: Annotated[
        str,
        published(
            "Above zero, with at most the decimals of the currency.", format="amount", pattern=VALUE_PATTERN
        ),
    ]

    @field_validator("value")
    @classmethod
    def _valid_money(cls, value: str, info: ValidationInfo) -> str:
        # an unknown currency is told once, at its own place
        Money.parse(value, info.data.get("currency", "EUR"))
        return value


class AccountModel(RequestModel):
    iban: Annotated[
        str,
        AfterValidator(_iban),
        published("ISO 13616, without spaces.", format="iban", pattern=f"^{_IBAN.pattern}$"),
    ]


class PartyModel(RequestModel):
    name: Annotated[
        str,
        Field(max_length=MAX_NAME_CHARACTERS),
        AfterValidator(text),
        published(pattern=TEXT_PATTERN),
    ]
    account: AccountModel


class PaymentModel(RequestModel):
    """The body of `POST /v1/payments`."""

    external_id: Annotated[
        str,
        Field(min_length=1, max_length=MAX_EXTERNAL_ID_CHARACTERS),
        AfterValidator(_identifier),
        published(
            "The partner's own name for the payment, in visible characters, no space at its ends. Unique "
            "among its payments that are not rejected or cancelled. It is shown and told: no personal data.",
            format="external-id",
        ),
    ]
    amount: AmountModel
    capture: Annotated[
        Literal["automatic", "manual"],
        published("`automatic`: booked in one step. `manual`: authorized now, captured or reversed later."),
    ] = "automatic"
    debtor: PartyModel | None = None
    creditor: PartyModel | None = None
    remittance_information: (
        Annotated[
            str,
            Field(max_length=MAX_REMITTANCE_CHARACTERS),
            AfterValidator(text),
            published(pattern=TEXT_PATTERN),
        ]
        | None
    ) = None
    requested_execution_date: (
        Annotated[
            str,
            AfterValidator(_date),
            published("Neither past nor more than a year ahead, where the money is booked.", format="date"),
        ]
        | None
    ) = None
    metadata: Annotated[
        dict[
            Annotated[
                str,
                Field(min_length=1, max_length=MAX_METADATA_KEY_CHARACTERS),
                AfterValidator(_storable),
            ],
            Annotated[
                str,
                Field(max_length=MAX_METADATA_VALUE_CHARACTERS),
                AfterValidator(_storable),
                published(pattern=STORABLE_PATTERN),
            ],
        ],
        Field(max_length=MAX_METADATA_ENTRIES),
        # said here, or pydantic would make it a pattern of those keys only that have such values
        published(
            propertyNames={
                "minLength": 1,
                "maxLength": MAX_METADATA_KEY_CHARACTERS,
                "pattern": STORABLE_PATTERN,
            }
        ),
    ] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PaymentRequest:
    """A valid payment as the partner asked for it."""

    external_id: str
    amount: Money
    capture: str
    parties: Parties
    requested_execution_date: date | None
    metadata: Mapping[str, str]


def read_payment(document: dict[str, Any]) -> PaymentRequest:
    """Return the payment that the body of `POST /v1/payments` asks for; 422 if it is none."""
    model = validate(PaymentModel, document)
    try:
        require_payable(model.amount.currency)
    except InvalidMoneyError as error:
        raise invalid_request([FieldError("/amount/currency", str(error))]) from error
    on = model.requested_execution_date
    return PaymentRequest(
        external_id=model.external_id,
        amount=Money.parse(model.amount.value, model.amount.currency),
        capture=model.capture,
        parties=Parties(_party(model.debtor), _party(model.creditor), model.remittance_information),
        requested_execution_date=date.fromisoformat(on) if on is not None else None,
        metadata=model.metadata,
    )


def validate(model: type[Model], document: dict[str, Any]) -> Model:
    """Validate a parsed body; 422 with a pointer for each mistake, and none of the values that were sent."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise invalid_request(
            FieldError(_pointer(item["loc"]), _detail(item))
            for item in error.errors(include_url=False, include_input=False)[:MAX_ERRORS]
        ) from error


def require_writable(amount: Money, target: SapTarget) -> None:
    """422 for an amount that has more decimals than the target keeps of its currency."""
    try:
        target.written(amount)
    except InvalidMoneyError as error:
        raise invalid_request(
            [FieldError("/amount/value", f"{error}, where this payment is booked")]
        ) from error


def invalid_request(errors: Any) -> RejectedError:
    return RejectedError("invalid-request", 422, "The body is not as it must be.", errors=tuple(errors))


def _party(model: PartyModel | None) -> Party | None:
    return None if model is None else Party(model.name, model.account.iban)


def _pointer(location: tuple[int | str, ...]) -> str:
    """Return the JSON Pointer; of a member whose name is no plain identifier, the object's that has it.

    Names of members are the sender's words too: a debtor's name in the wrong place must not come back.
    """
    # pydantic marks a mistake in a key of a mapping by a last element of its own
    parts = location[:-1] if location and location[-1] == "[key]" else location
    pointer = ""
    for part in parts:
        if isinstance(part, str) and not MEMBER_NAME.fullmatch(part):
            break
        pointer = f"{pointer}/{part}"
    return pointer


def _detail(item: Any) -> str:
    kind, context = item["type"], item.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"must be {context['expected']}"
    if kind in ("string_too_long", "too_long"):
        unit = "characters" if kind == "string_too_long" else "entries"
        return f"must have at most {context['max_length']} {unit}"
    if kind in ("string_too_short", "too_short"):
        return "must not be empty"
    return _DETAILS.get(kind, "is not acceptable")
