"""OData items gathered into the documents that they belong to; TransientError for what is not readable."""

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from itertools import groupby
from typing import Any

from bridge.errors import TransientError
from bridge.money import InvalidMoneyError, Money
from bridge.payment import SapDocument
from sap_adapter.connector import DocumentPage, FoundDocument, PostedDocument, UnreadableDocument
from sap_adapter.document_mark import read_mark

FIELDS = (
    "CompanyCode",
    "FiscalYear",
    "AccountingDocument",
    "AccountingDocumentItem",
    "AccountingDocumentType",
    "TransactionCurrency",
    "AmountInTransactionCurrency",
    "Reference3IDByBusinessPartner",
    "IsReversal",
    "IsReversed",
)
# What a document tells of itself when nobody here knows it any more. The text is read of our own line only.
WALK_FIELDS = (*FIELDS, "GLAccount", "DocumentItemText")

Item = dict[str, Any]
_UNREADABLE = (ValueError, KeyError, TypeError, InvalidOperation, InvalidMoneyError)


def read_documents(content: bytes) -> list[FoundDocument]:
    """Return the documents of an answer; a document's amount is the debit side of the lines that are ours."""
    try:
        documents: dict[SapDocument, list[Item]] = {}
        for item in _items(content):
            documents.setdefault(_key(item), []).append(item)
        return [_found(key, items) for key, items in documents.items()]
    except _UNREADABLE as error:
        raise TransientError("SAP's answer to a question is not readable") from error


def read_page(content: bytes, *, offset: int, page_items: int, reference_field: str) -> DocumentPage:
    """Return the whole documents of a page of items, and where the next page begins.

    The last document of a full page may go on in the next one: it is left to that. A document that can't be
    read is returned as such; TransientError if the answer is no list of items.
    """
    try:
        items = _items(content)
        documents = [(key, list(group)) for key, group in groupby(items, _key)]
        is_last = len(items) < page_items
        if not is_last:
            documents = documents[:-1]
            if not documents:
                raise ValueError("one document fills the page")
    except _UNREADABLE as error:
        raise TransientError("SAP's list of documents is not readable") from error
    read = sum(len(group) for _, group in documents)
    posted, unreadable = [], []
    for key, group in documents:
        try:
            posted.append(_posted(key, group, reference_field))
        except _UNREADABLE:
            reference = group[0].get(reference_field)
            unreadable.append(UnreadableDocument(key, reference if isinstance(reference, str) else ""))
    return DocumentPage(tuple(posted), None if is_last else offset + read, tuple(unreadable))


def _items(content: bytes) -> list[Item]:
    items: list[Item] = json.loads(content)["d"]["results"]
    return items


def _key(item: Item) -> SapDocument:
    return SapDocument(item["CompanyCode"], item["FiscalYear"], item["AccountingDocument"])


def _found(key: SapDocument, items: Sequence[Item]) -> FoundDocument:
    # SAP adds lines of its own (withholding tax, document splitting), which do not carry our mark.
    marked = [item for item in items if read_mark(item["Reference3IDByBusinessPartner"])]
    debit = sum((max(amount, Decimal(0)) for amount in _amounts(marked or items)), start=Decimal(0))
    money = Money.parse(_plain(debit), items[-1]["TransactionCurrency"])
    return FoundDocument(
        key,
        items[-1]["AccountingDocumentType"],
        money,
        is_reversal=bool(items[0]["IsReversal"]),
        is_reversed=bool(items[0]["IsReversed"]),
    )


def _posted(key: SapDocument, items: Sequence[Item], reference_field: str) -> PostedDocument:
    ours = [item for item in items if item["GLAccount"]]
    return PostedDocument(
        found=_found(key, items),
        reference=str(items[0][reference_field]),
        mark=next((item["Reference3IDByBusinessPartner"] for item in items), ""),
        external_id=ours[0]["DocumentItemText"] if ours else "",
        is_reversal=bool(items[0]["IsReversal"]),
    )


def _amounts(items: Sequence[Item]) -> Iterator[Decimal]:
    for item in items:
        yield Decimal(item["AmountInTransactionCurrency"])


def _plain(amount: Decimal) -> str:
    """Write a decimal without exponent and without zeros that the currency may not have."""
    normal = amount.normalize()
    return f"{normal:f}"
