"""A journal entry as it is asked for and as it is posted, in SAP's words."""

from dataclasses import dataclass
from decimal import Decimal

DEBIT = "S"
CREDIT = "H"
NO_DOCUMENT = "0000000000"


@dataclass(frozen=True, slots=True)
class Item:
    """`kind` is the element's name: Item (G/L), DebtorItem or CreditorItem. Credit amounts are negative."""

    kind: str
    account: str
    amount: Decimal
    currency: str
    debit_credit: str = ""
    text: str = ""
    assignment: str = ""
    reference1: str = ""
    reference3: str = ""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """Texts as sent, "" for what was not; dates as xsd:date, possibly with a time zone."""

    company_code: str
    document_type: str
    document_date: str
    posting_date: str
    items: tuple[Item, ...]
    reference: str = ""
    header_text: str = ""
    created_by: str = ""
    business_transaction: str = ""
    original_reference_type: str = ""
    original_reference: str = ""
    logical_system: str = ""
    reversal_reason: str = ""
    reversal_reference: str = ""


@dataclass(frozen=True, slots=True)
class PostingRequest:
    """One JournalEntryCreateRequest; `uuid` is its own MessageHeader/UUID, lower case, or ""."""

    message_id: str
    uuid: str
    simulate: bool
    entry: JournalEntry


@dataclass(frozen=True, slots=True)
class DocumentKey:
    company_code: str
    fiscal_year: str
    number: str

    def object_key(self) -> str:
        """SAP's AWKEY of a BKPFF document: number, company code, fiscal year."""
        return f"{self.number}{self.company_code:<4}{self.fiscal_year}"

    @classmethod
    def from_object_key(cls, text: str) -> "DocumentKey | None":
        """Read an AWKEY (18 characters); None when it is none."""
        if len(text) != 18 or not text[:10].isdigit() or not text[14:].isdigit():
            return None
        return cls(number=text[:10], company_code=text[10:14].rstrip(), fiscal_year=text[14:])


@dataclass(frozen=True, slots=True)
class Document:
    """What stands in the ledger."""

    key: DocumentKey
    entry: JournalEntry
    committed_at_ms: int
    reversed_key: DocumentKey | None = None

    @property
    def currency(self) -> str:
        return self.entry.items[0].currency

    @property
    def debit_total(self) -> Decimal:
        """Keep the decimals the amounts were sent with."""
        return sum((item.amount for item in self.entry.items if item.amount > 0), start=Decimal(0))


@dataclass(frozen=True, slots=True)
class LogItem:
    """`type_id` as in "102(F5)"; severity 1 information, 2 warning, 3 error. Notes may carry names."""

    type_id: str
    severity: int
    note: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an entry is not posted; the items follow the general 609(RW) in the log."""

    items: tuple[LogItem, ...]
