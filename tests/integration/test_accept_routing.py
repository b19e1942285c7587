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
