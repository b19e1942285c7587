"""The real Envoy before a gateway that records what arrives: what passes, changed how, and what does not."""

import base64
import hmac
import json

import pytest
from edge_stage import AUDIENCE, ISSUER, from_base64url, new_key, token_by

from devstack.edge.routes import BACKEND_TOKEN

pytestmark = pytest.mark.integration

STRANGER = new_key("2026-01")


def encoded(value):
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def made_by_hand(header, signature=lambda _signed: b""):
    """A token as no library makes it."""
    claims = {"iss": ISSUER, "aud": AUDIENCE, "exp": 4102444800}
    signed = ".".join(encoded(json.dumps(part).encode()) for part in (header, claims))
    return f"{signed}.{encoded(signature(signed.encode()))}"


def unsigned_token(_key):
    return made_by_hand({"alg": "none", "typ": "at+jwt"})


def token_by_the_public_key(key):
    """The confusion of a public RSA key with a shared secret."""
    secret = key.as_pem(private=False)
    header = {"alg": "HS256", "typ": "at+jwt", "kid": key.kid}
    return made_by_hand(header, lambda signed: hmac.digest(secret, signed, "sha256"))


def tampered(key):
    header, _, signature = token_by(key).split(".")
    claims = token_by(key, partner_id="par_2").split(".")[1]
    return f"{header}.{claims}.{signature}"


def own_answer(answer, status):
    """What the edge says itself: its JSON, and nothing from the gateway."""
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/json")
    assert set(answer.json) == {"code", "message"}
    assert answer.json["code"] == status
    return answer.json["message"]


def test_without_a_token_the_answer_is_401_in_googles_form(edge, gateway):
    answer = edge.call("GET", "/v1/payments")
    assert own_answer(answer, 401) == "Jwt is missing"
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
    assert gateway.arrived == []


@pytest.mark.parametrize(
    "make",
    [
        lambda _key: "garbage",
        lambda _key: "a.b.c",
        lambda key: token_by(key, exp=1),
        lambda key: token_by(key, nbf=4102444800),
        lambda key: token_by(key, iss="https://other.test"),
        lambda key: token_by(key, iss=None),
        lambda key: token_by(key, {"kid": "../../etc/passwd"}),
        lambda _key: token_by(STRANGER),
        unsigned_token,
        token_by_the_public_key,
        tampered,
    ],
    ids=[
        "garbage", "not-json", "expired", "not-yet-valid", "other-issuer", "no-issuer", "kid-is-a-path",
        "strangers-key", "unsigned", "signed-by-the-public-key", "tampered",
    ],
)  # fmt: skip
def test_a_token_that_is_not_ours_is_401(edge, gateway, make):
    answer = edge.call("GET", "/v1/payments", token=make(gateway.keys[0]))
    assert own_answer(answer, 401).startswith("Jw")
    assert gateway.arrived == []


@pytest.mark.parametrize("audience", ["https://other.test", None, []])
def test_a_token_for_another_audience_is_403_as_google_has_it(edge, gateway, audience):
    answer = edge.call("GET", "/v1/payments", token=token_by(gateway.keys[0], aud=audience))
    assert own_answer(answer, 403) == "Audiences in Jwt are not allowed"
    assert gateway.arrived == []


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/v1/payments?access_token={}", {}),
        ("/v1/payments", {"X-Goog-Iap-Jwt-Assertion": "{}"}),
        ("/v1/payments", {"X-Forwarded-Authorization": "Bearer {}"}),
        ("/v1/payments", {"Authorization": "Basic {}"}),
        ("/v1/payments", {"Cookie": "access_token={}"}),
    ],
)
def test_a_token_anywhere_but_in_authorization_is_none(edge, gateway, token, target, headers):
    sent = {name: value.format(token) for name, value in headers.items()}
    assert own_answer(edge.call("GET", target.format(token), sent), 401) == "Jwt is missing"
    assert gateway.arrived == []


def test_a_valid_token_arrives_moved_with_its_claims_beside_it(edge, gateway, token):
    answer = edge.call("POST", "/v1/payments?a=1&b=%2F", {"Idempotency-Key": "k"}, b'{"x": 1}', token=token)
    assert (answer.status, answer.json) == (200, {"from": "gateway"})
    [arrived] = gateway.arrived
    assert (arrived.method, arrived.target, arrived.body) == ("POST", "/v1/payments?a=1&b=%2F", b'{"x": 1}')
    assert arrived.headers.get_all("X-Forwarded-Authorization") == [f"Bearer {token}"]
    assert arrived.headers.get_all("Authorization") == [BACKEND_TOKEN]
    [userinfo] = arrived.headers.get_all("X-Apigateway-Api-Userinfo")
    assert "=" not in userinfo
    assert json.loads(from_base64url(userinfo))["partner_id"] == "par_1"
    assert arrived.headers["Idempotency-Key"] == "k"
    assert arrived.headers["Host"] == f"127.0.0.1:{gateway.port}"


FORGED = {
    "X-Forwarded-Authorization": "Bearer forged",
    "X-Apigateway-Api-Userinfo": encoded(b'{"partner_id": "par_2"}'),
}


def test_forged_headers_of_the_edge_are_overwritten(edge, gateway, token):
    assert edge.call("GET", "/v1/payments", FORGED, token=token).status == 200
    [arrived] = gateway.arrived
    assert arrived.headers.get_all("X-Forwarded-Authorization") == [f"Bearer {token}"]
    [userinfo] = arrived.headers.get_all("X-Apigateway-Api-Userinfo")
    assert json.loads(from_base64url(userinfo))["partner_id"] == "par_1"


@pytest.mark.parametrize(
    ("method", "target"), [("GET", "/problems/not-found"), ("POST", "/oauth2/token"), ("GET", "/problems/x/")]
)
def test_forged_headers_of_the_edge_do_not_arrive_on_open_routes_either(edge, gateway, method, target):
    assert edge.call(method, target, FORGED).status == 200
    [arrived] = gateway.arrived
    assert "X-Forwarded-Authorization" not in arrived.headers
    assert "X-Apigateway-Api-Userinfo" not in arrived.headers
    assert arrived.headers.get_all("Authorization") == [BACKEND_TOKEN]


def test_a_header_that_only_looks_like_the_edges_to_wsgi_is_refused(edge, gateway, token):
    for name in ("X_Forwarded_Authorization", "X_Apigateway_Api_Userinfo"):
        own_answer(edge.call("GET", "/v1/payments", {name: "forged"}, token=token), 400)
    assert gateway.arrived == []


def test_the_token_route_takes_basic_without_a_token(edge, gateway):
    basic = "Basic " + base64.b64encode(b"client:secret").decode()
    form = b"grant_type=client_credentials"
    assert edge.call("POST", "/oauth2/token", {"Authorization": basic}, form).status == 200
    [arrived] = gateway.arrived
    assert arrived.headers.get_all("X-Forwarded-Authorization") == [basic]
    assert arrived.headers.get_all("Authorization") == [BACKEND_TOKEN]
    assert arrived.body == form


@pytest.mark.parametrize("target", ["/", "/nowhere", "/v1", "/livez", "/readyz", "/docs", "/openapi.json"])
def test_an_unlisted_path_is_404_in_googles_form(edge, gateway, token, target):
    answer = edge.call("GET", target, token=token)
    assert own_answer(answer, 404) == "The current request is not defined by this API."
    assert gateway.arrived == []


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("DELETE", "/v1/payments"),
        ("PUT", "/v1/payments/pay_1"),
        ("GET", "/oauth2/token"),
        ("POST", "/v1/events"),
    ],
)
def test_a_wrong_method_is_405_in_googles_form_with_or_without_a_token(edge, gateway, token, method, target):
    for sent in (token, None):
        message = own_answer(edge.call(method, target, token=sent), 405)
        assert message.endswith("but its http method is not allowed")
    assert gateway.arrived == []


def test_head_is_not_get(edge, gateway, token):
    assert edge.call("HEAD", "/v1/payments", token=token).status == 405
    assert gateway.arrived == []


@pytest.mark.parametrize(
    "target",
    [
        "/v1/payments/../admin",
        "/v1/payments/%2e%2e/admin",
        "/v1/payments/..",
        "/v1/payments\\..\\admin",
        "/v1/payments;/../admin",
        "/v1/payments;x=1",
        "/v1%2fpayments",
        "/%76%31;/payments",
        "/V1/payments",
        "/problems/../livez",
        "//livez",
        "/./readyz",
    ],
)
def test_a_trick_does_not_reach_an_unlisted_path(edge, gateway, token, target):
    own_answer(edge.call("GET", target, token=token), 404)
    assert gateway.arrived == []


@pytest.mark.parametrize("target", ["/v1/payments/%00", "/v1/payments#/oauth2/token"])
def test_a_path_that_can_not_be_one_is_400(edge, gateway, token, target):
    own_answer(edge.call("GET", target, token=token), 400)
    assert gateway.arrived == []


@pytest.mark.parametrize(
    ("target", "arrives_as"),
    [
        ("//v1//payments", "/v1/payments"),
        ("/problems/../v1/payments", "/v1/payments"),
        ("/v1/payments/./pay_1", "/v1/payments/pay_1"),
        ("/v1\\payments", "/v1/payments"),
        ("/v1/payments/", "/v1/payments/"),
        ("/v1/payments/pay_1;x", "/v1/payments/pay_1;x"),
        ("/v1/payments/a%20b", "/v1/payments/a%20b"),
        # one segment to the edge, more to a server that decodes it: the gateway has to hold by itself
        ("/v1/payments/..%2F..%2Freadyz", "/v1/payments/..%2F..%2Freadyz"),
    ],
)
def test_a_path_is_normalized_before_it_is_matched_and_the_token_is_still_asked_for(
    edge, gateway, token, target, arrives_as
):
    own_answer(edge.call("GET", target), 401)
    assert gateway.arrived == []
    assert edge.call("GET", target, token=token).status == 200
    assert [arrived.target for arrived in gateway.arrived] == [arrives_as]
