"""Every route is public by name or closed; everything that goes wrong is a problem document."""

import re

import pytest
from gateway_stage import GatewayStage

from gateway.app import create_app
from gateway.authorization import PUBLIC_ENDPOINTS, require_declared_routes

pytestmark = pytest.mark.unit

# The one list of what needs no token; adding to it is a decision.
PUBLIC_ROUTES = {
    "/livez",
    "/readyz",
    "/oauth2/token",
    "/.well-known/oauth-authorization-server",
    "/.well-known/jwks.json",
    "/.well-known/receipt-keys.json",
    "/problems/<slug>",
    "/openapi.json",
    "/docs",
}


@pytest.fixture(scope="module")
def stage():
    made = GatewayStage()
    yield made
    made.close()


def slug(answer):
    assert answer.content_type == "application/problem+json"
    assert answer.json["status"] == answer.status_code
    return answer.json["type"].removeprefix("https://payments.example/problems/")


def test_each_route_is_public_by_name_or_answers_401_without_a_token(stage):
    walked = 0
    for rule in stage.app.url_map.iter_rules():
        if rule.rule in PUBLIC_ROUTES:
            assert rule.endpoint in PUBLIC_ENDPOINTS
            continue
        path = re.sub(r"<.*payment_id>", "pay_" + "0" * 26, rule.rule)
        for method in rule.methods:
            answer = stage.app.test_client().open(path, method=method)
            assert answer.status_code == 401, (method, path)
            walked += 1
    assert walked >= 5


def test_an_undeclared_route_keeps_the_service_from_starting(stage):
    app = GatewayStage().app
    app.add_url_rule("/v1/secrets", endpoint="secrets", view_func=lambda: "secret")
    with pytest.raises(RuntimeError, match="/v1/secrets"):
        require_declared_routes(app)
    answer = app.test_client().get("/v1/secrets")
    assert (answer.status_code, slug(answer)) == (500, "internal-error")
    assert callable(create_app)


@pytest.mark.parametrize("path", ["/", "/v2/payments", "//v1/payments", "/v1/payments/", "/v1//payments"])
def test_an_unknown_path_is_a_problem(stage, path):
    answer = stage.app.test_client().get(path)
    assert (answer.status_code, slug(answer)) == (404, "not-found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/payments", {"GET", "HEAD", "POST"}),
        ("OPTIONS", "/v1/payments", {"GET", "HEAD", "POST"}),
        ("GET", "/oauth2/token", {"POST"}),
        ("TRACE", "/v1/events", {"GET", "HEAD"}),
    ],
)
def test_a_wrong_method_names_the_right_ones(stage, method, path, allowed):
    answer = stage.app.test_client().open(path, method=method)
    assert (answer.status_code, slug(answer)) == (405, "method-not-allowed")
    assert set(answer.headers["Allow"].split(", ")) == allowed


def test_without_a_database_it_is_unavailable_for_now(stage):
    answer = stage.pay()
    assert (answer.status_code, slug(answer)) == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    assert stage.app.test_client().get("/livez").status_code == 200
    ready = stage.app.test_client().get("/readyz")
    assert (ready.status_code, ready.json["missing"]) == (503, ["database"])


def test_every_answer_carries_a_request_id_and_hardening_headers(stage):
    caller = stage.app.test_client()
    for path in ("/livez", "/v1/payments", "/nowhere"):
        sent = caller.get(path, headers={"X-Request-ID": "abc-123"})
        assert sent.headers["X-Request-ID"] == "abc-123"
        made = caller.get(path)
        assert len(made.headers["X-Request-ID"]) == 36
        assert made.headers["X-Content-Type-Options"] == "nosniff"
        assert made.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("sent", ["", "x" * 129, "with space", "ümlaut"])
def test_an_invalid_request_id_is_replaced(stage, sent):
    answer = stage.app.test_client().get("/livez", headers={"X-Request-ID": sent})
    assert answer.headers["X-Request-ID"] != sent
    assert len(answer.headers["X-Request-ID"]) == 36


def test_the_type_of_a_problem_resolves_to_a_page(stage):
    answer = stage.app.test_client().get("/nowhere")
    page = stage.app.test_client().get(answer.json["type"].removeprefix("https://payments.example"))
    assert page.status_code == 200
    assert page.content_type == "text/html; charset=utf-8"
    assert answer.json["title"] in page.text
    assert stage.app.test_client().get("/problems/<script>").status_code == 404


def test_the_metadata_and_the_public_keys_are_there_for_everybody(stage):
    caller = stage.app.test_client()
    metadata = caller.get("/.well-known/oauth-authorization-server").json
    assert metadata["issuer"] == "https://payments.example"
    assert metadata["token_endpoint"] == "https://payments.example/oauth2/token"
    keys = caller.get("/.well-known/jwks.json")
    assert [key["kid"] for key in keys.json["keys"]] == ["20260101-old", "20261120T115500Z-new"]
    for key in keys.json["keys"]:
        assert set(key) == {"kty", "n", "e", "kid", "use", "alg"}
    assert keys.headers["Cache-Control"] == "public, max-age=300"
