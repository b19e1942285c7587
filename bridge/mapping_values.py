"""Evaluates a partner's mapping for an operation.

Expressions are JMESPath: they read the view of the payment below and nothing else, call nothing but its own
functions, and end.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from math import prod
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError

from bridge.journal_mapping import Expression, JournalEntryMapping
from bridge.payment import Operation, OperationKind, Payment

MAX_COMPILED = 1000
LAST_OF_BASIC_PLANE = 0xFFFF
# Only lists that an expression builds itself can multiply what it sees, each by its own length at most.
MAX_FAN_OUT = 1000
_LISTS = frozenset({"multi_select_list", "multi_select_dict"})
_DOCUMENT_TYPE = re.compile(r"[A-Z0-9]{2}")
_ACCOUNT = re.compile(r"[A-Z0-9]{1,10}")
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\ufffe\uffff]+")


class MappingError(ValueError):
    """A member of the mapping gives nothing that SAP takes; says which and why, without the value."""

    def __init__(self, member: str, why: str) -> None:
        super().__init__(f"{member} {why}")
        self.member = member
        self.why = why


@dataclass(frozen=True, slots=True)
class JournalValues:
    """What a mapping comes to for one operation. Exactly one of `customer` and `vendor` is set."""

    document_type: str
    customer: str | None
    vendor: str | None
    clearing_account: str
    statistical_account: str | None
    special_gl_code: str | None
    reversal_reason: str
    header_text: str
    counterparty_text: str | None
    assignment: str | None
    header_reference: str | None


# Codes have to be exactly what SAP knows; texts are cut at the length of SAP's field, in UTF-16 code units.
CODES: Mapping[str, re.Pattern[str]] = {
    "document_type": _DOCUMENT_TYPE,
    "customer": _ACCOUNT,
    "vendor": _ACCOUNT,
    "clearing_account": _ACCOUNT,
    "statistical_account": _ACCOUNT,
    "special_gl_code": re.compile(r"[A-Z0-9]"),
    "reversal_reason": re.compile(r"[A-Z0-9]{2}"),
}
TEXTS: Mapping[str, int] = {
    "header_text": 25,  # DocumentHeaderText
    "counterparty_text": 50,  # DocumentItemText
    "assignment": 18,  # AssignmentReference
    "header_reference": 20,  # Reference1InDocumentHeader
}
_NEEDED_FOR_NOTING = ("statistical_account", "special_gl_code")


def view(
    payment: Payment,
    operation: Operation,
    *,
    parties: Mapping[str, Any],
    metadata: Mapping[str, str],
    sap_system: str,
    company_code: str,
    accepted_on: date,
) -> dict[str, Any]:
    """Return what expressions see of an operation (docs/mapping.md); `parties` is bridge.parties' JSON."""
    requested = payment.requested_execution_date
    return {
        "kind": str(operation.kind),
        "external_id": payment.external_id,
        "payment_id": payment.payment_id,
        "operation_id": operation.operation_id,
        "amount": operation.amount.as_json(),
        "capture": payment.capture,
        "debtor": parties.get("debtor"),
        "creditor": parties.get("creditor"),
        "remittance_information": parties.get("remittance_information"),
        "metadata": dict(metadata),
        "requested_execution_date": requested.isoformat() if requested else None,
        "accepted_on": accepted_on.isoformat(),
        "sap_system": sap_system,
        "company_code": company_code,
    }


def evaluate(mapping: JournalEntryMapping, seen: Mapping[str, Any]) -> JournalValues:
    """Return the mapping's values for one operation; MappingError for the first that SAP would not take."""
    needed = {"customer"} if mapping.customer is not None else {"vendor"}
    needed |= {"document_type", "clearing_account", "reversal_reason", "header_text"}
    if seen["kind"] == OperationKind.AUTHORIZE:
        needed |= set(_NEEDED_FOR_NOTING)
    values = {member: _value(member, getattr(mapping, member), seen) for member in (*CODES, *TEXTS)}
    for member, value in values.items():
        if member in needed and value is None:
            raise MappingError(member, "gives nothing")
    return JournalValues(**values)  # type: ignore[arg-type]  # what is needed is there


def _value(member: str, wanted: str | Expression | None, seen: Mapping[str, Any]) -> str | None:
    found = _result(member, wanted, seen) if isinstance(wanted, Expression) else wanted
    if found is None or found == "":
        return None
    if not isinstance(found, str):
        raise MappingError(member, "gives no text")
    pattern = CODES.get(member)
    if pattern is not None:
        if not pattern.fullmatch(found):
            raise MappingError(member, f"gives none of {pattern.pattern}")
        return found
    return cut(_CONTROL_CHARACTERS.sub(" ", found), TEXTS[member]).strip() or None


def cut(text: str, units: int) -> str:
    """Return as much of the text as fits into a CHAR field of SAP, which counts UTF-16 code units.

    A character outside the Basic Multilingual Plane takes two; it is not halved.
    """
    used = 0
    for position, character in enumerate(text):
        used += 2 if ord(character) > LAST_OF_BASIC_PLANE else 1
        if used > units:
            return text[:position]
    return text


def _result(member: str, expression: Expression, seen: Mapping[str, Any]) -> Any:
    expression_of_member = compiled(member, expression.jmespath)
    try:
        return expression_of_member.search(seen)
    except Exception as error:  # a number that can't be rounded raises what Python raises
        raise MappingError(member, f"can't be evaluated ({type(error).__name__})") from error


def compiled(member: str, source: str) -> Any:
    """Return the expression, parsed once; MappingError if it is none."""
    try:
        expression = _compile(source)
        fan_out = prod(
            len(node["children"]) or 1 for node in nodes(expression.parsed) if node["type"] in _LISTS
        )
    except (JMESPathError, RecursionError) as error:
        raise MappingError(member, f"is no JMESPath expression: {_first_line(error)}") from error
    if fan_out > MAX_FAN_OUT:
        raise MappingError(member, "builds lists of lists that would grow without bound")
    return expression


@lru_cache(maxsize=MAX_COMPILED)
def _compile(expression: str) -> Any:
    return jmespath.compile(expression)


def nodes(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a parsed expression's node and all below it."""
    yield node
    for child in node["children"]:
        yield from nodes(child)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
