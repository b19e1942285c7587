"""`terraform/api-gateway.yaml` says what the contract says, and the edge's routes say what the file says."""

import dataclasses
import re

import pytest
import yaml
from schemathesis.specs.openapi.definitions import SWAGGER_20_VALIDATOR

from devstack.edge.description import DescriptionError, fill_in, read_description
from devstack.edge.envoy_configuration import configuration
from devstack.edge.program import DESCRIPTION_FILE, EdgeAddress
from devstack.edge.routes import JWT_FILTER, routes_of

pytestmark = pytest.mark.contract

ADDRESS = EdgeAddress(8080, 8081, "http://issuer.test", "http://audience.test")
TEMPLATE = DESCRIPTION_FILE.read_text(encoding="utf-8")
FILLED_IN = fill_in(TEMPLATE, ADDRESS.variables())
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY")

# What partners are promised, and which of it is open to everybody.
PUBLIC = {
    ("POST", "/oauth2/token"),
    ("GET", "/.well-known/oauth-authorization-server"),
    ("GET", "/.well-known/jwks.json"),
    ("GET", "/.well-known/receipt-keys.json"),
    ("GET", "/problems/{slug}"),
}
WITH_TOKEN = {
    ("POST", "/v1/payments"),
    ("GET", "/v1/payments"),
    ("POST", "/v1/payments/batch"),
    ("GET", "/v1/payments/{payment_id}"),
    ("GET", "/v1/payments/{payment_id}/events"),
    ("POST", "/v1/payments/{payment_id}/captures"),
    ("POST", "/v1/payments/{payment_id}/reversals"),
    ("POST", "/v1/payments/{payment_id}/refunds"),
    ("POST", "/v1/payments/{payment_id}/cancellations"),
    ("GET", "/v1/events"),
    ("POST", "/v1/webhook-endpoints"),
    ("GET", "/v1/webhook-endpoints"),
    ("GET", "/v1/webhook-endpoints/{endpoint_id}"),
    ("PATCH", "/v1/webhook-endpoints/{endpoint_id}"),
    ("DELETE", "/v1/webhook-endpoints/{endpoint_id}"),
    ("POST", "/v1/webhook-endpoints/{endpoint_id}/rotate-secret"),
    ("POST", "/v1/webhook-endpoints/{endpoint_id}/test"),
    ("GET", "/v1/webhook-endpoints/{endpoint_id}/deliveries"),
    ("POST", "/v1/webhook-endpoints/{endpoint_id}/replay"),
    ("GET", "/v1/webhook-deliveries/{delivery_id}"),
    ("POST", "/v1/webhook-deliveries/{delivery_id}/redeliver"),
}


@pytest.fixture(scope="module")
def description():
    return read_description(FILLED_IN)


def route_for(description, method, path):
    """The first route that matches, as Envoy looks for it."""
    for route in routes_of(description):
        match = route["match"]
        if "headers" in match and match["headers"][0]["string_match"]["exact"] != method:
            continue
        if match.get("prefix") == "/" or re.fullmatch(match["safe_regex"]["regex"], path):
            return route
    raise AssertionError("no route, not even 404")


def example(path):
    return re.sub(r"\{[a-z_]+\}", "abc-1", path)


def listed(description, *, public):
    return {
        (operation.method, operation.path)
        for operation in description.operations
        if (operation.provider is None) == public
    }


def test_the_file_is_valid_openapi_2():
    document = yaml.safe_load(FILLED_IN)
    # Google wants it empty, where OpenAPI wants a URL
    assert document["securityDefinitions"]["access_token"].pop("authorizationUrl") == ""
    document["securityDefinitions"]["access_token"]["authorizationUrl"] = "https://none.test"
    SWAGGER_20_VALIDATOR.validate(document)


def test_the_file_lists_exactly_what_partners_are_promised(description):
    assert listed(description, public=True) == PUBLIC
    assert listed(description, public=False) == WITH_TOKEN


def test_the_file_is_a_template_that_terraform_reads_the_same_way():
    assert set(re.findall(r"\$\{(.*?)\}", TEMPLATE)) == set(ADDRESS.variables())
    # these would mean something else to Terraform than to the local stack
    assert "%{" not in TEMPLATE
    assert "$${" not in TEMPLATE
    assert FILLED_IN.count("${") == 0


def test_the_file_stays_below_googles_limit_of_yaml_aliases():
    assert len(re.findall(r"(?<=: )\*\w+", TEMPLATE)) < 200


def test_every_operation_is_called_with_an_identity_token_and_has_a_deadline():
    document = yaml.safe_load(FILLED_IN)
    backends = [document["x-google-backend"]] + [
        operation["x-google-backend"]
        for item in document["paths"].values()
        for operation in item.values()
        if isinstance(operation, dict) and "x-google-backend" in operation
    ]
    assert len(backends) > 1
    for backend in backends:
        assert backend["address"] == backend["jwt_audience"] == ADDRESS.variables()["gateway_url"]
        assert backend["path_translation"] == "APPEND_PATH_TO_ADDRESS"
        assert 0 < backend["deadline"] <= 60


def test_every_path_parameter_is_declared():
    for path, item in yaml.safe_load(FILLED_IN)["paths"].items():
        for operation in (value for value in item.values() if isinstance(value, dict)):
            declared = {p["name"] for p in [*item.get("parameters", []), *operation.get("parameters", [])]}
            assert declared == set(re.findall(r"\{([a-z_]+)\}", path)), path


def test_every_operation_has_its_route_and_nothing_else_is_forwarded(description):
    for operation in description.operations:
        route = route_for(description, operation.method, example(operation.path))
        assert route["name"] == operation.operation_id
        assert route["route"]["timeout"] == f"{operation.deadline_seconds:g}s"
    forwarded = [route for route in routes_of(description) if "route" in route]
    assert len(forwarded) == len(description.operations)


def test_every_other_method_of_a_listed_path_is_405(description):
    for path in {operation.path for operation in description.operations}:
        # a path without parameters may be an example of one with: that one's methods are allowed too
        allowed = {
            operation.method
            for operation in description.operations
            if operation.path == path or (path, operation.path) == BATCH_AND_PAYMENT
        }
        for method in set(METHODS) - allowed:
            answer = route_for(description, method, example(path))["direct_response"]
            assert answer["status"] == 405
            assert f'"{path}"' in answer["body"]["inline_string"]


BATCH_AND_PAYMENT = ("/v1/payments/batch", "/v1/payments/{payment_id}")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/v1",
        "/v1/",
        "/v1/paymentsx",
        "/v1/payments;x",
        "/v1/payments//events",
        "/v1/payments/a/b",
        "/v1/payments/a/events/b",
        "/V1/payments",
        "/problems",
        "/problems/",
        "/xwell-known/jwks.json",
        "/livez",
        "/readyz",
        "/docs",
        "/openapi.json",
    ],
)
def test_an_unlisted_path_is_404_for_every_method(description, path):
    for method in METHODS:
        assert route_for(description, method, path)["direct_response"]["status"] == 404


def test_every_forwarding_route_says_whether_it_asks_for_a_token(description):
    providers = {operation.operation_id: operation.provider for operation in description.operations}
    for route in routes_of(description):
        setting = route["typed_per_filter_config"][JWT_FILTER]
        if provider := providers.get(route["name"]):
            assert setting["requirement_name"] == provider
            assert "disabled" not in setting
        else:
            assert setting["disabled"] is True


def test_the_token_is_taken_from_the_authorization_header_only(description):
    document = configuration(description, 8080, jwks_cache_seconds=10)
    manager = document["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    provider = manager["http_filters"][1]["typed_config"]["providers"]["access_token"]
    assert provider["from_headers"] == [{"name": "Authorization", "value_prefix": "Bearer "}]
    assert "from_params" not in provider
    assert provider["issuer"] == ADDRESS.token_issuer
    assert provider["audiences"] == [ADDRESS.token_audience]


def test_nothing_but_the_loopback_interface_is_used(description):
    document = configuration(description, 8080, jwks_cache_seconds=10)
    text = str(document)
    assert "admin" not in document
    assert set(re.findall(r"'address': '([^']*)', 'port_value'", text)) == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("found", "replacement", "complaint"),
    [
        ("http://127.0.0.1:8081\n", "https://gateway.example.com\n", "loopback"),
        ("http://127.0.0.1:8081\n", "http://192.0.2.1:8081\n", "loopback"),
        ("http://127.0.0.1:8081/.well-known", "https://keys.example.com/.well-known", "loopback"),
        ("APPEND_PATH_TO_ADDRESS", "CONSTANT_ADDRESS", "APPEND_PATH_TO_ADDRESS"),
        ("jwt_audience", "x-audience", "identity token"),
        ("/problems/{slug}", "/problems/x{slug}", "one whole segment"),
        ("- access_token: []", "- another: []", "security"),
        ("operationId: get_payment", "operationId: list_payments", "operationId"),
        ("x-google-jwt-locations", "x-other", "x-google-jwt-locations"),
        ('swagger: "2.0"', 'openapi: "3.0.0"', "OpenAPI 2.0"),
        ("schemes:", "x-google-allow: all\nschemes:", "x-google-allow"),
    ],
)
def test_what_the_edge_can_not_do_is_an_error(found, replacement, complaint):
    assert found in FILLED_IN
    with pytest.raises(DescriptionError, match=re.escape(complaint)):
        read_description(FILLED_IN.replace(found, replacement))


def test_a_variable_without_a_value_is_an_error():
    values = {name: value for name, value in ADDRESS.variables().items() if name != "jwks_uri"}
    with pytest.raises(DescriptionError, match="jwks_uri"):
        fill_in(TEMPLATE, values)


def test_an_operations_own_deadline_wins(description):
    deadlines = {operation.operation_id: operation.deadline_seconds for operation in description.operations}
    assert deadlines["create_payments"] > deadlines["create_payment"]
    changed = dataclasses.replace(description.operations[0], deadline_seconds=1.5)
    only = dataclasses.replace(description, operations=(changed,))
    assert routes_of(only)[0]["route"]["timeout"] == "1.5s"
