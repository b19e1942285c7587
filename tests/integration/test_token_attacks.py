"""What an attacker sends in place of a token or of proving who it is: refused, and nothing is given away."""

import base64
import json

import pytest
from bridge_tokens import encode
from cryptography.hazmat.primitives.asymmetric import ec
from gateway_stage import AUDIENCE, ISSUER, NOW, SECRET, GatewayStage, basic, keys, new_payment, pem, rsa_key
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey
from joserfc.jws import JWSRegistry
from partner_documents import changed

from bridge.money import Money
from bridge.partner import Client
from gateway.receipts import Receipts

pytestmark = pytest.mark.integration

MOMENT = int(NOW.timestamp())
SIGNING = keys().token.signing(NOW)
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
TOKEN_ENDPOINT = f"{ISSUER}/oauth2/token"
RSA_JWK = RSAKey.import_key(pem(rsa_key(7)))
EC_JWK = ECKey.import_key(pem(ec.generate_private_key(ec.SECP256R1())))
FOREIGN_JWK = RSAKey.import_key(pem(rsa_key(8)))


def public(key, kid):
    return key.as_dict(private=False) | {"kid": kid}


@pytest.fixture
def stage(database):
    made = with_a_client_that_signs(GatewayStage(database))
    yield made
    made.close()


@pytest.fixture(scope="module")
def door():
    """The app without a database: whoever gets as far as that is answered 503, and nothing is written."""
    made = with_a_client_that_signs(GatewayStage())
    yield made
    made.close()


def with_a_client_that_signs(stage):
    signing = Client(client_id="signer", public_keys=(public(RSA_JWK, "r1"), public(EC_JWK, "e1")))
    stage.store.put(changed(stage.partner, clients=(*stage.partner.clients, signing)), 1)
    return stage


def claims(stage, **changes):
    good = {
        "iss": ISSUER, "aud": AUDIENCE, "sub": "acme", "iat": MOMENT, "exp": MOMENT + 900, "jti": "1",
        "client_id": "acme", "scope": "payments:read payments:write", "partner_id": stage.partner.partner_id,
    } | changes  # fmt: skip
    return {name: value for name, value in good.items() if value is not ...}


def signed(claims, *, key=SIGNING.key, **header):
    return encode({"alg": "RS256", "typ": "at+jwt", "kid": SIGNING.kid} | header, claims, key)


def list_with(stage, token, **headers):
    headers = {"Authorization": f"Bearer {token}"} | headers
    return stage.app.test_client().get("/v1/payments", headers=headers)


def part(document):
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


def deep(levels):
    return base64.urlsafe_b64encode(b"[" * levels).rstrip(b"=").decode()


def receipt(stage):
    made = Receipts(keys().receipt, ISSUER).sign(
        payment_id="pay_1", external_id="INV-1", amount=Money(100, "EUR"), body=b"{}", accepted_at=NOW
    )
    assert made.count(".") == 2
    return made


def tampered(stage):
    head, _, signature = signed(claims(stage)).split(".")
    return f"{head}.{part(claims(stage, scope='payments:read payments:write webhooks:write'))}.{signature}"


def as_hmac_secret(stage, encoding):
    public_key = SIGNING.key.as_pem(private=False) if encoding == "pem" else SIGNING.key.as_der(private=False)
    secret = OctKey.import_key(base64.urlsafe_b64encode(public_key).rstrip(b"="))
    return signed(claims(stage), key=secret, alg="HS256")


ATTACKS = {
    "alg none": lambda s: f"{part({'alg': 'none', 'typ': 'at+jwt', 'kid': SIGNING.kid})}.{part(claims(s))}.",
    "alg None": lambda s: f"{part({'alg': 'None', 'typ': 'at+jwt', 'kid': SIGNING.kid})}.{part(claims(s))}.",
    "no alg": lambda s: f"{part({'typ': 'at+jwt', 'kid': SIGNING.kid})}.{part(claims(s))}.",
    "HS256 with the public key (PEM)": lambda s: as_hmac_secret(s, "pem"),
    "HS256 with the public key (DER)": lambda s: as_hmac_secret(s, "der"),
    "RS384": lambda s: signed(claims(s), alg="RS384"),
    "another issuer": lambda s: signed(claims(s, iss="https://evil.example")),
    "another audience": lambda s: signed(claims(s, aud="https://other.example")),
    "no audience": lambda s: signed(claims(s, aud=...)),
    "an id token's type": lambda s: signed(claims(s), typ="JWT"),
    "no type": lambda s: signed(claims(s), typ=None),
    "a receipt": receipt,
    "a receipt's type": lambda s: signed(claims(s), typ="receipt+jws"),
    "a client assertion": lambda _: assertion(),
    "an assertion's type": lambda s: signed(claims(s), typ="client-authentication+jwt"),
    "expired": lambda s: signed(claims(s, iat=MOMENT - 900, exp=MOMENT)),
    "never expires": lambda s: signed(claims(s, exp=...)),
    "not yet valid": lambda s: signed(claims(s, nbf=MOMENT + 60)),
    "issued tomorrow": lambda s: signed(claims(s, iat=MOMENT + 86_400, exp=MOMENT + 87_300)),
    "expires at infinity": lambda s: signed(
        json.dumps(claims(s)).replace(str(MOMENT + 900), "Infinity").encode()
    ),
    "unknown kid": lambda s: signed(claims(s), kid="20261121T000000Z-other"),
    "no kid": lambda s: signed(claims(s), kid=None),
    "kid of a path": lambda s: signed(claims(s), kid=f"../token-signing/{SIGNING.kid}"),
    "kid of an absolute path": lambda s: signed(claims(s), kid="/etc/passwd"),
    "kid with a zero byte": lambda s: signed(claims(s), kid=f"{SIGNING.kid}\0"),
    "kid of a number": lambda s: signed(claims(s), kid=0),
    "kid of a list": lambda s: signed(claims(s), kid=[SIGNING.kid]),
    "its own key in jwk": lambda s: signed(claims(s), key=FOREIGN_JWK, jwk=public(FOREIGN_JWK, SIGNING.kid)),
    "its own keys at jku": lambda s: signed(claims(s), key=FOREIGN_JWK, jku="http://127.0.0.1:9/jwks.json"),
    "its own certificate at x5u": lambda s: signed(
        claims(s), key=FOREIGN_JWK, x5u="http://127.0.0.1:9/c.pem"
    ),
    "its own certificate in x5c": lambda s: signed(claims(s), key=FOREIGN_JWK, x5c=["MIIB"]),
    "a critical header": lambda s: signed(claims(s), crit=["exp"], exp=MOMENT + 900),
    "an unencoded payload": lambda s: signed(claims(s), crit=["b64"], b64=False),
    "tampered": tampered,
    "without its signature": lambda s: signed(claims(s)).rpartition(".")[0] + ".",
    "another's signature": lambda s: signed(claims(s), key=FOREIGN_JWK),
    "claims of a list": lambda _: signed(b"[]"),
    "deep claims": lambda _: signed(b"[" * 3000),
    "a deep header": lambda s: f"{deep(2500)}.{part(claims(s))}.AAAA",
    "a header of a list": lambda s: f"{part([1])}.{part(claims(s))}.AAAA",
    "a header of a text": lambda s: f"{part('RS256')}.{part(claims(s))}.AAAA",
    "oversized": lambda s: signed(claims(s, filler="x" * 20_000)),
    "not a token": lambda _: "x" * 100_000,
    "five parts": lambda _: ".".join([part({})] * 5),
    "another partner's client": lambda s: signed(claims(s, client_id="other")),
    "another partner's id": lambda s: signed(claims(s, partner_id=s.stranger.partner_id)),
    "a partner id of a path": lambda s: signed(claims(s, partner_id="par_../../x")),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_no_token_of_ours_is_refused_and_told_nothing(door, attack):
    answer = list_with(door, ATTACKS[attack](door))
    assert answer.status_code == 401
    challenge = answer.headers["WWW-Authenticate"]
    assert challenge == 'Bearer realm="partner-payments-bridge", error="invalid_token"'
    assert answer.content_type == "application/problem+json"
    # whatever was wrong, the words are the same but for the client that is gone
    assert answer.json["detail"] in {
        "The access token is expired or not one of ours.",
        "The access token's client is no longer known.",
    }
    assert set(answer.json) == {"type", "title", "status", "detail"}


def test_the_token_that_the_attacks_are_made_of_is_good(stage):
    assert list_with(stage, signed(claims(stage))).status_code == 200
    # what a header may carry without being looked at
    assert list_with(stage, signed(claims(stage), jku="http://127.0.0.1:9/jwks.json")).status_code == 200


def test_another_partners_payment_is_not_there(stage):
    payment_id = stage.pay().json["id"]
    for method, rest in [("GET", ""), ("GET", "/events"), ("POST", "/captures"), ("POST", "/cancellations")]:
        options = {"json": {}, "headers": {"Idempotency-Key": "k"}} if method == "POST" else {}
        path = f"/v1/payments/{payment_id}{rest}"
        assert stage.call(method, path, "acme", **options).status_code != 404
        answer = stage.call(method, path, "other", **options)
        assert answer.status_code == 404
        nobodys = stage.call(method, path.replace(payment_id, f"pay_{'0' * 26}"), "other", **options)
        assert answer.json == nobodys.json


def test_a_missing_scope_is_named(stage):
    answer = stage.pay(client_id="reader")
    assert answer.status_code == 403
    assert 'error="insufficient_scope", scope="payments:write"' in answer.headers["WWW-Authenticate"]


def test_a_suspended_partner_is_told_so_and_gets_no_token(stage):
    token = stage.token()
    standing = stage.store.get(stage.partner.partner_id)
    stage.store.put(changed(standing, status="suspended"), standing.version)
    answer = list_with(stage, token)
    assert answer.status_code == 403
    assert answer.json["type"].endswith("/problems/partner-suspended")
    asked = ask(stage, {}, headers=basic())
    assert (asked.status_code, asked.json["error"]) == (400, "unauthorized_client")
    asked = ask(stage, by_assertion(assertion()))
    assert (asked.status_code, asked.json["error"]) == (400, "unauthorized_client")


def test_a_revoked_client_is_out(stage):
    token = stage.token()
    standing = stage.store.get(stage.partner.partner_id)
    revoked = [one.model_copy(update={"status": "revoked"}) for one in standing.clients]
    stage.store.put(changed(standing, clients=revoked), standing.version)
    assert list_with(stage, token).status_code == 401
    assert refused(ask(stage, {}, headers=basic()))
    assert refused(ask(stage, by_assertion(assertion())))


def test_the_unsigned_user_info_is_never_read(stage):
    forged = part(claims(stage, client_id="other", partner_id=stage.stranger.partner_id))
    header = {"X-Apigateway-Api-Userinfo": forged}
    assert stage.app.test_client().get("/v1/payments", headers=header).status_code == 401
    payment_id = stage.pay().json["id"]
    mine = list_with(stage, signed(claims(stage)), **header)
    assert [payment["id"] for payment in mine.json["data"]] == [payment_id]


def test_of_two_authorization_headers_neither_counts(stage):
    good, bad = f"Bearer {signed(claims(stage))}", "Bearer x.y.z"
    for values in ([good, bad], [bad, good], [good, good]):
        headers = [("Authorization", value) for value in values]
        # as gunicorn hands them over
        joined = stage.app.test_client().get("/v1/payments", headers={"Authorization": ",".join(values)})
        assert joined.status_code == 400
        assert stage.app.test_client().get("/v1/payments", headers=headers).status_code == 400


# The token endpoint: assertions (RFC 7523)


def assertion(*, key=RSA_JWK, header=None, **changes):
    claims = {
        "iss": "signer", "sub": "signer", "aud": TOKEN_ENDPOINT,
        "iat": MOMENT, "exp": MOMENT + 60, "jti": "a-1",
    } | changes  # fmt: skip
    kept = {name: value for name, value in claims.items() if value is not ...}
    algorithm = "ES256" if key is EC_JWK else "RS256"
    head = {"alg": algorithm} | ({"kid": "r1" if key is RSA_JWK else "e1"} if header is None else header)
    return jwt.encode(head, kept, key, algorithms=["RS256", "ES256"])


def by_assertion(value, **more):
    return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": value} | more


def ask(stage, form, headers=None):
    form = {"grant_type": "client_credentials"} | form
    return stage.app.test_client().post("/oauth2/token", data=form, headers=headers)


def refused(answer):
    assert answer.json == {
        "error": "invalid_client",
        "error_description": "The client is unknown or has not proved that it is it.",
    }
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.status_code == 401 and answer.headers["WWW-Authenticate"].startswith("Basic ")


@pytest.mark.parametrize("key", [RSA_JWK, EC_JWK], ids=["RS256", "ES256"])
@pytest.mark.parametrize("audience", [TOKEN_ENDPOINT, ISSUER, [ISSUER]], ids=str)
def test_a_client_that_signs_gets_a_token_that_works(stage, key, audience):
    answer = ask(stage, by_assertion(assertion(key=key, aud=audience), client_id="signer"))
    assert answer.status_code == 200
    assert list_with(stage, answer.json["access_token"]).status_code == 200


def test_an_assertion_needs_no_kid_when_only_one_key_fits(stage):
    assert ask(stage, by_assertion(assertion(header={}))).status_code == 200


def test_header_members_of_an_assertion_that_nobody_knows_are_ignored(stage):
    """RFC 7515 section 4: they used to make the assertion one that does not verify."""
    headers = encode_with_unknown_member()
    assert ask(stage, by_assertion(headers)).status_code == 200


def encode_with_unknown_member():
    claims = {"iss": "signer", "sub": "signer", "aud": TOKEN_ENDPOINT, "exp": MOMENT + 60, "jti": "a-1"}
    lenient = JWSRegistry(algorithms=["RS256"], strict_check_header=False)
    header = {"alg": "RS256", "kid": "r1", "vendor.example/trace": "7"}
    return jwt.encode(header, claims, RSA_JWK, registry=lenient)


def test_an_assertion_is_good_once(stage):
    used = assertion()
    assert ask(stage, by_assertion(used)).status_code == 200
    assert refused(ask(stage, by_assertion(used)))
    # nor is another one with its jti, nor from another instance
    assert refused(ask(stage, by_assertion(assertion(key=EC_JWK))))
    assert ask(stage, by_assertion(assertion(jti="a-2"))).status_code == 200
    assert len(stage.rows("client_assertions")) == 2


def test_spent_assertions_are_forgotten_when_their_time_is_over(stage):
    assert ask(stage, by_assertion(assertion())).status_code == 200
    stage.clock.advance(600)
    later = assertion(jti="a-2", iat=MOMENT + 600, exp=MOMENT + 660)
    assert ask(stage, by_assertion(later)).status_code == 200
    assert [row["jti"] for row in stage.rows("client_assertions")] == ["a-2"]
    assert refused(ask(stage, by_assertion(assertion())))


BAD_ASSERTIONS = {
    "another's key": lambda: assertion(key=FOREIGN_JWK, header={"kid": "r1"}),
    "unknown kid": lambda: assertion(header={"kid": "r2"}),
    "its own key in jwk": lambda: assertion(key=FOREIGN_JWK, header={"jwk": public(FOREIGN_JWK, "r1")}),
    "its own keys at jku": lambda: assertion(key=FOREIGN_JWK, header={"jku": "http://127.0.0.1:9/"}),
    "a token's type": lambda: assertion(header={"kid": "r1", "typ": "at+jwt"}),
    "a critical header": lambda: encode({"alg": "RS256", "kid": "r1", "crit": ["exp"]}, {}, RSA_JWK),
    "a critical header that is known": lambda: assertion(header={"kid": "r1", "crit": ["kid"]}),
    "RS384": lambda: encode({"alg": "RS384", "kid": "r1"}, {"sub": "signer"}, RSA_JWK),
    "HS256 with the public key": lambda: encode(
        {"alg": "HS256", "kid": "r1"},
        {"sub": "signer"},
        OctKey.import_key(base64.urlsafe_b64encode(RSA_JWK.as_pem(private=False)).rstrip(b"=")),
    ),
    "alg none": lambda: f"{part({'alg': 'none', 'kid': 'r1'})}.{part({'sub': 'signer'})}.",
    "of a client with a secret": lambda: assertion(iss="acme", sub="acme"),
    "issued by another": lambda: assertion(iss="acme"),
    "about another": lambda: assertion(sub="acme"),
    "for another audience": lambda: assertion(aud="https://other.example"),
    "for another audience too": lambda: assertion(aud=[ISSUER, "https://other.example"]),
    "for no audience": lambda: assertion(aud=...),
    "expired": lambda: assertion(exp=MOMENT),
    "never expires": lambda: assertion(exp=...),
    "good for an hour": lambda: assertion(exp=MOMENT + 3600),
    "expires as a text": lambda: assertion(exp=str(MOMENT + 60)),
    "not yet valid": lambda: assertion(nbf=MOMENT + 60),
    "from the future": lambda: assertion(iat=MOMENT + 60),
    "without jti": lambda: assertion(jti=...),
    "with a long jti": lambda: assertion(jti="x" * 256),
    "with a zero byte in jti": lambda: assertion(jti="a\0b"),
    "an access token": lambda: signed({"iss": "signer", "sub": "signer"}),
    "not a JWT": lambda: "abc",
    "no base64": lambda: "a.!.c",
    "a list": lambda: f"{part({})}.{part([])}.x",
    "a deep header": lambda: f"{deep(2500)}.{part({'sub': 'signer'})}.AAAA",
    "a header of a list": lambda: f"{part([1])}.{part({'sub': 'signer'})}.AAAA",
    "deep": lambda: f"{part({})}.{base64.urlsafe_b64encode(b'[' * 5000).decode()}.x",
    "oversized": lambda: assertion(filler="x" * 9000),
}


@pytest.mark.parametrize("attack", BAD_ASSERTIONS)
def test_what_does_not_prove_the_client_is_refused_before_anything_is_written(door, attack):
    assert refused(ask(door, by_assertion(BAD_ASSERTIONS[attack]())))


def test_a_good_assertion_is_not_taken_when_it_cannot_be_written_down(door):
    assert ask(door, by_assertion(assertion())).status_code == 503


def test_nobodys_assertion_is_refused_in_the_same_words(stage):
    assert refused(ask(stage, by_assertion(assertion(iss="nobody", sub="nobody"))))


def test_another_client_id_beside_the_assertion_is_refused(stage):
    assert refused(ask(stage, by_assertion(assertion(), client_id="acme")))


def test_a_client_without_a_secret_has_no_empty_one(stage):
    for secret in ("", "x"):
        assert ask(stage, {}, headers=basic("signer", secret)).status_code == 401


def test_only_one_way_of_authentication_at_a_time(stage):
    secret = {"client_id": "acme", "client_secret": SECRET}
    for form, headers in (
        (secret, basic()),
        (by_assertion(assertion()), basic()),
        (by_assertion(assertion()) | secret, None),
        ({"client_assertion_type": ASSERTION_TYPE}, basic()),
        ({"client_id": "other"}, basic()),
    ):
        answer = ask(stage, form, headers)
        assert (answer.status_code, answer.json["error"]) == (400, "invalid_request")
    assert stage.rows("client_assertions") == []


def test_another_kind_of_assertion_is_no_authentication(stage):
    for form in (
        {"client_assertion": assertion()},
        {"client_assertion_type": ASSERTION_TYPE},
        by_assertion(assertion())
        | {"client_assertion_type": "urn:ietf:params:oauth:grant-type:saml2-bearer"},
    ):
        answer = ask(stage, form)
        assert (answer.status_code, answer.json["error"]) == (401, "invalid_client")


def test_a_payment_by_a_client_that_signs(stage):
    token = ask(stage, by_assertion(assertion())).json["access_token"]
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "k-1"}
    answer = stage.app.test_client().post("/v1/payments", json=new_payment(), headers=headers)
    assert answer.status_code == 202
