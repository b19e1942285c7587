"""What the mock refuses to post: by SAP's rules, and on request by the item text."""

from dataclasses import replace
from decimal import Decimal

import pytest

from sap_mock.journal_entry import DocumentKey, Item, JournalEntry
from sap_mock.kinds import kind_of
from sap_mock.posting_rules import judge_header, judge_items
from sap_mock.refusals import ALWAYS, NAME_IN_NOTES, asked_refusal

pytestmark = pytest.mark.unit

DEBIT = Item("Item", "113100", Decimal("12.50"), "EUR", "S", "INV-1")
CREDIT = Item("DebtorItem", "10001", Decimal("-12.50"), "EUR", "H", "INV-1")
ENTRY = JournalEntry(
    company_code="1000",
    document_type="DZ",
    document_date="2026-11-21",
    posting_date="2026-11-21Z",
    items=(DEBIT, CREDIT),
    reference="REFERENCE0000001",
    header_text="payment",
    created_by="BRIDGE",
    business_transaction="RFBU",
    original_reference_type="BKPFF",
)


def types_of(refusal):
    return [] if refusal is None else [item.type_id for item in refusal.items]


def with_text(text, **changes):
    return replace(ENTRY, items=(replace(DEBIT, text=text), CREDIT), **changes)


def test_a_sound_entry_is_not_refused():
    assert judge_header(ENTRY) is None
    assert judge_items(ENTRY) is None
    assert asked_refusal(ENTRY) is None


@pytest.mark.parametrize(
    ("field", "value", "type_id"),
    [
        ("company_code", "", "602(RW)"),
        ("created_by", "", "602(RW)"),
        ("posting_date", "", "602(RW)"),
        ("posting_date", "2026-11-21T00:00:00", "089(00)"),
        ("document_type", "DZZ", "814(F5)"),
    ],
)
def test_the_header_is_checked(field, value, type_id):
    assert types_of(judge_header(replace(ENTRY, **{field: value}))) == [type_id]


@pytest.mark.parametrize(
    ("items", "type_id"),
    [
        ((), "600(RW)"),
        ((DEBIT,), "600(RW)"),
        ((DEBIT, replace(CREDIT, amount=Decimal("-12.49"))), "702(F5)"),
        ((DEBIT, replace(CREDIT, currency="USD")), "701(F5)"),
        ((DEBIT, replace(CREDIT, account="")), "602(RW)"),
        ((DEBIT, replace(CREDIT, debit_credit="S")), "703(F5)"),
        ((DEBIT, CREDIT, replace(DEBIT, amount=Decimal("0.00"), debit_credit="")), "700(F5)"),
    ],
)
def test_the_items_are_checked(items, type_id):
    assert types_of(judge_items(replace(ENTRY, items=items))) == [type_id]


@pytest.mark.parametrize(
    ("amount", "currency", "type_id"),
    [
        ("1.00", "JPY", "704(F5)"),
        ("1.000", "EUR", "704(F5)"),
        ("1.00", "QQQ", "004(SG)"),
        ("1.000", "KWD", None),
    ],
)
def test_the_currency_decides_on_the_decimals(amount, currency, type_id):
    items = (
        replace(DEBIT, amount=Decimal(amount), currency=currency),
        replace(CREDIT, amount=-Decimal(amount), currency=currency),
    )
    assert set(types_of(judge_items(replace(ENTRY, items=items)))) == ({type_id} if type_id else set())


@pytest.mark.parametrize(
    ("text", "type_id", "times"),
    [
        ("SBX-CUSTOMER-UNKNOWN", "102(F5)", ALWAYS),
        ("SBX-CUSTOMER-UNKNOWN-4711", "102(F5)", ALWAYS),
        ("SBX-ACCOUNT-MISSING-ONCE-4711", "506(F5)", 1),
        ("SBX-PERIOD-CLOSED-TWICE", "201(F5)", 2),
        ("SBX-LOCKED-1", "601(MC)", 2),
        ("sbx-locked-1", "601(MC)", 2),
        ("SBX-PAYMENT-LOCKED", "601(MC)", 2),
    ],
)
def test_a_text_asks_for_a_refusal(text, type_id, times):
    asked = asked_refusal(with_text(text))
    assert types_of(asked.refusal) == [type_id]
    assert asked.times == times


@pytest.mark.parametrize(
    "text", ["SBX-", "SBX-LOCKEDUP", "SBX-SOMETHING", "INV-SBX-LOCKED", "SBX-CAPTURE-LOCKED"]
)
def test_other_texts_ask_for_none(text):
    assert asked_refusal(with_text(text)) is None


def test_notes_carry_a_name_as_saps_do():
    asked = asked_refusal(with_text("SBX-CUSTOMER-UNKNOWN"))
    assert NAME_IN_NOTES in asked.refusal.items[0].note


def test_a_closed_period_takes_postings_in_a_later_month():
    assert asked_refusal(with_text("SBX-PERIOD-CLOSED", posting_date="2026-11-30")) is not None
    assert asked_refusal(with_text("SBX-PERIOD-CLOSED", posting_date="2026-12-01")) is None
    assert asked_refusal(with_text("SBX-PERIOD-CLOSED", posting_date="2027-01-04")) is None


@pytest.mark.parametrize(
    ("header_text", "document_type", "reversal_reason", "kind"),
    [
        ("capture", "DZ", "", "capture"),
        ("Refund pay_01", "DZ", "", "refund"),
        ("reverse", "AB", "01", "reverse"),
        ("", "AB", "01", "reverse"),
        ("", "DZ", "", "payment"),
        ("payments", "AB", "", "other"),
    ],
)
def test_the_kind_of_a_document(header_text, document_type, reversal_reason, kind):
    entry = replace(
        ENTRY, header_text=header_text, document_type=document_type, reversal_reason=reversal_reason
    )
    assert kind_of(entry) == kind


def test_an_object_key_reads_back():
    key = DocumentKey("DE1", "2026", "1400000001")
    assert key.object_key() == "1400000001DE1 2026"
    assert DocumentKey.from_object_key(key.object_key()) == key
    assert DocumentKey.from_object_key("1400000001") is None
