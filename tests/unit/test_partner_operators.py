"""Who may work on the private APIs: real signatures, a stand-in for Google's certificate address."""

import datetime as dt
import json
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import crypt, jwt
from google.auth.transport import Request

from bridge.clock import SystemClock
from bridge.errors import RejectedError
from bridge.gcp.operators import OperatorSettings, make_operator_authenticator

pytestmark = pytest.mark.unit

AUDIENCE = "https://partners.example"
OPERATOR = "olga@example.com"


def self_signed(key):
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        .decode()
    )


@pytest.fixture(scope="module")
def key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="module")
def authenticate(key):
    class Certificates(Request):
        def __call__(self, *_arguments, **_options):
            body = json.dumps({"k1": self_signed(key)}).encode()
            return SimpleNamespace(status=200, headers={}, data=body)

    settings = OperatorSettings.from_environment(
        {"OPERATOR_AUDIENCE": AUDIENCE, "OPERATORS": f"{OPERATOR}, oskar@example.com"}
    )
    return make_operator_authenticator(settings, SystemClock(), Certificates())


def header(key, **changes):
    now = int(dt.datetime.now(dt.UTC).timestamp())
    claims = {
        "iss": "https://accounts.google.com",
        "aud": AUDIENCE,
        "email": OPERATOR,
        "email_verified": True,
        "iat": now,
        "exp": now + 300,
    } | changes
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    token = jwt.encode(crypt.RSASigner.from_string(pem, key_id="k1"), claims).decode()
    return {"Authorization": f"Bearer {token}"}


def test_an_operator_is_named_by_the_token(authenticate, key):
    assert authenticate(header(key)) == OPERATOR


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"email": "mallory@example.com"}, 403),
        ({"email_verified": False}, 401),
        ({"email": None}, 401),
        ({"aud": "https://webhooks.example"}, 401),
        ({"iss": "https://accounts.example"}, 401),
        ({"exp": 1}, 401),
    ],
)
def test_a_token_of_anybody_else_is_refused(authenticate, key, changes, status):
    with pytest.raises(RejectedError) as refused:
        authenticate(header(key, **changes))
    assert refused.value.status == status


def test_a_token_of_another_key_is_refused(authenticate):
    with pytest.raises(RejectedError) as refused:
        authenticate(header(rsa.generate_private_key(public_exponent=65537, key_size=2048)))
    assert refused.value.status == 401


def test_a_name_alone_is_not_believed_where_tokens_are_asked_for(authenticate):
    with pytest.raises(RejectedError):
        authenticate({"X-Operator": OPERATOR})


@pytest.mark.parametrize("name", ["", "no body", "x" * 101, "new\nline"])
def test_a_local_name_has_to_be_one(name):
    believe = make_operator_authenticator(OperatorSettings("emulator", "", frozenset()), SystemClock())
    assert believe({"X-Operator": "olga"}) == "olga"
    with pytest.raises(RejectedError):
        believe({"X-Operator": name})
