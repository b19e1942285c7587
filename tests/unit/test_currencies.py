"""The currencies that the bridge keeps, against the list of ISO 4217 in force."""

import pytest
from gateway_stage import new_payment
from iso4217 import Currency

from bridge.currencies import DECIMALS, WITHDRAWN
from bridge.errors import RejectedError
from bridge.money import InvalidMoneyError, Money, require_payable
from gateway.operation_request import read_amount
from gateway.payment_request import read_payment

pytestmark = pytest.mark.unit

# In the list, but no account is held in them: metals, test codes, drawing rights, bond-market units.
NOT_PAYABLE = {"XAU", "XAG", "XPT", "XPD", "XTS", "XXX", "XDR", "XSU", "XUA", "XBA", "XBB", "XBC", "XBD"}
IN_FORCE = {currency.code: currency.exponent for currency in Currency if currency.code not in NOT_PAYABLE}


def test_every_currency_in_force_is_kept_with_its_decimals():
    """If this fails, the list has moved on: bridge/currencies.py says what to do."""
    assert {code: DECIMALS[code] for code in DECIMALS if code not in WITHDRAWN} == IN_FORCE


def test_what_is_withdrawn_is_kept_and_no_longer_in_force():
    assert DECIMALS.keys() >= WITHDRAWN
    assert not WITHDRAWN & IN_FORCE.keys()


@pytest.mark.parametrize("code", ["BGN", "HRK"])
def test_a_withdrawn_currency_is_read_and_refunded_but_not_paid_anew(code):
    assert Money(125000, code).as_json() == {"value": "1250.00", "currency": code}
    amount = {"value": "10.00", "currency": code}
    assert read_amount({"amount": amount}) == Money(1000, code)
    with pytest.raises(InvalidMoneyError, match="withdrawn"):
        require_payable(code)
    with pytest.raises(RejectedError) as refused:
        read_payment(new_payment(amount=amount))
    assert [error.pointer for error in refused.value.errors] == ["/amount/currency"]
