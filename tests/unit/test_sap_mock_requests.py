"""How the mock reads a SOAP message: strictly, and out-of-order elements not at all."""

from decimal import Decimal

import pytest
import sap_envelopes as sap

from sap_mock.schema import RequestSchema
from sap_mock.soap_request import SoapFaultError, read_request

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def schema():
    return RequestSchema()


def one(body, schema):
    (request,) = read_request(body, schema)
    return request


def test_a_message_is_read(schema):
    message_uuid = "6C1B3C70-5D0E-5B55-9F4C-1B1E9F0F6A0E"
    request = one(sap.envelope(sap.request(message_uuid=message_uuid)), schema)
    assert request.uuid == message_uuid.lower()
    assert not request.simulate
    assert request.entry.reference == "REFERENCE0000001"
    assert [(item.kind, item.account, item.amount, item.currency) for item in request.entry.items] == [
        ("Item", "113100", Decimal("12.50"), "EUR"),
        ("DebtorItem", "10001", Decimal("-12.50"), "EUR"),
    ]


def test_a_misplaced_element_is_ignored_without_a_word(schema):
    reference = "<DocumentReferenceID>REFERENCE0000001</DocumentReferenceID>"
    journal_entry = sap.entry().replace(reference, "")
    # behind PostingDate it comes too late
    journal_entry = journal_entry.replace("</PostingDate>", f"</PostingDate>{reference}")
    read = one(sap.envelope(sap.request(journal_entry)), schema).entry
    assert read.reference == ""
    assert read.company_code == "1000"


def test_an_item_after_the_debtor_items_is_ignored(schema):
    journal_entry = sap.entry(items=sap.debtor_item("-1.00") + sap.gl_item("1.00"))
    read = one(sap.envelope(sap.request(journal_entry)), schema).entry
    assert [item.kind for item in read.items] == ["DebtorItem"]


def test_unknown_and_qualified_elements_are_ignored(schema):
    journal_entry = (
        sap.entry()
        .replace("<CreatedByUser>", "<Surprise>x</Surprise><CreatedByUser>")
        .replace("<CompanyCode>1000</CompanyCode>", "<sfin:CompanyCode>1000</sfin:CompanyCode>", 1)
    )
    read = one(sap.envelope(sap.request(journal_entry)), schema).entry
    assert read.created_by == "BRIDGE"
    assert read.company_code == ""


def test_an_empty_element_is_an_initial_value(schema):
    journal_entry = sap.entry().replace(
        "<BusinessTransactionType>", "<OriginalReferenceDocument/><BusinessTransactionType>"
    )
    assert one(sap.envelope(sap.request(journal_entry)), schema).entry.original_reference == ""


def test_the_test_data_indicator_of_the_whole_message_holds_for_each_entry(schema):
    assert one(sap.envelope(sap.request(), test_data=True), schema).simulate
    assert one(sap.envelope(sap.request(test_data=True)), schema).simulate


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"REFERENCE0000001", b"REFERENCE00000017"),  # 17 characters
        (b">2026-11-21</PostingDate>", b">21.11.2026</PostingDate>"),
        (b'currencyCode="EUR"', b""),
        (b">12.50<", b">12,50<"),
        (b"<DebitCreditCode>S<", b"<DebitCreditCode>D<"),
        (b"<UUID>", b"<UUID>x"),
        (b"<CreationDateTime>2026-11-21T09:00:00Z</CreationDateTime>", b""),
        (b"JournalEntry>", b"JournalVoucher>"),
        (b"http://sap.com/xi/SAPSCORE/SFIN", b"http://sap.com/xi/other"),
        (b"http://schemas.xmlsoap.org/soap/envelope/", b"http://www.w3.org/2003/05/soap-envelope"),
        (b"</soapenv:Body>", b""),
    ],
)
def test_what_sap_would_not_look_at_is_a_fault(schema, old, new):
    body = sap.envelope(sap.request())
    assert old in body
    with pytest.raises(SoapFaultError):
        read_request(body.replace(old, new), schema)


@pytest.mark.parametrize(
    "doctype",
    [
        b"<!DOCTYPE x>",
        b'<!DOCTYPE x [<!ENTITY a "1000">]>',
        b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>',
    ],
)
def test_no_document_type_declaration_gets_in(schema, doctype):
    body = sap.envelope(sap.request()).replace(b">INV-1<", b">&a;<" if b"ENTITY" in doctype else b">INV-1<")
    with pytest.raises(SoapFaultError):
        read_request(doctype + body, schema)
