"""Checks a partner's mapping before it is taken: it is tried on sample payments of its kind."""

from collections.abc import Iterator, Mapping
from typing import Any

from bridge.journal_mapping import Expression, JournalEntryMapping
from bridge.mapping_values import CODES, TEXTS, MappingError, compiled, evaluate, nodes
from bridge.money import Money
from bridge.payment import OperationKind

# nodes whose later children are read of what the first one found
_CHAINS = {"subexpression", "index_expression", "pipe", "value_projection", "projection", "filter_projection"}
# every name of bridge.mapping_values.view
_NAMES = frozenset(
    {
        *("kind", "external_id", "payment_id", "operation_id", "amount", "value", "currency", "capture"),
        *("debtor", "creditor", "name", "account", "iban", "remittance_information", "metadata"),
        *("requested_execution_date", "accepted_on", "sap_system", "company_code"),
    }
)


def first_mistake(mapping: JournalEntryMapping, kind: OperationKind) -> MappingError | None:
    """Try the mapping on sample payments; return what is wrong first, None if nothing is."""
    try:
        for member in (*CODES, *TEXTS):
            value = getattr(mapping, member)
            if isinstance(value, Expression):
                _require_known_names(member, compiled(member, value.jmespath))
        for what, seen in _samples(kind):
            _evaluate(mapping, seen, what)
    except MappingError as error:
        return error
    return None


def _evaluate(mapping: JournalEntryMapping, seen: Mapping[str, Any], what: str) -> None:
    try:
        evaluate(mapping, seen)
    except MappingError as error:
        raise MappingError(error.member, f"{error.why}, for a payment {what}") from error


def _require_known_names(member: str, expression: Any) -> None:
    """Refuse a name that the view does not have: a slip of the pen would be null for ever."""
    defined = {str(node["value"]) for node in nodes(expression.parsed) if node["type"] == "key_val_pair"}
    for name in _fields(expression.parsed):
        if name not in _NAMES and name not in defined:
            raise MappingError(member, f"names {name!r}, which no payment has")


def _fields(node: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names that an expression reads; those below `metadata` are the partner's own."""
    if node["type"] == "field":
        yield str(node["value"])
        return
    for child in node["children"]:
        yield from _fields(child)
        if child["type"] == "field" and child["value"] == "metadata" and node["type"] in _CHAINS:
            return


def _samples(kind: OperationKind) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a payment that has everything, then one that has only what it must."""
    bare: dict[str, Any] = {
        "kind": str(kind),
        "external_id": "INV-2026-0001",
        "payment_id": f"pay_{'0' * 26}",
        "operation_id": f"op_{'0' * 26}",
        "amount": Money(125000, "JPY").as_json(),
        "capture": "automatic" if kind == OperationKind.PAYMENT else "manual",
        "debtor": None,
        "creditor": None,
        "remittance_information": None,
        "metadata": {},
        "requested_execution_date": None,
        "accepted_on": "2026-11-21",
        "sap_system": "s4-main",
        "company_code": "1000",
    }
    party = {"name": "Muster GmbH & Söhne " * 5, "account": {"iban": "DE89370400440532013000"}}
    full = bare | {
        "amount": Money(125000, "EUR").as_json(),
        "debtor": party,
        "creditor": party,
        "remittance_information": "Invoice 4711\u0007 " * 10,
        "metadata": {"order": "A-17"},
        "requested_execution_date": "2026-12-01",
    }
    yield "with everything", full
    yield "without parties, texts and metadata", bare
