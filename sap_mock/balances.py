"""What stands on the accounts, as a balance display shows it."""

from collections import defaultdict
from collections.abc import Collection
from decimal import Decimal

from sap_mock.ledger import Ledger

_ITEMS = """
    SELECT d.reference, i.kind, i.account, i.currency, i.amount, i.text
    FROM documents d JOIN items i ON i.document_identity = d.identity
"""


def balances(
    ledger: Ledger, *, reference: Collection[str] = (), text: Collection[str] = ()
) -> list[dict[str, str]]:
    """Return `{"account", "kind", "currency", "debit", "credit", "balance"}` per account and currency.

    `kind` is the item's element (Item is a G/L account); credit and a credit balance are negative. Without
    `reference` every document counts; with `text` only items with one of these texts do.
    """
    debits: dict[tuple[str, str, str], Decimal] = defaultdict(Decimal)
    credits_: dict[tuple[str, str, str], Decimal] = defaultdict(Decimal)
    with ledger.reading() as connection:
        rows = connection.execute(_ITEMS).fetchall()
    for row in rows:
        if (reference and row["reference"] not in reference) or (text and row["text"] not in text):
            continue
        amount = Decimal(row["amount"])
        (debits if amount > 0 else credits_)[(row["account"], row["kind"], row["currency"])] += amount
    return [
        {
            "account": account,
            "kind": kind,
            "currency": currency,
            "debit": f"{debits[key]}",
            "credit": f"{credits_[key]}",
            "balance": f"{debits[key] + credits_[key]}",
        }
        for key in sorted({*debits, *credits_})
        for account, kind, currency in [key]
    ]
