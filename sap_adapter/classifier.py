"""From SAP's message number and class to whose move it is: data (reasons.json), not code.

The wording is ours, for the partner; SAP's own text carries names and goes no further than our database.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError, model_validator

from bridge.errors import SettingsError
from bridge.payment import Failure
from sap_adapter.connector import LogItem

# "Error in document": always the first line of a refusal, never the reason.
HEADLINE = "609(RW)"
SEVERITY_ERROR = 3
# the code of what a later posting date may mend, where the mapping allows one
PERIOD_CLOSED = "sap-period-closed"
# what of its request a partner can mend
Pointer = Literal[
    "/amount/currency",
    "/amount/value",
    "/debtor",
    "/debtor/account/iban",
    "/creditor",
    "/creditor/account/iban",
    "/remittance_information",
    "/requested_execution_date",
]


class Whose(StrEnum):
    """Who can change that the posting is refused."""

    RETRY = "retry"
    PARTNER = "partner"
    OPERATOR = "operator"


class Row(BaseModel):
    """A line of reasons.json.

    `pointer` is a JSON Pointer into the partner's request, needed where the partner has to mend something;
    `sap` is SAP's own wording without its variables, `note` where the number is known from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    whose: Whose
    code: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{1,49}$")]
    message: Annotated[str, StringConstraints(pattern=r"^[A-Z][ -~]{1,198}\.$")]
    pointer: Pointer | None = None
    sap: str
    note: str | None = None

    @model_validator(mode="after")
    def _points_where_the_partner_mends(self) -> "Row":
        if (self.whose == Whose.PARTNER) != (self.pointer is not None):
            raise ValueError("a pointer is for what the partner has to mend, and only for that")
        return self


_TABLE = TypeAdapter(dict[Annotated[str, StringConstraints(pattern=r"^[0-9]{3}\([A-Z0-9_/]{1,20}\)$")], Row])


@dataclass(frozen=True, slots=True)
class Reason:
    """What a refusal means; `failure.code` is stable and documented."""

    whose: Whose
    failure: Failure


UNLISTED = Reason(Whose.OPERATOR, Failure("sap-refused", "SAP refused the posting for an unlisted reason."))


class Classifier:
    """Looks refusals up in the table; what it does not list is an operator's to look at."""

    def __init__(self, rows: Mapping[str, Row]) -> None:
        self._reasons = {
            type_id: Reason(row.whose, Failure(row.code, row.message, row.pointer))
            for type_id, row in rows.items()
        }

    @classmethod
    def from_package(cls) -> "Classifier":
        """Read the table that is shipped with the adapter; SettingsError as `read`."""
        return cls.read(resources.files("sap_adapter").joinpath("reasons.json").read_bytes())

    @classmethod
    def read(cls, table: bytes) -> "Classifier":
        """Read a table; SettingsError names the first line that is wrong."""
        try:
            return cls(_TABLE.validate_json(table))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise SettingsError(f"reasons.json: {where}: {first['msg']}") from error

    @property
    def type_ids(self) -> frozenset[str]:
        """Every message that the table lists."""
        return frozenset(self._reasons)

    def classify(self, log: Sequence[LogItem]) -> Reason:
        """Return the reason of the first line that the table lists, errors only, the headline apart."""
        for item in log:
            is_reason = item.type_id != HEADLINE and item.severity >= SEVERITY_ERROR
            if is_reason and item.type_id in self._reasons:
                return self._reasons[item.type_id]
        return UNLISTED
