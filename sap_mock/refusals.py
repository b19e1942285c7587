"""Refusals that one payment asks for by its texts (docs/sandbox.md lists them)."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from sap_mock.journal_entry import JournalEntry, LogItem, Refusal
from sap_mock.magic import Vocabulary
from sap_mock.manners import ALWAYS

# Stands in every note below, as SAP's notes carry names: a leak test may look for it.
NAME_IN_NOTES = "Erika Mustermann GmbH"


@dataclass(frozen=True, slots=True)
class Reason:
    """`times`: how often an operation's reference is refused unless the text says otherwise."""

    type_id: str
    note: str
    times: int = ALWAYS


REASONS: Mapping[str, Reason] = {
    "CUSTOMER-UNKNOWN": Reason("102(F5)", "Customer {name} is not defined in company code {company_code}"),
    "VENDOR-UNKNOWN": Reason("104(F5)", "Vendor {name} is not defined in company code {company_code}"),
    "ACCOUNT-MISSING": Reason(
        "506(F5)", "G/L account of {name} is not defined in company code {company_code}"
    ),
    "PERIOD-CLOSED": Reason("201(F5)", "Period {period} is not open; document of {name}"),
    "PERIOD-CLOSING": Reason("201(F5A)", "Period {period} is just being closed; document of {name}", times=2),
    "NOT-AUTHORIZED": Reason(
        "083(F5)", "No authorization for company code {company_code}; document of {name}"
    ),
    "LOCKED": Reason("601(MC)", "Object requested is currently locked by user of {name}", times=2),
}
_VOCABULARY = Vocabulary(REASONS)


@dataclass(frozen=True, slots=True)
class AskedRefusal:
    """A refusal that the texts ask for; `times` counts the messages refused per reference and reason."""

    reason: str
    times: int
    refusal: Refusal


def asked_refusal(entry: JournalEntry) -> AskedRefusal | None:
    """Return the refusal that an item text asks for, if it concerns this kind of document."""
    asked = _VOCABULARY.read(entry)
    if asked is None or (asked.word == "PERIOD-CLOSED" and _posted_in_a_later_month(entry)):
        return None
    reason = REASONS[asked.word]
    note = reason.note.format(
        name=NAME_IN_NOTES, company_code=entry.company_code, period=entry.posting_date[:7]
    )
    times = reason.times if asked.times is None else asked.times
    return AskedRefusal(asked.word, times, Refusal((LogItem(reason.type_id, 3, note),)))


def _posted_in_a_later_month(entry: JournalEntry) -> bool:
    """The month of the document date is the closed one; any later one is open."""
    document_date = date.fromisoformat(entry.document_date[:10])
    posting_date = date.fromisoformat(entry.posting_date[:10])
    return (posting_date.year, posting_date.month) > (document_date.year, document_date.month)
