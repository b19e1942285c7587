"""What SAP checks before it posts: required fields, amounts, currencies, the balance."""

import re
from collections.abc import Iterator
from datetime import date
from decimal import Decimal

from iso4217 import Currency

from sap_mock.journal_entry import CREDIT, DEBIT, Item, JournalEntry, LogItem, Refusal
from sap_mock.soap_request import ACCOUNT_ELEMENTS

MAX_ITEMS = 999
# Currencies that SAP keeps with other decimals than ISO 4217, or has kept longer.
TCURX = {"COP": 0, "HUF": 0, "IDR": 0, "TWD": 0, "IQD": 3, "LYD": 3, "BGN": 2, "HRK": 2}
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(Z|[+-][0-9]{2}:[0-9]{2})?", re.ASCII)


def error(type_id: str, note: str) -> LogItem:
    return LogItem(type_id, 3, note)


def judge_header(entry: JournalEntry) -> Refusal | None:
    """Return why the header is refused; the type ids follow SAP's message classes RW and F5."""
    problems = list(_header_problems(entry))
    return Refusal(tuple(problems)) if problems else None


def judge_items(entry: JournalEntry) -> Refusal | None:
    """Return why the items are refused; None for items that balance to zero in one known currency."""
    problems = list(_item_problems(entry))
    return Refusal(tuple(problems)) if problems else None


def _header_problems(entry: JournalEntry) -> Iterator[LogItem]:
    required = {
        "OriginalReferenceDocumentType": entry.original_reference_type,
        "BusinessTransactionType": entry.business_transaction,
        "AccountingDocumentType": entry.document_type,
        "CreatedByUser": entry.created_by,
        "CompanyCode": entry.company_code,
        "DocumentDate": entry.document_date,
        "PostingDate": entry.posting_date,
    }
    for name, value in required.items():
        if not value:
            yield error("602(RW)", f"Required field {name} was not transferred in parameter HEADER")
    if len(entry.document_type) > 2:
        yield error("814(F5)", f"Document type {entry.document_type} is not allowed")
    for value in (entry.document_date, entry.posting_date):
        if value and not _is_date(value):
            yield error("089(00)", f"Date {value} is not valid")


def _item_problems(entry: JournalEntry) -> Iterator[LogItem]:
    if not 2 <= len(entry.items) <= MAX_ITEMS:
        yield error("600(RW)", f"A document needs 2 to {MAX_ITEMS} line items, not {len(entry.items)}")
        return
    for position, item in enumerate(entry.items, 1):
        yield from _one_item_problems(position, item)
    currencies = {item.currency for item in entry.items}
    if len(currencies) > 1:
        yield error("701(F5)", f"Items are in several currencies: {', '.join(sorted(currencies))}")
    balance = sum((item.amount for item in entry.items), start=Decimal(0))
    if balance != 0:
        yield error("702(F5)", f"Balance in transaction currency: {balance}")


def _one_item_problems(position: int, item: Item) -> Iterator[LogItem]:
    if not item.account:
        yield error(
            "602(RW)", f"Required field {ACCOUNT_ELEMENTS[item.kind]} was not transferred, item {position}"
        )
    if not item.currency:
        yield error(
            "602(RW)", f"Required field AmountInTransactionCurrency was not transferred, item {position}"
        )
        return
    if item.amount == 0:
        yield error("700(F5)", f"The amount of item {position} is zero")
    if item.debit_credit and item.debit_credit != (DEBIT if item.amount > 0 else CREDIT):
        yield error(
            "703(F5)", f"DebitCreditCode and sign of the amount contradict each other, item {position}"
        )
    decimals = _decimals(item.currency)
    if decimals is None:
        yield error("004(SG)", f"Currency {item.currency} is not defined")
    elif -int(item.amount.as_tuple().exponent) > decimals:
        yield error("704(F5)", f"{item.currency} has {decimals} decimals, item {position} has more")


def _decimals(currency: str) -> int | None:
    """Return what SAP's tables TCURC and TCURX say; None for a currency that they do not have."""
    if currency in TCURX:
        return TCURX[currency]
    try:
        return Currency(currency).exponent
    except ValueError:
        return None


def _is_date(value: str) -> bool:
    try:
        date.fromisoformat(value[:10])
    except ValueError:
        return False
    return _DATE.fullmatch(value) is not None
