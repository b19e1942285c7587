"""From SAP's message number and class to whose move it is: data (reasons.json), not code.

The wording is ours, for the partner; SAP's own text carries names and goes no further than our database.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources

from bridge.payment import Failure
from sap_adapter.connector import LogItem

# "Error in document": always the first line of a refusal, never the reason.
HEADLINE = "609(RW)"
SEVERITY_ERROR = 3


class Whose(StrEnum):
    """Who can change that the posting is refused."""

    RETRY = "retry"
    PARTNER = "partner"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Reason:
    """What a refusal means; `failure.code` is stable and documented."""

    whose: Whose
    failure: Failure


UNLISTED = Reason(Whose.OPERATOR, Failure("sap-refused", "SAP refused the posting for an unlisted reason."))


class Classifier:
    """Looks refusals up in the table; what it does not list is an operator's to look at."""

    def __init__(self, reasons: dict[str, Reason]) -> None:
        self._reasons = reasons

    @classmethod
    def from_package(cls) -> "Classifier":
        """Read the table that is shipped with the adapter."""
        table = json.loads(resources.files("sap_adapter").joinpath("reasons.json").read_text("utf-8"))
        return cls(
            {
                type_id: Reason(Whose(row["whose"]), Failure(row["code"], row["message"], row.get("pointer")))
                for type_id, row in table.items()
            }
        )

    def classify(self, log: Sequence[LogItem]) -> Reason:
        """Return the reason of the first line that the table lists, errors only, the headline apart."""
        for item in log:
            is_reason = item.type_id != HEADLINE and item.severity >= SEVERITY_ERROR
            if is_reason and item.type_id in self._reasons:
                return self._reasons[item.type_id]
        return UNLISTED
