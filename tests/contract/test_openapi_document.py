"""Routes, OpenAPI document and the API Gateway's file say the same; so do schemas and validators."""

import re

import pytest
import yaml
from gateway_stage import ISSUER, GatewayStage
from hypothesis import given
from hypothesis import strategies as st
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR
from write_openapi import DOCUMENT

from bridge.web.problems import PROBLEMS
from devstack.edge.program import DESCRIPTION_FILE
from gateway import payment_request
from gateway.api_description import NOT_DESCRIBED, PROBLEM_STATUSES
from gateway.openapi_routes import as_text

pytestmark = pytest.mark.contract

# What is not in all three, each with its reason.
NOT_THROUGH_THE_EDGE = {
    ("GET", "/livez"): "asked by the platform, on the service itself",
    ("GET", "/readyz"): "asked by the platform, on the service itself",
    ("GET", "/openapi.json"): "not public (docs/api.md); partners get docs/openapi.json",
    ("GET", "/docs"): "not public (docs/api.md)",
}
# a method that is no operation; what must not happen
# "request-timeout" is answered before the request has come in whole
NO_ANSWER_OF_AN_OPERATION = {"method-not-allowed", "internal-error", "request-timeout"}
METHODS = {"get", "put", "post", "patch", "delete", "head", "options", "trace"}


@pytest.fixture(scope="module")
def stage():
    made = GatewayStage()
    yield made
    made.close()


@pytest.fixture(scope="module")
def document(stage):
    return stage.app.test_client().get("/openapi.json").json


def operations(document):
    return {
        (method.upper(), path): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    }


def routes(app):
    return {
        (method, re.sub(r"<(?:[^<>:]*:)?([^<>:]+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }


def edge():
    return yaml.safe_load(DESCRIPTION_FILE.read_text(encoding="utf-8"))


def test_the_kept_document_is_the_one_that_is_served(stage):
    assert DOCUMENT.read_text(encoding="utf-8") == as_text(stage.app, ISSUER), "run `make openapi`"


def test_the_document_is_valid_openapi(document):
    OPENAPI_31_VALIDATOR.validate(document)


def test_routes_document_and_edge_have_the_same_paths_and_methods(stage, document):
    served, described, forwarded = routes(stage.app), set(operations(document)), set(operations(edge()))
    assert described == served - set(NOT_THROUGH_THE_EDGE)
    assert described == forwarded
    assert set(NOT_THROUGH_THE_EDGE) <= served
    assert len(NOT_DESCRIBED) == len(NOT_THROUGH_THE_EDGE)


def test_document_and_edge_ask_for_a_token_for_the_same_operations(document):
    ours, theirs = operations(document), operations(edge())
    for each, operation in ours.items():
        assert operation["operationId"] == theirs[each]["operationId"]
        with_token = any("access_token" in way for way in operation["security"])
        assert with_token == ("security" not in theirs[each]), each


def test_every_problem_has_one_status_and_is_in_the_document(document):
    assert set(PROBLEM_STATUSES) == set(PROBLEMS) - NO_ANSWER_OF_AN_OPERATION
    patterns = " ".join(
        content["schema"]["allOf"][1]["properties"]["type"]["pattern"]
        for response in document["components"]["responses"].values()
        for media_type, content in response["content"].items()
        if media_type == "application/problem+json"
    )
    assert {slug for slug in PROBLEM_STATUSES if re.search(rf"[(|]{slug}[)|]", patterns)} == set(
        PROBLEM_STATUSES
    )


def test_every_answer_to_a_partner_declares_its_limits(document):
    responses = document["components"]["responses"]
    for each, operation in operations(document).items():
        of_a_partner = any("access_token" in way for way in operation["security"])
        for status, answer in operation["responses"].items():
            found = responses[answer["$ref"].rpartition("/")[2]] if "$ref" in answer else answer
            declared = {"RateLimit-Policy", "RateLimit"} & set(found["headers"])
            expected = 2 if of_a_partner and status not in ("401", "403") else 0
            assert len(declared) == expected, (each, status)


def test_the_page_shows_every_operation_and_fetches_nothing(stage, document):
    answer = stage.app.test_client().get("/docs")
    assert answer.content_type == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    for word in ("<script", "<link", "<img", " src=", "url(", "@import"):
        assert word not in answer.text
    ids = set(re.findall(r'id="([^"]*)"', answer.text))
    links = re.findall(r'href="([^"]*)"', answer.text)
    assert {link for link in links if not link.startswith("#")} == {"openapi.json"}
    assert {link[1:] for link in links if link.startswith("#")} <= ids
    assert {operation["operationId"] for operation in operations(document).values()} <= ids


def is_accepted(judge, value):
    try:
        judge(value)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("pattern", "judge"),
    [
        (payment_request.TEXT_PATTERN, payment_request.text),
        (payment_request.STORABLE_PATTERN, payment_request._storable),
    ],
)
@given(
    text=st.text() | st.text(alphabet=" \t\n\x00\x1f\x7f\x85\xa0\u1680\u200b\u2028\u3000\ufeff\ufffe\uffffa")
)
def test_the_published_pattern_of_a_text_says_what_its_validator_says(pattern, judge, text):
    # `$` is the very end, as ECMA-262 has it; Python's lets a line break follow
    assert bool(re.search(pattern.replace("$", r"\Z"), text)) == is_accepted(judge, text)


@given(value=st.from_regex(r"[0-9]{1,14}(\.[0-9]{0,5})?", fullmatch=True) | st.text(alphabet="01.\n -+e٣"))
def test_the_published_pattern_of_an_amount_says_what_a_currency_with_four_decimals_says(value):
    amount = {"value": value, "currency": "CLF"}
    accepted = is_accepted(payment_request.AmountModel.model_validate, amount)
    assert bool(re.search(payment_request.VALUE_PATTERN.replace("$", r"\Z"), value)) == accepted


def parts_of(schema):
    """Every schema below this one."""
    if isinstance(schema, dict):
        yield schema
    for child in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from parts_of(child)


def test_what_is_said_in_two_places_of_a_member_can_be_merged_by_generators(document):
    """openapi-python-client dropped all 166 error answers: an integer and a const can't be merged."""
    schemas = document["components"]["schemas"]
    merged = [part["allOf"] for part in parts_of(document) if "allOf" in part]
    assert merged
    for whole, narrower in merged:
        properties = schemas[whole["$ref"].rpartition("/")[2]]["properties"]
        for name, member in narrower["properties"].items():
            assert member["type"] == properties[name]["type"]
            assert "const" not in member
