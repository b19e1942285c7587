"""A step of a payment as SAP's journal entry: element order matters, credit amounts are negative (SAP.md)."""

from collections.abc import Iterator
from dataclasses import dataclass

from lxml import etree

from bridge.partner import JournalEntryMapping
from bridge.payment import OperationKind, SapDocument
from sap_adapter.connector import Entry, JournalFacts

ITEM_TEXT_CHARACTERS = 50
LOGICAL_SYSTEM = "PPBRIDGE"
CREATED_BY_USER = "PPBRIDGE"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an entry. `element` is Item (general ledger) or DebtorItem (customer)."""

    element: str
    account: str
    text: str
    debit: bool
    special_gl_code: str | None = None


def render(facts: JournalFacts, mapping: JournalEntryMapping) -> Entry:
    """Return the `JournalEntry` element as bytes; ValueError if the mapping lacks what this kind needs.

    A payment and a capture debit the clearing account and credit the customer; a refund does the opposite; an
    authorisation is noted beside the balance sheet; a reversal names the document it takes back, whose lines
    SAP turns itself. The general ledger line carries `external_id`: after a restore from backup it tells
    which payment a document was.
    """
    entry = etree.Element("JournalEntry")
    for name, value in _header(facts, mapping):
        etree.SubElement(entry, name).text = value
    for number, line in enumerate(_lines(facts, mapping), start=1):
        _add(entry, number, line, facts)
    return Entry(mapping.document_type, etree.tostring(entry, encoding="utf-8"))


def _header(facts: JournalFacts, mapping: JournalEntryMapping) -> Iterator[tuple[str, str]]:
    yield "OriginalReferenceDocumentType", "BKPFF"
    yield "OriginalReferenceDocument", facts.reference
    yield "OriginalReferenceDocumentLogicalSystem", LOGICAL_SYSTEM
    yield "BusinessTransactionType", "RFBU"
    yield "AccountingDocumentType", mapping.document_type
    yield "DocumentReferenceID", facts.reference
    yield "DocumentHeaderText", str(facts.kind)
    yield "CreatedByUser", CREATED_BY_USER
    yield "CompanyCode", facts.company_code
    yield "DocumentDate", facts.document_date
    yield "PostingDate", facts.posting_date
    if facts.kind == OperationKind.REVERSE:
        if facts.reverses is None:
            raise ValueError("a reversal of nothing")
        yield "ReversalReason", mapping.reversal_reason
        yield "ReversalReferenceDocument", _object_key(facts.reverses)


def _lines(facts: JournalFacts, mapping: JournalEntryMapping) -> tuple[Line, ...]:
    match facts.kind:
        case OperationKind.REVERSE:
            return ()
        case OperationKind.AUTHORIZE:
            account, special = mapping.statistical_account, mapping.special_gl_code
            if account is None or special is None:
                raise ValueError("no account or indicator to note an authorisation by")
            noted = Line("DebtorItem", mapping.customer, facts.counterparty_text, True, special)
            return (Line("Item", account, facts.external_id, debit=False), noted)
        case _:
            refund = facts.kind == OperationKind.REFUND
            return (
                Line("Item", mapping.clearing_account, facts.external_id, debit=not refund),
                Line("DebtorItem", mapping.customer, facts.counterparty_text, debit=refund),
            )


def _add(entry: etree._Element, number: int, line: Line, facts: JournalFacts) -> None:
    element = etree.SubElement(entry, line.element)
    etree.SubElement(element, "ReferenceDocumentItem").text = str(number)
    etree.SubElement(element, "GLAccount" if line.element == "Item" else "Debtor").text = line.account
    amount = etree.SubElement(element, "AmountInTransactionCurrency", currencyCode=facts.amount.currency)
    amount.text = facts.amount.value if line.debit else f"-{facts.amount.value}"
    etree.SubElement(element, "DebitCreditCode").text = "S" if line.debit else "H"
    if line.special_gl_code:
        etree.SubElement(element, "SpecialGLCode").text = line.special_gl_code
    if line.text:
        etree.SubElement(element, "DocumentItemText").text = line.text[:ITEM_TEXT_CHARACTERS]


def _object_key(document: SapDocument) -> str:
    """Return SAP's object key (AWKEY) of an accounting document: number, company code, fiscal year."""
    return f"{document.number:0>10}{document.company_code:<4}{document.fiscal_year}"
