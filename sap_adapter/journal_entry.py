"""A step of a payment as SAP's journal entry (docs/sap.md): order matters, credit amounts are negative."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date

from lxml import etree

from bridge.mapping_values import JournalValues, cut
from bridge.payment import OperationKind, SapDocument
from sap_adapter.connector import Entry, JournalFacts
from sap_adapter.document_mark import document_mark

ITEM_TEXT_UNITS = 50
LOGICAL_SYSTEM = "PPBRIDGE"
CREATED_BY_USER = "PPBRIDGE"


@dataclass(frozen=True, slots=True)
class Line:
    """One line: `element` is Item (general ledger), DebtorItem (customer) or CreditorItem (vendor)."""

    element: str
    account: str
    text: str | None
    debit: bool
    special_gl_code: str | None = None
    assignment: str | None = None


ACCOUNT_ELEMENTS = {"Item": "GLAccount", "DebtorItem": "Debtor", "CreditorItem": "Creditor"}


def render(facts: JournalFacts) -> Entry:
    """Return the `JournalEntry` element as bytes; ValueError if the facts lack what this kind needs.

    A payment and a capture debit the clearing account and credit the customer; a refund does the opposite; an
    authorisation is noted beside the balance sheet; a reversal names the document it takes back, whose lines
    SAP turns itself. The general ledger line carries `external_id`: after a restore from backup it tells
    which payment a document was, and each line carries the mark of its partner and kind.
    """
    entry = etree.Element("JournalEntry")
    for name, value in _header(facts):
        etree.SubElement(entry, name).text = value
    for number, line in enumerate(_lines(facts), start=1):
        _add(entry, number, line, facts)
    return Entry(facts.values.document_type, etree.tostring(entry, encoding="utf-8"))


def _header(facts: JournalFacts) -> Iterator[tuple[str, str]]:
    yield "OriginalReferenceDocumentType", "BKPFF"
    yield "OriginalReferenceDocument", facts.reference
    yield "OriginalReferenceDocumentLogicalSystem", LOGICAL_SYSTEM
    yield "BusinessTransactionType", "RFBU"
    yield "AccountingDocumentType", facts.values.document_type
    yield "DocumentReferenceID", facts.reference
    yield "DocumentHeaderText", facts.values.header_text
    yield "CreatedByUser", CREATED_BY_USER
    yield "CompanyCode", facts.company_code
    yield "DocumentDate", facts.document_date
    yield "PostingDate", facts.posting_date
    if facts.kind == OperationKind.REVERSE:
        if facts.reverses is None:
            raise ValueError("a reversal of nothing")
        yield "ReversalReason", facts.values.reversal_reason
        yield "ReversalReferenceDocument", _object_key(facts.reverses)
    if facts.values.header_reference:
        yield "Reference1InDocumentHeader", facts.values.header_reference


def _lines(facts: JournalFacts) -> tuple[Line, ...]:
    values = facts.values
    match facts.kind:
        case OperationKind.REVERSE:
            return ()
        case OperationKind.AUTHORIZE:
            account, special = values.statistical_account, values.special_gl_code
            if account is None or special is None:
                raise ValueError("no account or indicator to note an authorisation by")
            noted = replace(_partners_line(values, debit=True), special_gl_code=special)
            return (Line("Item", account, facts.external_id, debit=False), noted)
        case _:
            refund = facts.kind == OperationKind.REFUND
            return (
                Line("Item", values.clearing_account, facts.external_id, debit=not refund),
                _partners_line(values, debit=refund),
            )


def _partners_line(values: JournalValues, *, debit: bool) -> Line:
    """Return the customer's or the vendor's line."""
    text, assignment = values.counterparty_text, values.assignment
    if values.customer is not None:
        return Line("DebtorItem", values.customer, text, debit, assignment=assignment)
    if values.vendor is not None:
        return Line("CreditorItem", values.vendor, text, debit, assignment=assignment)
    raise ValueError("neither a customer nor a vendor")


def _add(entry: etree._Element, number: int, line: Line, facts: JournalFacts) -> None:
    element = etree.SubElement(entry, line.element)
    etree.SubElement(element, "ReferenceDocumentItem").text = str(number)
    etree.SubElement(element, ACCOUNT_ELEMENTS[line.element]).text = line.account
    amount = etree.SubElement(element, "AmountInTransactionCurrency", currencyCode=facts.currency)
    amount.text = facts.amount if line.debit else f"-{facts.amount}"
    etree.SubElement(element, "DebitCreditCode").text = "S" if line.debit else "H"
    if line.special_gl_code:
        etree.SubElement(element, "SpecialGLCode").text = line.special_gl_code
    if line.text:
        etree.SubElement(element, "DocumentItemText").text = cut(line.text, ITEM_TEXT_UNITS)
    if line.assignment:
        etree.SubElement(element, "AssignmentReference").text = line.assignment
    mark = document_mark(facts.kind, facts.partner_id)
    etree.SubElement(element, "Reference3IDByBusinessPartner").text = mark


def with_posting_date(content: bytes, posting_date: date) -> bytes:
    """Return a rendered `JournalEntry` for another posting date; the same bytes for its own."""
    entry = etree.fromstring(content, etree.XMLParser(resolve_entities=False, no_network=True))
    element = entry.find("PostingDate")
    if element is None:
        raise ValueError("a journal entry without a posting date")
    if element.text == posting_date.isoformat():
        return content
    element.text = posting_date.isoformat()
    return etree.tostring(entry, encoding="utf-8")


def _object_key(document: SapDocument) -> str:
    """Return SAP's object key (AWKEY) of an accounting document: number, company code, fiscal year."""
    return f"{document.number:0>10}{document.company_code:<4}{document.fiscal_year}"
