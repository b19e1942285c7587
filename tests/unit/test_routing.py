"""Rules by currency and amount: the first that matches, a default, and nothing that can't be reached."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from partner_documents import new_partner
from pydantic import ValidationError

from bridge.money import Money
from bridge.partner import PartnerConfiguration, SapTarget
from bridge.routing import Routing

pytestmark = pytest.mark.unit

RULES = [
    {"name": "us", "currencies": ["USD"], "target": "us"},
    {"name": "big", "currencies": ["EUR", "CHF"], "amount_from": "10000.00", "target": "treasury"},
    {
        "name": "middle",
        "currencies": ["EUR"],
        "amount_from": "100",
        "amount_below": "10000",
        "target": "main",
    },
]


def routing(*rules):
    return Routing.model_validate({"rules": rules, "default": "rest"})


def goes(value, currency, *rules):
    return routing(*(rules or RULES)).target_of(Money.parse(value, currency))


@pytest.mark.parametrize(
    ("value", "currency", "target"),
    [
        ("0.01", "USD", "us"),
        ("10000.00", "EUR", "treasury"),
        ("9999.99", "EUR", "main"),
        ("100.00", "EUR", "main"),
        ("99.99", "EUR", "rest"),
        ("9999.99", "CHF", "rest"),
        ("10000.00", "CHF", "treasury"),
        ("1", "JPY", "rest"),
    ],
)
def test_the_first_rule_that_matches_decides_else_the_default(value, currency, target):
    assert goes(value, currency) == target


def test_bounds_are_in_the_payments_currency_and_its_decimals():
    rule = {"name": "r", "currencies": ["JPY", "KWD"], "amount_from": "500", "target": "t"}
    assert (goes("499", "JPY", rule), goes("500", "JPY", rule)) == ("rest", "t")
    assert (goes("499.999", "KWD", rule), goes("500.000", "KWD", rule)) == ("rest", "t")


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ([RULES[0], {**RULES[0], "name": "again"}], "unreachable"),
        (
            [
                {"name": "low", "currencies": ["EUR"], "amount_below": "100", "target": "a"},
                {"name": "high", "currencies": ["EUR"], "amount_from": "100", "target": "b"},
                {"name": "never", "currencies": ["EUR"], "amount_from": "50", "target": "c"},
            ],
            "never is unreachable",
        ),
        ([RULES[0], {**RULES[1], "name": "us"}], "one name"),
        ([{**RULES[0], "currencies": []}], "currencies"),
        ([{**RULES[0], "currencies": ["USD", "USD"]}], "twice"),
        ([{**RULES[0], "currencies": ["XXX"]}], "ISO 4217"),
        ([{**RULES[0], "amount_from": "1.234"}], "digits after the decimal point"),
        ([{**RULES[0], "amount_from": "5", "amount_below": "5"}], "not below"),
        ([{**RULES[0], "colour": "red"}], "colour"),
    ],
)
def test_a_rule_that_can_not_be_meant_is_refused(rules, why):
    with pytest.raises(ValidationError, match=why):
        routing(*rules)


def test_a_rule_of_which_one_currency_is_left_is_reachable():
    both = {"name": "both", "currencies": ["USD", "CAD"], "target": "north"}
    assert goes("1.00", "CAD", RULES[0], both) == "north"


def test_an_explanation_tells_of_each_rule_that_was_looked_at():
    explanation = routing(*RULES).explain(Money.parse("250.00", "EUR"))
    assert (explanation.target, explanation.rule) == ("main", "middle")
    assert [(one.rule, one.matches) for one in explanation.considered] == [
        ("us", False),
        ("big", False),
        ("middle", True),
    ]
    assert explanation.considered[0].because == "EUR is none of USD"
    assert explanation.considered[1].because == "250.00 is less than 10000.00"
    by_default = routing(*RULES).explain(Money.parse("5", "JPY"))
    assert (by_default.target, by_default.rule) == ("rest", None)


CURRENCIES = ["EUR", "USD", "JPY"]
BOUND = st.none() | st.integers(1, 50).map(str)
RULE = st.fixed_dictionaries(
    {
        "currencies": st.lists(st.sampled_from(CURRENCIES), min_size=1, unique=True),
        "amount_from": BOUND,
        "amount_below": BOUND,
        "target": st.sampled_from(["a", "b", "c"]),
    }
)


@settings(max_examples=60)
@given(st.lists(RULE, max_size=5), st.sampled_from(CURRENCIES), st.integers(1, 60))
def test_routing_and_its_explanation_agree_and_what_is_refused_is_never_reached(rules, currency, value):
    named = [{**rule, "name": f"r{number}"} for number, rule in enumerate(rules)]
    amount = Money.parse(str(value), currency)
    try:
        table = routing(*named)
    except ValidationError:
        return
    explanation = table.explain(amount)
    assert table.target_of(amount) == explanation.target
    # every rule decides for some amount of its own
    amounts = [Money.parse(str(one), c) for one in range(1, 61) for c in CURRENCIES]
    # bounds are whole numbers and a rule may also reach below 1 (EUR 0.50)
    amounts += [Money(50, c) for c in ("EUR", "USD")]
    assert {rule["name"] for rule in named} <= {table.explain(one).rule for one in amounts}


def document(**changes):
    return new_partner().model_dump(mode="json") | changes


@pytest.mark.parametrize(
    ("routed", "why"),
    [
        ({"default": "nowhere"}, "nowhere"),
        ({"default": "main", "rules": [{**RULES[0], "target": "nowhere"}]}, "nowhere"),
    ],
)
def test_a_rule_to_a_target_that_is_not_there_is_refused(routed, why):
    with pytest.raises(ValidationError, match=why):
        PartnerConfiguration.model_validate(document(routing=routed))


def test_two_targets_of_one_company_code_would_leave_open_whose_accounts_hold():
    partner = document()
    partner["targets"]["other"] = partner["targets"]["main"]
    with pytest.raises(ValidationError, match="same company code"):
        PartnerConfiguration.model_validate(partner)


def test_a_configuration_says_where_an_amount_goes_and_where_an_earlier_payment_belongs():
    partner = document(routing={"default": "main", "rules": [{**RULES[0], "target": "us"}]})
    partner["targets"]["us"] = {**partner["targets"]["main"], "company_code": "2000"}
    configuration = PartnerConfiguration.model_validate(partner)
    assert configuration.target_of(Money(100, "USD")).company_code == "2000"
    assert configuration.target_of(Money(100, "EUR")).company_code == "1000"
    assert configuration.target_at("s4-main", "2000") is configuration.targets["us"]
    assert configuration.target_at("s4-second", "2000") is None


def test_a_sap_system_with_the_name_of_the_events_lane_is_refused():
    """Its first acceptance would have violated the outbox's check."""
    with pytest.raises(ValidationError, match="lane of events"):
        SapTarget(sap_system="events", company_code="1000", time_zone="UTC", mappings={})


def test_decimals_are_of_known_currencies():
    with pytest.raises(ValidationError, match="ISO 4217"):
        SapTarget(
            sap_system="s4", company_code="1000", time_zone="UTC", mappings={}, currency_decimals={"ABC": 0}
        )
