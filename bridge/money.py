"""Money: integers in minor units inside, decimal strings outside (ISO 4217)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from bridge.currencies import DECIMALS, WITHDRAWN

MAX_INTEGER_DIGITS = 13
_DECIMAL = re.compile(r"(0|[1-9][0-9]*)(?:\.([0-9]+))?", re.ASCII)


class InvalidMoneyError(ValueError):
    """The amount or the currency is not acceptable; the text says why in the caller's terms."""


def exponent(currency: str) -> int:
    """Return the digits after the decimal point; InvalidMoneyError for an unknown currency."""
    digits = DECIMALS.get(currency)
    if digits is None:
        raise InvalidMoneyError("not an ISO 4217 currency code that payments are made in")
    return digits


def require_payable(currency: str) -> None:
    """InvalidMoneyError unless new payments are made in the currency."""
    exponent(currency)
    if currency in WITHDRAWN:
        raise InvalidMoneyError("withdrawn from ISO 4217: no new payment is made in this currency")


def written(amount: "Money", decimals: Mapping[str, int]) -> str:
    """Return the amount with the decimals of its currency in a table, ISO 4217's for what is not in it.

    InvalidMoneyError if the amount has more than that.
    """
    digits = decimals.get(amount.currency)
    return amount.value if digits is None else amount.with_decimals(digits)


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in minor units (cents for EUR) of an ISO 4217 currency."""

    minor: int
    currency: str

    @classmethod
    def parse(cls, value: str, currency: str) -> "Money":
        """Read a decimal string such as "1250.00" or "1250"; InvalidMoneyError says what is wrong with it.

        At most 13 digits before the point, at most the currency's exponent after it, no sign, above zero.
        """
        digits = exponent(currency)
        match = _DECIMAL.fullmatch(value)
        if match is None:
            raise InvalidMoneyError("not a decimal number such as 1250.00")
        whole, fraction = match[1], match[2] or ""
        if len(whole) > MAX_INTEGER_DIGITS:
            raise InvalidMoneyError(f"more than {MAX_INTEGER_DIGITS} digits before the decimal point")
        if len(fraction) > digits:
            raise InvalidMoneyError(f"more than {digits} digits after the decimal point for {currency}")
        minor = int(whole + fraction.ljust(digits, "0"))
        if minor <= 0:
            raise InvalidMoneyError("not greater than zero")
        return cls(minor, currency)

    @property
    def value(self) -> str:
        """The decimal string with all the currency's digits: 125000 EUR minor units are "1250.00"."""
        digits = exponent(self.currency)
        return f"{Decimal(self.minor).scaleb(-digits):.{digits}f}"

    def with_decimals(self, decimals: int) -> str:
        """Return the decimal string with that many digits; InvalidMoneyError if the amount has more."""
        places = decimals - exponent(self.currency)
        value = Decimal(self.minor).scaleb(-exponent(self.currency))
        if places < 0 and self.minor % 10**-places:
            raise InvalidMoneyError(
                f"more than {decimals} digits after the decimal point for {self.currency}"
            )
        return f"{value:.{decimals}f}"

    def as_json(self) -> dict[str, str]:
        """Return the API's shape: {"value": "1250.00", "currency": "EUR"}."""
        return {"value": self.value, "currency": self.currency}
