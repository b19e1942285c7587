"""Which of a partner's targets a payment goes to: the first rule that matches, or a default.

It is fixed on the payment at its acceptance.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from pydantic import Field, StringConstraints, field_validator, model_validator

from bridge.document import DocumentPart
from bridge.money import Money, exponent

MAX_RULES = 50
MAX_CURRENCIES = 200
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
# every amount is above nothing
LEAST = 1
# minor units of any amount that passes `Money.parse` are below it
NO_BOUND = 10**18


class RouteRule(DocumentPart):
    """Payments in one of `currencies`, from `amount_from` on and below `amount_below`, go to `target`.

    The bounds are decimal strings in the payment's currency, each optional.
    """

    name: Name
    currencies: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_CURRENCIES)]
    amount_from: str | None = None
    amount_below: str | None = None
    target: Name

    @field_validator("currencies")
    @classmethod
    def _known(cls, currencies: tuple[str, ...]) -> tuple[str, ...]:
        for currency in currencies:
            exponent(currency)
        if len(set(currencies)) != len(currencies):
            raise ValueError("a currency occurs twice")
        return currencies

    @model_validator(mode="after")
    def _a_range(self) -> "RouteRule":
        for currency in self.currencies:
            low, high = self.bounds(currency)
            if low >= high:
                raise ValueError("amount_from is not below amount_below")
        return self

    def bounds(self, currency: str) -> tuple[int, int]:
        """Return the least amount and the one that is too much, in minor units."""
        return (
            Money.parse(self.amount_from, currency).minor if self.amount_from is not None else LEAST,
            Money.parse(self.amount_below, currency).minor if self.amount_below is not None else NO_BOUND,
        )


@dataclass(frozen=True, slots=True)
class Considered:
    """A rule that was looked at; `because` says in words why it matches or does not."""

    rule: str
    matches: bool
    because: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where an amount goes. `rule` is None for the default; what follows the first match is not looked at."""

    target: str
    rule: str | None
    considered: tuple[Considered, ...]


class Routing(DocumentPart):
    """Rules in order, and the target of what none of them matches. An unreachable rule is refused."""

    rules: Annotated[tuple[RouteRule, ...], Field(max_length=MAX_RULES)] = ()
    default: Name

    @model_validator(mode="after")
    def _reachable(self) -> "Routing":
        names = [rule.name for rule in self.rules]
        if len(set(names)) != len(names):
            raise ValueError("two rules have one name")
        for number, rule in enumerate(self.rules):
            if not any(_is_open(rule.bounds(one), self._before(number, one)) for one in rule.currencies):
                raise ValueError(f"rule {rule.name} is unreachable: earlier rules match all that it does")
        return self

    def target_of(self, amount: Money) -> str:
        """Return the name of the target; costs a look-up and a comparison or two."""
        for low, high, target in self._compiled.get(amount.currency, ()):
            if low <= amount.minor < high:
                return target
        return self.default

    @cached_property
    def _compiled(self) -> dict[str, list[tuple[int, int, str]]]:
        """Per currency its ranges in order: made once per version of the document."""
        compiled: dict[str, list[tuple[int, int, str]]] = {}
        for rule in self.rules:
            for currency in rule.currencies:
                compiled.setdefault(currency, []).append((*rule.bounds(currency), rule.target))
        return compiled

    def explain(self, amount: Money) -> Explanation:
        """Say where the amount goes and why, rule by rule."""
        considered = []
        for rule in self.rules:
            because = _why_not(rule, amount)
            considered.append(Considered(rule.name, because is None, because or "currency and amount match"))
            if because is None:
                return Explanation(rule.target, rule.name, tuple(considered))
        return Explanation(self.default, None, tuple(considered))

    def _before(self, number: int, currency: str) -> Iterator[tuple[int, int]]:
        return (rule.bounds(currency) for rule in self.rules[:number] if currency in rule.currencies)


def _is_open(wanted: tuple[int, int], taken: Iterator[tuple[int, int]]) -> bool:
    """Tell whether the ranges taken leave anything of the wanted one."""
    reached, end = wanted
    for low, high in sorted(taken):
        if low > reached:
            break
        reached = max(reached, high)
    return reached < end


def _why_not(rule: RouteRule, amount: Money) -> str | None:
    if amount.currency not in rule.currencies:
        return f"{amount.currency} is none of {_listed(rule.currencies)}"
    low, high = rule.bounds(amount.currency)
    if amount.minor < low:
        return f"{amount.value} is less than {rule.amount_from}"
    if amount.minor >= high:
        return f"{amount.value} is not below {rule.amount_below}"
    return None


def _listed(currencies: Sequence[str]) -> str:
    return ", ".join(currencies)
