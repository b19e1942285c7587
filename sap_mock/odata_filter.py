"""The part of OData V2's $filter that the mock understands.

That is `Name eq 'text'`, `Date ge datetime'2026-11-20T00:00:00'`, `and`, parentheses.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

MAX_FILTER_CHARACTERS = 4000
MAX_DEPTH = 20
_TOKEN = re.compile(r"\s*(?:(?P<mark>[()])|'(?P<text>(?:[^']|'')*)'|(?P<word>[A-Za-z_][A-Za-z0-9_]*))")
Token = tuple[str, str]


class FilterError(ValueError):
    """What is not understood, and where."""


class Condition(NamedTuple):
    """`operator` is eq for texts, ge for days."""

    name: str
    value: str
    operator: str = "eq"


def parse_filter(text: str, properties: Mapping[str, str]) -> tuple[Condition, ...]:
    """Return conditions that must all hold; a doubled quote inside a literal is one quote.

    `properties` maps the names allowed to their Edm types. FilterError for all else of the grammar.
    """
    if len(text) > MAX_FILTER_CHARACTERS:
        raise FilterError(f"$filter is longer than {MAX_FILTER_CHARACTERS} characters")
    parser = _Parser(_tokens(text), properties)
    conditions = parser.conjunction(0)
    parser.expect_end()
    return tuple(conditions)


def _tokens(text: str) -> list[Token]:
    tokens = []
    position = 0
    stripped = text.rstrip()
    while position < len(stripped):
        match = _TOKEN.match(stripped, position)
        if match is None:
            raise FilterError(f"syntax error at position {position} of $filter")
        kind = str(match.lastgroup)
        tokens.append((kind, match[kind].replace("''", "'")))
        position = match.end()
    return tokens


class _Parser:
    def __init__(self, tokens: Sequence[Token], properties: Mapping[str, str]) -> None:
        self._tokens = tokens
        self._properties = properties
        self._next = 0

    def conjunction(self, depth: int) -> list[Condition]:
        if depth > MAX_DEPTH:
            raise FilterError("too many parentheses in $filter")
        conditions = self._clause(depth)
        while self._take(("word", "and")):
            conditions += self._clause(depth)
        return conditions

    def expect_end(self) -> None:
        if self._next < len(self._tokens):
            raise FilterError(f"'{self._tokens[self._next][1]}' is not supported here in $filter")

    def _clause(self, depth: int) -> list[Condition]:
        if self._take(("mark", "(")):
            conditions = self.conjunction(depth + 1)
            if not self._take(("mark", ")")):
                raise FilterError("a closing parenthesis is missing in $filter")
            return conditions
        return [self._comparison()]

    def _comparison(self) -> Condition:
        name = self._word("a property name")
        if name not in self._properties:
            raise FilterError(f"property '{name}' is not known in $filter")
        operator = self._word("an operator")
        if self._properties[name] == "Edm.DateTime" and operator == "ge":
            return Condition(name, self._day(), operator)
        if self._properties[name] != "Edm.String":
            raise FilterError(f"property '{name}' can't be compared so in $filter")
        if operator != "eq":
            raise FilterError(f"operator '{operator}' is not supported in $filter")
        kind, value = self._token("a quoted text")
        if kind != "text":
            raise FilterError(f"'{value}' is not a quoted text in $filter")
        return Condition(name, value)

    def _day(self) -> str:
        """Read datetime'2026-11-20T00:00:00' as a day."""
        kind, value = self._token("a quoted time") if self._take(("word", "datetime")) else ("", "")
        try:
            moment = datetime.fromisoformat(value) if kind == "text" else None
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is not None:
            raise FilterError("datetime'2026-11-20T00:00:00' is expected in $filter")
        return moment.date().isoformat()

    def _word(self, wanted: str) -> str:
        kind, value = self._token(wanted)
        if kind != "word":
            raise FilterError(f"'{value}' is not {wanted} in $filter")
        return value

    def _token(self, wanted: str) -> Token:
        if self._next >= len(self._tokens):
            raise FilterError(f"$filter ends where {wanted} is expected")
        self._next += 1
        return self._tokens[self._next - 1]

    def _take(self, token: Token) -> bool:
        if self._next < len(self._tokens) and self._tokens[self._next] == token:
            self._next += 1
            return True
        return False
