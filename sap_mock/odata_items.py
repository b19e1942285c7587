"""The ledger as OData entities: one per document item, as A_OperationalAcctgDocItemCube has them."""

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from typing import Any

from sap_mock.ledger import Ledger
from sap_mock.odata_filter import Condition

Row = dict[str, Any]
KEY = ("CompanyCode", "FiscalYear", "AccountingDocument", "AccountingDocumentItem")
PROPERTIES: Mapping[str, str] = {
    "CompanyCode": "Edm.String",
    "FiscalYear": "Edm.String",
    "AccountingDocument": "Edm.String",
    "AccountingDocumentItem": "Edm.String",
    "AccountingDocumentType": "Edm.String",
    "AccountingDocumentHeaderText": "Edm.String",
    "DocumentReferenceID": "Edm.String",
    "DocumentDate": "Edm.DateTime",
    "PostingDate": "Edm.DateTime",
    "TransactionCurrency": "Edm.String",
    "AmountInTransactionCurrency": "Edm.Decimal",
    "DebitCreditCode": "Edm.String",
    "GLAccount": "Edm.String",
    "Customer": "Edm.String",
    "Supplier": "Edm.String",
    "DocumentItemText": "Edm.String",
    "AssignmentReference": "Edm.String",
    "Reference1IDByBusinessPartner": "Edm.String",
    "Reference3IDByBusinessPartner": "Edm.String",
    "ReferenceDocumentLogicalSystem": "Edm.String",
    "AccountingDocumentCreationDate": "Edm.DateTime",
    "IsReversal": "Edm.Boolean",
    "IsReversed": "Edm.Boolean",
}
_SELECT = """
    SELECT d.company_code, d.fiscal_year, d.number, d.document_type, d.header_text, d.reference,
           d.document_date, d.posting_date, d.reversal_reason, d.logical_system, d.committed_at_ms,
           EXISTS (SELECT 1 FROM documents r
                   WHERE r.reversed_key = d.number || substr(d.company_code || '    ', 1, 4) || d.fiscal_year)
               AS is_reversed,
           i.position, i.kind, i.account, i.amount, i.currency, i.debit_credit, i.text, i.assignment,
           i.reference1, i.reference3
    FROM documents d JOIN items i ON i.document_identity = d.identity
    WHERE d.committed_at_ms <= ?
"""
_ORDER = " ORDER BY d.identity, i.position"


def find_items(ledger: Ledger, conditions: Sequence[Condition], committed_until_ms: int) -> list[Row]:
    """Return the items that meet all conditions, of documents committed by then, in order of posting."""
    wanted = {condition.name: condition.value for condition in conditions if condition.operator == "eq"}
    statement = _SELECT
    parameters: list[object] = [committed_until_ms]
    # the two look-ups with an index; everything else is looked through
    if "DocumentReferenceID" in wanted:
        statement += " AND d.reference = ?"
        parameters.append(wanted["DocumentReferenceID"])
    elif "AccountingDocument" in wanted:
        statement += " AND d.number = ?"
        parameters.append(wanted["AccountingDocument"])
    with ledger.reading() as connection:
        found = connection.execute(statement + _ORDER, parameters).fetchall()
    rows = [_entity(row) for row in found]
    return [row for row in rows if all(_meets(row, condition) for condition in conditions)]


def _meets(row: Row, condition: Condition) -> bool:
    value = row[condition.name]
    if condition.operator == "ge":
        return _milliseconds(value) >= _milliseconds(_edm_date(condition.value))
    return bool(value == condition.value)


def _entity(row: sqlite3.Row) -> Row:
    return {
        "CompanyCode": row["company_code"],
        "FiscalYear": row["fiscal_year"],
        "AccountingDocument": row["number"],
        "AccountingDocumentItem": f"{row['position']:03d}",
        "AccountingDocumentType": row["document_type"],
        "AccountingDocumentHeaderText": row["header_text"],
        "DocumentReferenceID": row["reference"],
        "DocumentDate": _edm_date(row["document_date"]),
        "PostingDate": _edm_date(row["posting_date"]),
        "TransactionCurrency": row["currency"],
        "AmountInTransactionCurrency": row["amount"],
        "DebitCreditCode": row["debit_credit"] or ("H" if row["amount"].startswith("-") else "S"),
        "GLAccount": row["account"] if row["kind"] == "Item" else "",
        "Customer": row["account"] if row["kind"] == "DebtorItem" else "",
        "Supplier": row["account"] if row["kind"] == "CreditorItem" else "",
        "DocumentItemText": row["text"],
        "AssignmentReference": row["assignment"],
        "Reference1IDByBusinessPartner": row["reference1"],
        "Reference3IDByBusinessPartner": row["reference3"],
        "ReferenceDocumentLogicalSystem": row["logical_system"],
        "AccountingDocumentCreationDate": _edm_date(_day_of(row["committed_at_ms"])),
        "IsReversal": bool(row["reversal_reason"]),
        "IsReversed": bool(row["is_reversed"]),
    }


def _edm_date(text: str) -> str:
    """Write a day as OData V2's JSON writes an Edm.DateTime."""
    midnight = datetime.combine(date.fromisoformat(text[:10]), time(), UTC)
    return f"/Date({int(midnight.timestamp()) * 1000})/"


def _milliseconds(edm_date: str) -> int:
    return int(edm_date.removeprefix("/Date(").removesuffix(")/"))


def _day_of(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).date().isoformat()
