"""A mapping tried on a sample payment: what it would become, and each mistake with its pointer."""

import copy
import json
from datetime import UTC, datetime

import pytest
from lxml import etree
from stand_ins import REPOSITORY

from bridge.payment import OperationKind
from cli.mapping_trial import TrialError, try_mapping

NOW = datetime(2026, 11, 21, 23, 30, tzinfo=UTC)
EXAMPLES = REPOSITORY / "docs" / "examples"


@pytest.fixture
def document():
    return json.loads((EXAMPLES / "partner.json").read_text())


@pytest.fixture
def payment():
    return json.loads((EXAMPLES / "payment.json").read_text())


def mistakes(document, payment, kind=None, now=NOW):
    with pytest.raises(TrialError) as raised:
        try_mapping(document, payment, kind, now)
    return raised.value.what, [(error.pointer, error.detail) for error in raised.value.errors]


def test_the_entry_is_the_one_that_would_be_posted(document, payment):
    trial = try_mapping(document, payment, None, NOW)
    assert (trial.kind, trial.target, trial.rule) == ("payment", "main", None)
    assert (trial.sap_system, trial.company_code) == ("s4-main", "1000")
    entry = etree.fromstring(trial.entry)
    assert entry.findtext("PostingDate") == "2026-11-22", "the day in the company code's time zone"
    assert entry.findtext("Item/GLAccount") == "113100"
    assert entry.findtext("DebtorItem/AmountInTransactionCurrency") == "-1250.00"
    assert entry.findtext("DebtorItem/DocumentItemText") == "Invoice 4711"


@pytest.mark.parametrize("kind", list(OperationKind))
def test_every_step_can_be_tried(document, payment, kind):
    trial = try_mapping(document, payment, kind, NOW)
    reversal = etree.fromstring(trial.entry).findtext("ReversalReferenceDocument")
    assert (reversal is not None) == (kind == OperationKind.REVERSE)


def test_a_payment_that_is_captured_later_begins_with_its_authorisation(document, payment):
    assert try_mapping(document, payment | {"capture": "manual"}, None, NOW).kind == "authorize"


def test_it_is_routed_as_the_payment_would_be(document, payment):
    other = copy.deepcopy(document["targets"]["main"]) | {"company_code": "2000"}
    document["targets"]["swiss"] = other
    document["routing"]["rules"] = [{"name": "francs", "target": "swiss", "currencies": ["CHF"]}]
    payment["amount"] = {"value": "10.00", "currency": "CHF"}
    trial = try_mapping(document, payment, None, NOW)
    assert (trial.target, trial.rule, trial.company_code) == ("swiss", "francs", "2000")


def test_what_a_payments_own_data_make_impossible_is_told_where_the_mapping_says_it(document, payment):
    customer = {"jmespath": "metadata.customer || '10000001'"}
    document["targets"]["main"]["mappings"]["payment"]["customer"] = customer
    payment["metadata"] = {"customer": "ACME SE"}
    assert mistakes(document, payment) == (
        "document",
        [("/targets/main/mappings/payment/customer", "gives none of [A-Z0-9]{1,10}, for this payment")],
    )


def test_a_step_without_a_mapping_is_told(document, payment):
    del document["targets"]["main"]["mappings"]["refund"]
    assert mistakes(document, payment, OperationKind.REFUND) == (
        "document",
        [("/targets/main/mappings", "has no mapping for refund")],
    )


def test_a_mistake_in_the_document_is_told_before_any_payment_is_looked_at(document):
    document["targets"]["main"]["mappings"]["payment"]["header_text"] = {"jmespath": "remittence"}
    what, errors = mistakes(document, {})
    assert what == "document"
    assert [pointer for pointer, _ in errors] == ["/targets/main/mappings/payment/header_text"]


def test_mistakes_in_the_payment_are_told_without_its_values(document, payment):
    payment["debtor"]["account"]["iban"] = "DE89370400440532013001"
    payment["amount"]["value"] = "12.345"
    what, errors = mistakes(document, payment)
    assert what == "payment"
    assert sorted(pointer for pointer, _ in errors) == ["/amount/value", "/debtor/account/iban"]
    assert "DE89" not in str(errors)


def test_a_dated_change_is_tried_at_its_date(document, payment):
    targets = copy.deepcopy(document["targets"])
    targets["main"]["mappings"]["payment"]["customer"] = {"jmespath": "metadata.customer || '10000777'"}
    document["dated_changes"] = [{"effective_from": "2027-01-01T00:00:00+01:00", "targets": targets}]
    then = datetime(2027, 1, 1, tzinfo=UTC)
    entries = [try_mapping(document, payment, None, now).entry for now in (NOW, then)]
    assert [etree.fromstring(entry).findtext("DebtorItem/Debtor") for entry in entries] == [
        "10000009",
        "10000777",
    ]
    payment["metadata"] = {"customer": "?"}
    ((pointer, _),) = mistakes(document, payment, now=then)[1]
    assert pointer == "/dated_changes/0/targets/main/mappings/payment/customer"
