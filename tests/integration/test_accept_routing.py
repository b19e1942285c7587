"""Where a payment goes is decided at its acceptance, by the partner's rules, and stays."""

import pytest
from gateway_stage import GatewayStage, new_payment
from partner_documents import changed

from bridge.storage.migrate import add_sap_systems

pytestmark = pytest.mark.integration

RULE = {"name": "dollars", "currencies": ["USD"], "amount_from": "100.00", "target": "us"}


@pytest.fixture
def stage(database):
    made = GatewayStage(database)
    with database.engine.begin() as connection:
        add_sap_systems(connection, {"s4-second": 4})
    main = made.partner.targets["main"]
    us = main.model_copy(
        update={"sap_system": "s4-second", "company_code": "2000", "time_zone": "America/New_York"}
    )
    made.route(
        changed(made.partner, targets={"main": main, "us": us}, routing={"default": "main", "rules": [RULE]})
    )
    yield made
    made.close()


def accepted_to(stage, value, currency):
    answer = stage.pay(new_payment(amount={"value": value, "currency": currency}))
    assert answer.status_code == 202, answer.text
    (row,) = [row for row in stage.rows("payments") if row["payment_id"] == answer.json["id"]]
    operation = stage.operation(answer.json["operations"][0]["id"])
    (lane,) = [
        row["lane"] for row in stage.rows("outbox") if row["operation_id"] == operation["operation_id"]
    ]
    assert (operation["sap_system"], lane) == (row["sap_system"], row["sap_system"])
    return row["sap_system"], row["company_code"], row["time_zone"]


def test_the_rules_decide_where_an_accepted_payment_goes(stage):
    assert accepted_to(stage, "100.00", "USD") == ("s4-second", "2000", "America/New_York")
    assert accepted_to(stage, "99.99", "USD") == ("s4-main", "1000", "Europe/Berlin")
    assert accepted_to(stage, "100.00", "EUR") == ("s4-main", "1000", "Europe/Berlin")


def test_a_later_step_stays_where_the_payment_was_routed_to(stage):
    payment = new_payment(amount={"value": "250.00", "currency": "USD"}, capture="manual")
    first = stage.pay(payment).json
    stage.route(changed(stage.partner, routing={"default": "main"}))
    answer = stage.operate(first["id"], "captures")
    assert answer.status_code == 202, answer.text
    assert stage.operation(answer.json["operations"][1]["id"])["sap_system"] == "s4-second"


def test_a_replay_answers_for_the_payment_as_it_was_routed_then(stage):
    payment = new_payment(amount={"value": "250.00", "currency": "USD"})
    first = stage.pay(payment, key="once").json
    stage.route(changed(stage.partner, routing={"default": "main"}))
    assert stage.pay(payment, key="once").json["id"] == first["id"]
    assert [row["sap_system"] for row in stage.rows("payments")] == ["s4-second"]


@pytest.fixture
def forints(stage):
    main = stage.partner.targets["main"].model_copy(update={"currency_decimals": {"HUF": 0}})
    stage.route(changed(stage.partner, targets={"main": main}, routing={"default": "main"}))
    return stage


def test_an_amount_with_more_decimals_than_its_target_has_could_only_be_parked(forints):
    answer = forints.pay(new_payment(amount={"value": "1250.50", "currency": "HUF"}))
    assert answer.status_code == 422, answer.text
    (error,) = answer.json["errors"]
    assert error["pointer"] == "/amount/value"
    assert "more than 0 digits after the decimal point for HUF" in error["detail"]
    for value, currency in (("1250.00", "HUF"), ("1250", "HUF"), ("1250.50", "EUR")):
        assert forints.pay(new_payment(amount={"value": value, "currency": currency})).status_code == 202


def test_a_later_steps_amount_has_its_targets_decimals_too(forints):
    payment = new_payment(amount={"value": "1250.00", "currency": "HUF"}, capture="manual")
    payment_id = forints.pay(payment).json["id"]
    refused = forints.operate(payment_id, "captures", {"amount": {"value": "250.50", "currency": "HUF"}})
    assert refused.status_code == 422, refused.text
    assert [error["pointer"] for error in refused.json["errors"]] == ["/amount/value"]
    captured = forints.operate(payment_id, "captures", {"amount": {"value": "250", "currency": "HUF"}})
    assert captured.status_code == 202, captured.text


def test_a_payment_accepted_before_its_target_lost_decimals_is_replayed(stage):
    payment = new_payment(amount={"value": "1250.50", "currency": "HUF"})
    first = stage.pay(payment, key="once")
    assert first.status_code == 202, first.text
    main = stage.partner.targets["main"].model_copy(update={"currency_decimals": {"HUF": 0}})
    stage.route(changed(stage.partner, targets={"main": main}, routing={"default": "main"}))
    again = stage.pay(payment, key="once")
    assert again.status_code == 202, again.text
    assert again.json["id"] == first.json["id"]
