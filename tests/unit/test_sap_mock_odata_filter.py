"""The mock's $filter: what it understands and what it says about the rest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sap_mock.odata_filter import FilterError, parse_filter
from sap_mock.odata_items import PROPERTIES

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "conditions"),
    [
        ("CompanyCode eq '1000'", [("CompanyCode", "1000")]),
        (
            "CompanyCode eq '1000' and DocumentReferenceID eq 'A'",
            [("CompanyCode", "1000"), ("DocumentReferenceID", "A")],
        ),
        (" ( CompanyCode eq '1' ) and(FiscalYear eq '2026')", [("CompanyCode", "1"), ("FiscalYear", "2026")]),
        ("((CompanyCode eq '1'))", [("CompanyCode", "1")]),
        ("DocumentItemText eq 'O''Hara'", [("DocumentItemText", "O'Hara")]),
        ("DocumentItemText eq ''''", [("DocumentItemText", "'")]),
        ("DocumentItemText eq ' and '", [("DocumentItemText", " and ")]),
    ],
)
def test_understood(text, conditions):
    assert [(one.name, one.value) for one in parse_filter(text, PROPERTIES)] == conditions


def test_a_day_is_compared_by_ge():
    (condition,) = parse_filter("PostingDate ge datetime'2026-11-20T00:00:00'", PROPERTIES)
    assert condition == ("PostingDate", "2026-11-20", "ge")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "CompanyCode",
        "CompanyCode eq",
        "CompanyCode eq 1000",
        "CompanyCode eq '1000",
        "CompanyCode ne '1000'",
        "CompanyCode eq '1' or CompanyCode eq '2'",
        "CompanyCode eq '1' and",
        "(CompanyCode eq '1'",
        "CompanyCode eq '1')",
        "Bukrs eq '1000'",
        "AmountInTransactionCurrency eq '1'",
        "PostingDate eq datetime'2026-11-20T00:00:00'",
        "PostingDate ge '2026-11-20'",
        "PostingDate ge datetime'yesterday'",
        "PostingDate ge datetime",
        "CompanyCode ge '1'",
        "startswith(CompanyCode,'1')",
        "'1000' eq CompanyCode",
        "(" * 50 + "CompanyCode eq '1'" + ")" * 50,
        "CompanyCode eq '" + "1" * 5000 + "'",
    ],
)
def test_not_understood_is_said_so(text):
    with pytest.raises(FilterError):
        parse_filter(text, PROPERTIES)


@given(st.text(max_size=40))
def test_any_value_survives_quoting(value):
    quoted = value.replace("'", "''")
    assert parse_filter(f"DocumentItemText eq '{quoted}'", PROPERTIES) == (("DocumentItemText", value, "eq"),)


@given(st.text(alphabet="CompanyCode eq'()and1 ", max_size=40))
def test_nothing_breaks_the_parser(text):
    try:
        parse_filter(text, PROPERTIES)
    except FilterError as error:
        assert "$filter" in str(error)  # noqa: PT017 - most texts raise, some parse
