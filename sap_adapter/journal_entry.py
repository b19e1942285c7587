"""A payment as SAP's journal entry (SAP.md, Posting): element order matters, credit amounts are negative."""

from lxml import etree

from bridge.partner import JournalEntryMapping
from bridge.payment import OperationKind
from sap_adapter.connector import Entry, JournalFacts

ITEM_TEXT_CHARACTERS = 50
LOGICAL_SYSTEM = "PPBRIDGE"
CREATED_BY_USER = "PPBRIDGE"


def render(facts: JournalFacts, mapping: JournalEntryMapping) -> Entry:
    """Return the `JournalEntry` element as bytes.

    A payment debits the clearing account and credits the customer; a refund does the opposite. The general
    ledger line carries `external_id`: after a restore from backup it tells which payment a document was.
    """
    entry = etree.Element("JournalEntry")
    for name, value in (
        ("OriginalReferenceDocumentType", "BKPFF"),
        ("OriginalReferenceDocument", facts.reference),
        ("OriginalReferenceDocumentLogicalSystem", LOGICAL_SYSTEM),
        ("BusinessTransactionType", "RFBU"),
        ("AccountingDocumentType", mapping.document_type),
        ("DocumentReferenceID", facts.reference),
        ("DocumentHeaderText", str(facts.kind)),
        ("CreatedByUser", CREATED_BY_USER),
        ("CompanyCode", facts.company_code),
        ("DocumentDate", facts.document_date),
        ("PostingDate", facts.posting_date),
    ):
        etree.SubElement(entry, name).text = value
    refund = facts.kind == OperationKind.REFUND
    lines = (
        ("Item", "GLAccount", mapping.clearing_account, facts.external_id, not refund),
        ("DebtorItem", "Debtor", mapping.customer, facts.counterparty_text, refund),
    )
    for number, (element, account_element, account, line_text, debit) in enumerate(lines, start=1):
        line = etree.SubElement(entry, element)
        etree.SubElement(line, "ReferenceDocumentItem").text = str(number)
        etree.SubElement(line, account_element).text = account
        amount = etree.SubElement(line, "AmountInTransactionCurrency", currencyCode=facts.amount.currency)
        amount.text = facts.amount.value if debit else f"-{facts.amount.value}"
        etree.SubElement(line, "DebitCreditCode").text = "S" if debit else "H"
        if line_text:
            etree.SubElement(line, "DocumentItemText").text = line_text[:ITEM_TEXT_CHARACTERS]
    return Entry(mapping.document_type, etree.tostring(entry, encoding="utf-8"))
