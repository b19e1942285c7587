"""SAP's list of documents, read: one that makes no sense is named and stops no other."""

import json

import pytest

from bridge.errors import TransientError
from sap_adapter.posted_documents import read_page

pytestmark = pytest.mark.unit

REFERENCE = "DocumentReferenceID"


def item(number, **changes):
    return {
        "CompanyCode": "1000", "FiscalYear": "2026", "AccountingDocument": number,
        "AccountingDocumentItem": "001", "AccountingDocumentType": "DZ", "TransactionCurrency": "EUR",
        "AmountInTransactionCurrency": "1250.00", "Reference3IDByBusinessPartner": "P-AAAAAAAAAAAAAAAA",
        "IsReversal": False, "IsReversed": False, "GLAccount": "113100", "DocumentItemText": "INV-1",
        REFERENCE: f"REF{number}",
    } | changes  # fmt: skip


def page(*items, page_items=100):
    content = json.dumps({"d": {"results": items}}).encode()
    return read_page(content, offset=0, page_items=page_items, reference_field=REFERENCE)


@pytest.mark.parametrize(
    "changes",
    [
        {"AmountInTransactionCurrency": "a lot"},
        {"AmountInTransactionCurrency": None},
        {"TransactionCurrency": "XYZ"},
        {"TransactionCurrency": "JPY", "AmountInTransactionCurrency": "0.5"},
    ],
)
def test_an_unreadable_document_hid_all_others_of_its_page(changes):
    found = page(item("1"), item("2", **changes), item("3"))
    assert [posted.found.document.number for posted in found.documents] == ["1", "3"]
    assert [(one.document.number, one.reference) for one in found.unreadable] == [("2", "REF2")]


@pytest.mark.parametrize("reference", [None, 5])
def test_a_reference_that_can_not_be_read_is_empty(reference):
    (unreadable,) = page(
        item("1", **{"GLAccount": None, "TransactionCurrency": None, REFERENCE: reference})
    ).unreadable
    assert unreadable.reference == ""


def test_a_page_goes_on_behind_an_unreadable_document():
    found = page(item("1"), item("2", TransactionCurrency="XYZ"), item("3"), page_items=3)
    assert (len(found.documents), len(found.unreadable), found.next_offset) == (1, 1, 2)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"d": {}}', b'{"d": {"results": [{"CompanyCode": "1000"}]}}']
)
def test_an_answer_that_lists_no_documents_is_asked_for_again(content):
    with pytest.raises(TransientError):
        read_page(content, offset=0, page_items=100, reference_field=REFERENCE)
