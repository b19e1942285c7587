"""Which line of SAP's log is the reason of a refusal."""

import json

import pytest

from bridge.errors import SettingsError
from sap_adapter.classifier import UNLISTED, Classifier, Whose
from sap_adapter.connector import LogItem

pytestmark = pytest.mark.unit

HEADLINE = LogItem("609(RW)", 3, "Error in document")


@pytest.fixture
def classifier():
    return Classifier.from_package()


def test_the_first_listed_error_is_the_reason(classifier):
    log = (HEADLINE, LogItem("999(ZZ)", 3, ""), LogItem("201(F5)", 3, ""), LogItem("102(F5)", 3, ""))
    reason = classifier.classify(log)
    assert (reason.whose, reason.failure.code) == (Whose.OPERATOR, "sap-period-closed")


@pytest.mark.parametrize("severity", [0, 1, 2])
def test_a_warning_before_the_error_was_told_to_the_partner_as_the_reason(classifier, severity):
    warning = LogItem("102(F5)", severity, "")
    assert classifier.classify((HEADLINE, warning, LogItem("201(F5)", 3, ""))).whose == Whose.OPERATOR
    assert classifier.classify((HEADLINE, warning, LogItem("999(ZZ)", 3, ""))) == UNLISTED


def test_what_is_not_listed_is_an_operators_to_look_at(classifier):
    assert classifier.classify((HEADLINE,)) == UNLISTED
    assert classifier.classify(()) == UNLISTED


ROW = {"whose": "partner", "code": "debtor-unknown", "pointer": "/debtor", "message": "No.", "sap": "No"}


@pytest.mark.parametrize(
    ("type_id", "change"),
    [
        ("F5102", {}),
        ("102(F5)", {"whose": "nobody"}),
        ("102(F5)", {"pointer": None}),
        ("102(F5)", {"pointer": "/name"}),
        ("102(F5)", {"whose": "operator"}),
        ("102(F5)", {"code": "Debtor unknown"}),
        ("102(F5)", {"message": "no sentence"}),
        ("102(F5)", {"colour": "red"}),
    ],
)
def test_a_wrong_line_of_the_table_is_named_before_anything_is_served(type_id, change):
    with pytest.raises(SettingsError, match=r"reasons.json: .*(F5102|102\(F5\))"):
        Classifier.read(json.dumps({type_id: ROW | change}).encode())


def test_a_table_that_is_no_json_is_an_error_of_the_settings():
    with pytest.raises(SettingsError, match=r"reasons.json"):
        Classifier.read(b"{")
