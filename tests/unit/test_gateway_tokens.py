"""Only a token that this issuer has made, for this audience, now, for a living client, opens a route."""

import base64
import json

import pytest
from bridge_tokens import encode
from gateway_stage import AUDIENCE, ISSUER, NOW, GatewayStage, keys, pem, rsa_key
from joserfc.jwk import OctKey, RSAKey
from partner_documents import changed

from gateway.tokens import AccessTokens, InvalidTokenError

pytestmark = pytest.mark.unit
MOMENT = int(NOW.timestamp())
SIGNING = keys().token.signing(NOW)


@pytest.fixture
def stage():
    made = GatewayStage()
    yield made
    made.close()


def claims(stage, **changes):
    good = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "acme",
        "iat": MOMENT,
        "exp": MOMENT + 900,
        "jti": "1",
        "client_id": "acme",
        "scope": "payments:read payments:write",
        "partner_id": stage.partner.partner_id,
    }
    good.update(changes)
    return {name: value for name, value in good.items() if value is not ...}


def signed(claims, *, key=None, **header):
    key = key or SIGNING.key
    return encode({"alg": "RS256", "typ": "at+jwt", "kid": SIGNING.kid} | header, claims, key)


def get(stage, token, path="/v1/payments?limit=0", **headers):
    """`limit=0` is a 400 once the door is open: no database is needed to see that."""
    return stage.app.test_client().get(path, headers={"Authorization": f"Bearer {token}"} | headers)


def test_a_good_token_opens(stage):
    assert get(stage, signed(claims(stage))).status_code == 400


def test_a_token_of_the_older_key_is_good_until_the_key_goes(stage):
    old = keys().token.find("20260101-old", NOW)
    assert get(stage, signed(claims(stage), key=old, kid="20260101-old")).status_code == 400


def test_what_the_endpoint_issues_has_the_claims_of_the_contract(stage):
    token = stage.token("acme", ("payments:read",))
    header, payload = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2])
    assert header == {"alg": "RS256", "typ": "at+jwt", "kid": "20261120T115500Z-new"}
    assert payload.pop("jti")
    assert payload == claims(stage, jti=..., scope="payments:read")


BAD_CLAIMS = [
    {"iss": "https://evil.example"},
    {"iss": ...},
    {"aud": "https://other.example"},
    {"aud": ["https://other.example"]},
    {"aud": ...},
    {"exp": MOMENT},
    {"exp": ...},
    {"exp": str(MOMENT + 900)},
    {"exp": True},
    {"iat": MOMENT + 60},
    {"iat": ...},
    {"nbf": MOMENT + 60},
    {"client_id": ...},
    {"partner_id": ...},
    {"scope": ...},
    {"client_id": "other"},
    {"partner_id": 7},
]


@pytest.mark.parametrize("changes", BAD_CLAIMS, ids=str)
def test_a_token_with_other_claims_is_refused(stage, changes):
    answer = get(stage, signed(claims(stage, **changes)))
    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


def test_a_token_signed_otherwise_is_refused(stage):
    good = claims(stage)
    public = SIGNING.key.as_pem(private=False)
    foreign = RSAKey.import_key(pem(rsa_key(3)), {"kid": SIGNING.kid})
    for token in (
        signed(good, key=foreign),
        signed(good, kid="nobody"),
        signed(good, kid=None),
        signed(good, typ="JWT"),
        signed(good, typ=None),
        signed(good, typ="receipt+jws"),
        signed(good, alg="RS384"),
        signed(good, alg="PS256"),
        # the public key taken for an HMAC secret
        signed(good, alg="HS256", key=OctKey.import_key(base64.b64encode(public))),
        signed(good, crit=["exp"]),
    ):
        assert get(stage, token).status_code == 401


def test_a_token_without_a_signature_is_refused(stage):
    header = {"alg": "none", "typ": "at+jwt", "kid": SIGNING.kid}
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in (header, claims(stage))
    ]
    good = signed(claims(stage))
    for token in (
        ".".join(parts) + ".",
        good.rpartition(".")[0] + ".",
        good + "A",
        good[:-6] + "AAAAAA",
        good + "." + good,
        "x" * 9000,
        "\x7f",
    ):
        assert get(stage, token).status_code == 401


def test_claims_that_are_no_object_are_refused():
    tokens = AccessTokens(keys().token, issuer=ISSUER, audience=AUDIENCE, lifetime_seconds=900)
    for payload in (b"[]", b"1", b"not json", b"\xff"):
        with pytest.raises(InvalidTokenError):
            tokens.verify(
                encode(
                    {"alg": "RS256", "typ": "at+jwt", "kid": SIGNING.kid},
                    payload,
                    SIGNING.key,
                ),
                NOW,
            )


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic YTpi", "Token abc"])
def test_no_token_is_no_invalid_token(stage, header):
    answer = stage.app.test_client().get("/v1/payments", headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="partner-payments-bridge"'


def test_the_callers_header_is_preferred_to_the_one_that_the_edge_puts_in_its_place(stage):
    caller = stage.app.test_client()
    path = "/v1/payments?limit=0"
    good = f"Bearer {signed(claims(stage))}"
    edge = "Bearer the.edges.own"
    moved = {"Authorization": edge, "X-Forwarded-Authorization": good}
    assert caller.get(path, headers=moved).status_code == 400
    swapped = {"Authorization": good, "X-Forwarded-Authorization": edge}
    assert caller.get(path, headers=swapped).status_code == 401


def test_the_unsigned_user_info_header_opens_nothing(stage):
    info = base64.urlsafe_b64encode(json.dumps(claims(stage)).encode()).decode()
    answer = stage.app.test_client().get("/v1/payments", headers={"X-Apigateway-Api-Userinfo": info})
    assert answer.status_code == 401


def test_a_token_ends_with_its_time(stage):
    token = stage.token()
    stage.clock.advance(899)
    assert get(stage, token).status_code == 400
    stage.clock.advance(1)
    assert get(stage, token).status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/payments", "payments:write"),
        ("GET", "/v1/payments", "payments:read"),
        ("GET", "/v1/payments/pay_00000000000000000000000000", "payments:read"),
        ("GET", "/v1/payments/pay_00000000000000000000000000/events", "payments:read"),
        ("GET", "/v1/events", "events:read"),
    ],
)
def test_each_route_asks_for_its_scope(stage, method, path, scope):
    others = [other for other in stage.partner.clients[0].scopes if other != scope]
    token = signed(claims(stage, scope=" ".join(others)))
    answer = stage.app.test_client().open(path, method=method, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 403
    assert answer.json["type"].endswith("/problems/insufficient-scope")
    assert f'scope="{scope}"' in answer.headers["WWW-Authenticate"]


def test_a_scope_that_the_client_has_lost_is_gone_from_its_tokens(stage):
    token = signed(claims(stage, client_id="reader", scope="payments:read payments:write"))
    assert get(stage, token).status_code == 400
    answer = stage.app.test_client().post("/v1/payments", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 403


def test_a_suspended_partners_token_is_refused_at_the_next_look_up(stage):
    token = stage.token()
    assert get(stage, token).status_code == 400
    stage.store.put(changed(stage.partner, status="suspended"), 1)
    stage.clock.advance(60)
    answer = get(stage, token)
    assert answer.status_code == 403
    assert answer.json["type"].endswith("/problems/partner-suspended")


def test_a_revoked_clients_token_is_refused(stage):
    token = stage.token()
    assert get(stage, token).status_code == 400
    revoked = tuple(
        one.model_copy(update={"status": "revoked"}) if one.client_id == "acme" else one
        for one in stage.partner.clients
    )
    stage.store.put(changed(stage.partner, clients=revoked), 1)
    stage.clock.advance(60)
    assert get(stage, token).status_code == 401
