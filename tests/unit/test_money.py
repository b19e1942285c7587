import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bridge.money import MAX_INTEGER_DIGITS, InvalidMoneyError, Money

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("value", "currency", "minor"),
    [
        ("1250.00", "EUR", 125000),
        ("1250", "EUR", 125000),
        ("0.01", "EUR", 1),
        ("7", "JPY", 7),
        ("1.234", "KWD", 1234),
        ("9999999999999.99", "EUR", 999999999999999),
    ],
)
def test_decimal_strings_become_minor_units(value, currency, minor):
    assert Money.parse(value, currency).minor == minor


@pytest.mark.parametrize(
    ("value", "currency"),
    [
        ("0", "EUR"), ("0.00", "EUR"), ("-1", "EUR"), ("+1", "EUR"), ("1.234", "EUR"), ("1.0", "JPY"),
        ("1e3", "EUR"), (" 1", "EUR"), ("1.", "EUR"), (".5", "EUR"), ("01", "EUR"), ("", "EUR"),
        ("NaN", "EUR"), ("10000000000000", "EUR"), ("\u0661", "EUR"), ("1", "XXX"), ("1", "eur"),
        ("1", "ABC"),
        ("1", "XAU"), ("1\n", "EUR"),
    ],
)  # fmt: skip
def test_what_is_no_payable_amount_is_refused(value, currency):
    with pytest.raises(InvalidMoneyError):
        Money.parse(value, currency)


@given(st.integers(min_value=1, max_value=10**15 - 1), st.sampled_from(["EUR", "JPY", "KWD", "CLF"]))
def test_every_amount_survives_the_way_out_and_in(minor, currency):
    money = Money(minor, currency)
    assume(len(money.value.split(".")[0]) <= MAX_INTEGER_DIGITS)
    assert Money.parse(money.value, currency) == money


@pytest.mark.parametrize(
    ("minor", "currency", "decimals", "text"),
    [(1200, "HUF", 0, "12"), (125000, "EUR", 2, "1250.00"), (7, "JPY", 2, "7.00"), (1230, "KWD", 2, "1.23")],
)
def test_an_amount_is_written_with_the_decimals_of_another_table(minor, currency, decimals, text):
    assert Money(minor, currency).with_decimals(decimals) == text


def test_an_amount_with_more_decimals_than_the_table_has_is_refused():
    with pytest.raises(InvalidMoneyError, match="more than 0 digits after the decimal point for HUF"):
        Money(1250, "HUF").with_decimals(0)
