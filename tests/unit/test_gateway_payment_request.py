"""What a partner may send: every limit at its edge, and mistakes that never repeat what was sent."""

import contextlib
import json

import pytest
from gateway_stage import GatewayStage, new_payment
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import RejectedError
from bridge.web.problems import document
from gateway.json_body import parse_object
from gateway.payment_request import read_payment

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def stage():
    """Without a database: what passes validation ends as 503."""
    made = GatewayStage()
    yield made
    made.close()


def mistakes(**changes):
    with pytest.raises(RejectedError) as caught:
        read_payment(new_payment(**changes))
    assert (caught.value.slug, caught.value.status) == ("invalid-request", 422)
    return [error.pointer for error in caught.value.errors]


def party(**changes):
    return {"name": "Muster GmbH", "account": {"iban": "DE89370400440532013000"}} | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"external_id": "x" * 35},
        {"external_id": "x"},
        {"amount": {"value": "9999999999999.99", "currency": "EUR"}},
        {"amount": {"value": "1", "currency": "EUR"}},
        {"amount": {"value": "0.001", "currency": "KWD"}},
        {"capture": "manual"},
        {"remittance_information": "x" * 140},
        {"debtor": party(name="\U0001f600" * 140)},
        {"metadata": {f"key-{number}": "" for number in range(20)}},
        {"metadata": {"k" * 40: "ü" * 200}},
        {"debtor": None, "creditor": None, "remittance_information": None, "requested_execution_date": None},
        {"debtor": ..., "creditor": ..., "remittance_information": ..., "metadata": ...},
    ],
    ids=str,
)
def test_it_is_accepted_up_to_the_limit(changes):
    read_payment(new_payment(**changes))


def test_a_payment_that_does_not_say_how_it_is_captured_is_captured_at_once():
    assert read_payment(new_payment(capture=...)).capture == "automatic"
    assert read_payment(new_payment(capture="manual")).capture == "manual"


@pytest.mark.parametrize(
    ("pointer", "changes"),
    [
        ("/external_id", {"external_id": ...}),
        ("/external_id", {"external_id": ""}),
        ("/external_id", {"external_id": "x" * 36}),
        ("/external_id", {"external_id": " x"}),
        ("/external_id", {"external_id": "a\u200bb"}),
        ("/external_id", {"external_id": "a\nb"}),
        ("/external_id", {"external_id": 7}),
        ("/amount", {"amount": ...}),
        ("/amount", {"amount": "1250.00 EUR"}),
        ("/amount", {"amount": None}),
        ("/amount/value", {"amount": {"currency": "EUR"}}),
        ("/amount/value", {"amount": {"value": "", "currency": "EUR"}}),
        ("/amount/value", {"amount": {"value": "1,00", "currency": "EUR"}}),
        ("/amount/value", {"amount": {"value": "1e3", "currency": "EUR"}}),
        ("/amount/value", {"amount": {"value": "+1.00", "currency": "EUR"}}),
        ("/amount/value", {"amount": {"value": "01.00", "currency": "EUR"}}),
        ("/amount/value", {"amount": {"value": "\u0661.00", "currency": "EUR"}}),
        ("/amount/value", {"amount": {"value": "10000000000000.00", "currency": "EUR"}}),
        ("/amount/currency", {"amount": {"value": "1.00"}}),
        ("/amount/currency", {"amount": {"value": "1.00", "currency": "XXX"}}),
        ("/amount/currency", {"amount": {"value": "1.00", "currency": 978}}),
        ("/amount/tax", {"amount": {"value": "1.00", "currency": "EUR", "tax": "0.19"}}),
        ("/capture", {"capture": None}),
        ("/capture", {"capture": "later"}),
        ("/capture", {"capture": True}),
        ("/debtor", {"debtor": "Muster GmbH"}),
        ("/debtor/name", {"debtor": party(name="")}),
        ("/debtor/name", {"debtor": party(name="   ")}),
        ("/debtor/name", {"debtor": party(name="x" * 141)}),
        ("/debtor/name", {"debtor": party(name="Muster\x00GmbH")}),
        ("/debtor/name", {"debtor": party(name="Muster\ufffeGmbH")}),
        ("/debtor/account", {"debtor": {"name": "Muster GmbH"}}),
        ("/creditor/account/iban", {"creditor": party(account={"iban": "DE89 3704 0044 0532 0130 00"})}),
        ("/creditor/account/iban", {"creditor": party(account={"iban": "de89370400440532013000"})}),
        ("/creditor/account/iban", {"creditor": party(account={"iban": "DE88370400440532013000"})}),
        ("/creditor/account/iban", {"creditor": party(account={"iban": "DE8937040044053201300"})}),
        ("/creditor/account/iban", {"creditor": party(account={"iban": "XX89370400440532013000"})}),
        ("/creditor/account/iban", {"creditor": party(account={"iban": ""})}),
        ("/remittance_information", {"remittance_information": "x" * 141}),
        ("/remittance_information", {"remittance_information": "line\nbreak"}),
        ("/requested_execution_date", {"requested_execution_date": "2026-02-30"}),
        ("/requested_execution_date", {"requested_execution_date": "20261201"}),
        ("/requested_execution_date", {"requested_execution_date": "2026-12-01T00:00:00Z"}),
        ("/requested_execution_date", {"requested_execution_date": 20261201}),
        ("/metadata", {"metadata": {f"key-{number}": "" for number in range(21)}}),
        ("/metadata", {"metadata": ["a"]}),
        ("/metadata", {"metadata": None}),
        ("/metadata/" + "k" * 41, {"metadata": {"k" * 41: ""}}),
        ("/metadata", {"metadata": {"": "x"}}),
        ("/metadata", {"metadata": {"Ottokar Wendelbörg": 7}}),
        ("/metadata/k", {"metadata": {"k": "x" * 201}}),
        ("/metadata/k", {"metadata": {"k": "a\x00b"}}),
        ("/metadata/k", {"metadata": {"k": {"deep": "x"}}}),
        ("/id", {"id": "pay_1"}),
        ("", {"x" * 5000: "absurd"}),
    ],
    ids=str,
)
def test_a_mistake_is_pointed_at(pointer, changes):
    assert mistakes(**changes) == [pointer]


def test_all_mistakes_are_told_at_once():
    assert mistakes(external_id="", capture="x", debtor=party(name="")) == [
        "/external_id",
        "/capture",
        "/debtor/name",
    ]


def test_there_is_an_end_to_the_list_of_mistakes():
    assert len(mistakes(**{f"unknown-{number}": 1 for number in range(500)})) == 50


def test_nothing_that_was_sent_is_repeated():
    planted = "Erika-Mustermann-7"
    with pytest.raises(RejectedError) as refused:
        read_payment(
            new_payment(
                external_id=planted * 5,
                amount={"value": planted, "currency": planted},
                capture=planted,
                debtor={"name": [planted], "account": {"iban": planted}},
                creditor=planted,
                remittance_information=planted * 20,
                requested_execution_date=planted,
                metadata={"k": planted * 20},
            )
        )
    told = document(refused.value)
    assert len(told["errors"]) == 10
    assert planted not in json.dumps(told)


RAW = [
    (b"", 400, "malformed-request"),
    (b"{", 400, "malformed-request"),
    (b"{} trailing", 400, "malformed-request"),
    (b'{"capture": "automatic", "capture": "manual"}', 400, "malformed-request"),
    (b'{"amount": {"value": "1", "value": "2"}}', 400, "malformed-request"),
    (b'{"amount": NaN}', 400, "malformed-request"),
    (b'{"amount": -Infinity}', 400, "malformed-request"),
    ('{"external_id": "ü"}'.encode("latin-1"), 400, "malformed-request"),
    (b"\xef\xbb\xbf{}", 400, "malformed-request"),
    ("{}".encode("utf-16"), 400, "malformed-request"),
    (b"[" * 30_000, 400, "malformed-request"),
    (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 400, "malformed-request"),
    (b'{"amount": ' + b"9" * 10_000 + b"}", 400, "malformed-request"),
    (b"[]", 422, "invalid-request"),
    (b"null", 422, "invalid-request"),
    (b'"text"', 422, "invalid-request"),
    (b"{" + b" " * 65_536, 413, "payload-too-large"),
]


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"amount": 1e999}',
        rb'{"external_id": "\ud800"}',
        rb'{"\ud800": 1}',
        rb'{"metadata": {"\ud800": "x"}}',
    ],
)
def test_a_body_of_odd_values_is_read_and_refused(body):
    with pytest.raises(RejectedError) as refused:
        read_payment(parse_object(body))
    assert (refused.value.status, refused.value.slug) == (422, "invalid-request")


@pytest.mark.parametrize(("body", "status", "problem"), RAW, ids=[repr(raw[0][:20]) for raw in RAW])
def test_a_body_that_cannot_be_read_is_refused(stage, body, status, problem):
    answer = stage.pay(data=body, content_type="application/json")
    assert answer.status_code == status
    assert answer.content_type == "application/problem+json"
    assert answer.json["type"].endswith("/" + problem)


@pytest.mark.parametrize(
    ("content_type", "encoding", "status"),
    [
        ("application/json", None, 503),
        ("application/json; charset=utf-8", None, 503),
        ("application/json", "identity", 503),
        ("application/json; charset=latin-1", None, 415),
        ("application/xml", None, 415),
        ("application/x-www-form-urlencoded", None, 415),
        ("application/json", "gzip", 415),
        (None, None, 415),
    ],
)
def test_only_json_in_utf_8_is_taken(stage, content_type, encoding, status):
    headers = {"Content-Encoding": encoding} if encoding else {}
    answer = stage.pay(data=json.dumps(new_payment()).encode(), content_type=content_type, headers=headers)
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("key", "status", "problem"),
    [
        ("k", 503, "unavailable"),
        ("k" * 255, 503, "unavailable"),
        ('"quoted-as-the-draft-has-it"', 503, "unavailable"),
        # what a proxy makes of two headers looks the same
        ("one,two", 400, "malformed-request"),
        ("k" * 256, 400, "malformed-request"),
        ("two words", 400, "malformed-request"),
        ("ümlaut", 400, "malformed-request"),
        ("", 400, "idempotency-key-missing"),
    ],
)
def test_the_idempotency_key_is_1_to_255_visible_ascii_characters(stage, key, status, problem):
    answer = stage.call("POST", "/v1/payments", headers={"Idempotency-Key": key}, json=new_payment())
    assert (answer.status_code, answer.json["type"].rpartition("/")[2]) == (status, problem)


def test_a_missing_idempotency_key_is_told(stage):
    answer = stage.call("POST", "/v1/payments", json=new_payment())
    assert (answer.status_code, answer.json["type"].rpartition("/")[2]) == (400, "idempotency-key-missing")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from([*new_payment(), "x"]) | st.text(), json_values, max_size=9))
def test_whatever_is_sent_ends_as_a_payment_or_a_refusal(document):
    with contextlib.suppress(RejectedError):
        read_payment(new_payment(**parse_object(json.dumps(document).encode())))
