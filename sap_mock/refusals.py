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


# Beside what the mock's own rules refuse (posting_rules.py), whose numbers can be asked for here too.
REASONS: Mapping[str, Reason] = {
    "CUSTOMER-UNKNOWN": Reason("102(F5)", "Customer {name} is not defined in company code {company_code}"),
    "VENDOR-UNKNOWN": Reason("104(F5)", "Vendor {name} is not defined in company code {company_code}"),
    "CURRENCY-UNKNOWN": Reason("004(SG)", "Currency is not defined; document of {name}"),
    "LOCKED": Reason("601(MC)", "Object requested is currently locked by user of {name}", times=2),
    "PERIOD-CLOSING": Reason("201(F5A)", "Period {period} is just being closed; document of {name}", times=2),
    "PERIOD-CLOSED": Reason("201(F5)", "Posting period {period} is not open; document of {name}"),
    "PERIOD-CLOSED-FOR-ACCOUNT": Reason("286(F5)", "Period {period} is not open for account type D ({name})"),
    "NOT-AUTHORIZED": Reason(
        "083(F5)", "No authorization for company code {company_code}; document of {name}"
    ),
    "ACCOUNT-NOT-POSTABLE": Reason(
        "354(F5)", "Account of {name} in company code {company_code} cannot be directly posted to"
    ),
    "ACCOUNT-MISSING": Reason("506(F5)", "G/L account of {name} is not defined in chart of accounts"),
    "ACCOUNT-MISSING-IN-COMPANY": Reason(
        "507(F5)", "G/L account of {name} is not defined in company code {company_code}"
    ),
    "FIELD-REQUIRED": Reason("808(F5)", "Field Assignment is a required field for the account of {name}"),
    "DOCUMENT-TYPE": Reason("814(F5)", "Document type is not allowed; document of {name}"),
    "CO-OBJECT": Reason("235(KI)", "Account of {name} requires an assignment to a CO object"),
    "BALANCING-FIELD": Reason("201(GLT2)", 'Balancing field "Profit Center" not filled, item of {name}'),
    "EXCHANGE-RATE": Reason("105(SG)", "Enter rate type M for {period} in the system settings ({name})"),
    "ITEM-COUNT": Reason("600(RW)", "Too few or too many line items; document of {name}"),
    "FIELD-NOT-TRANSFERRED": Reason("602(RW)", "Required field was not transferred; document of {name}"),
    "AMOUNT-ZERO": Reason("700(F5)", "The amount of an item is zero; document of {name}"),
    "SEVERAL-CURRENCIES": Reason("701(F5)", "Items are in several currencies; document of {name}"),
    "NOT-BALANCED": Reason("702(F5)", "Balance in transaction currency; document of {name}"),
    "WRONG-SIGN": Reason("703(F5)", "DebitCreditCode and sign contradict each other; document of {name}"),
    "DECIMALS": Reason("704(F5)", "More decimals than the currency has; document of {name}"),
    "DATE": Reason("089(00)", "Date is not valid; document of {name}"),
    "NO-ORIGINAL": Reason("397(F5)", "Document of {name} does not exist"),
    "OTHER-COMPANY-CODE": Reason("398(F5)", "Document of {name} belongs to another company code"),
    "ALREADY-REVERSED": Reason("361(F5A)", "Document of {name} has already been reversed"),
    "SOMETHING-ELSE": Reason("999(ZZ)", "A message of a customer's own; document of {name}"),
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
