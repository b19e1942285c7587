"""SOAP messages to SAP as a careful client writes them, for the tests of both ends."""

import uuid
from decimal import Decimal

from lxml import etree

SOAP_PATH = "/sap/bc/srt/scs_ext/sap/journalentrycreaterequestconfi"
ITEMS_PATH = "/sap/opu/odata/sap/API_OPLACCTGDOCITEMCUBE_SRV/A_OperationalAcctgDocItemCube"
LOGIN = ("sap", "sap-secret")


def header(message_uuid=None, test_data=False):
    identity = f"<UUID>{message_uuid}</UUID>" if message_uuid else ""
    test = "<TestDataIndicator>true</TestDataIndicator>" if test_data else ""
    return (
        f"<MessageHeader><ID>op</ID>{identity}"
        f"<CreationDateTime>2026-11-21T09:00:00Z</CreationDateTime>{test}</MessageHeader>"
    )


def gl_item(amount="12.50", currency="EUR", text="INV-1", account="113100"):
    return _item("Item", f"<GLAccount>{account}</GLAccount>", amount, currency, text)


def debtor_item(amount="-12.50", currency="EUR", text="INV-1", account="10001"):
    return _item("DebtorItem", f"<Debtor>{account}</Debtor>", amount, currency, text)


def _item(kind, account, amount, currency, text):
    code = "S" if Decimal(amount) > 0 else "H"
    return (
        f"<{kind}><ReferenceDocumentItem>1</ReferenceDocumentItem>{account}"
        f'<AmountInTransactionCurrency currencyCode="{currency}">{amount}</AmountInTransactionCurrency>'
        f"<DebitCreditCode>{code}</DebitCreditCode><DocumentItemText>{text}</DocumentItemText></{kind}>"
    )


def entry(
    *,
    reference="REFERENCE0000001",
    kind="payment",
    text="INV-1",
    amount="12.50",
    currency="EUR",
    document_date="2026-11-21",
    posting_date="2026-11-21",
    company_code="1000",
    reverses=None,
    items=None,
):
    reversal = (
        f"<ReversalReason>01</ReversalReason><ReversalReferenceDocument>{reverses}</ReversalReferenceDocument>"
        if reverses
        else ""
    )
    if items is None:
        items = (
            "" if reverses else gl_item(amount, currency, text) + debtor_item(f"-{amount}", currency, text)
        )
    return (
        "<JournalEntry><OriginalReferenceDocumentType>BKPFF</OriginalReferenceDocumentType>"
        "<BusinessTransactionType>RFBU</BusinessTransactionType>"
        "<AccountingDocumentType>DZ</AccountingDocumentType>"
        f"<DocumentReferenceID>{reference}</DocumentReferenceID>"
        f"<DocumentHeaderText>{kind}</DocumentHeaderText><CreatedByUser>BRIDGE</CreatedByUser>"
        f"<CompanyCode>{company_code}</CompanyCode><DocumentDate>{document_date}</DocumentDate>"
        f"<PostingDate>{posting_date}</PostingDate>{reversal}{items}</JournalEntry>"
    )


def request(journal_entry=None, *, message_uuid=None, test_data=False):
    """One JournalEntryCreateRequest; a fresh UUID unless one is given."""
    message_header = header(message_uuid or uuid.uuid4(), test_data)
    body = entry() if journal_entry is None else journal_entry
    return f"<JournalEntryCreateRequest>{message_header}{body}</JournalEntryCreateRequest>"


def envelope(*requests, test_data=False):
    return (
        '<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"'
        ' xmlns:sfin="http://sap.com/xi/SAPSCORE/SFIN"><soapenv:Header/><soapenv:Body>'
        f"<sfin:JournalEntryBulkCreateRequest>{header(test_data=test_data)}{''.join(requests)}"
        "</sfin:JournalEntryBulkCreateRequest></soapenv:Body></soapenv:Envelope>"
    ).encode()


class Confirmation:
    """What one JournalEntryCreateConfirmation says."""

    def __init__(self, element):
        self.number = element.findtext("JournalEntryCreateConfirmation/AccountingDocument")
        self.company_code = element.findtext("JournalEntryCreateConfirmation/CompanyCode")
        self.fiscal_year = element.findtext("JournalEntryCreateConfirmation/FiscalYear")
        self.severity = int(element.findtext("Log/MaximumLogItemSeverityCode"))
        self.types = [item.findtext("TypeID") for item in element.iterfind("Log/Item")]
        self.notes = [item.findtext("Note") for item in element.iterfind("Log/Item")]

    @property
    def object_key(self):
        return f"{self.number}{self.company_code}{self.fiscal_year}"


def confirmations(content):
    bulk = etree.fromstring(content).find(
        ".//{http://sap.com/xi/SAPSCORE/SFIN}JournalEntryBulkCreateConfirmation"
    )
    return [Confirmation(element) for element in bulk.iterfind("JournalEntryCreateConfirmation")]
