"""Which OIDC tokens a private route takes: real signatures, a stand-in for Google's certificate address."""

import datetime as dt
import json
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import crypt, exceptions, jwt
from google.auth.transport import Request

from bridge.clock import ManualClock, SystemClock
from bridge.errors import RejectedError, SettingsError, TransientError
from bridge.gcp.identity import (
    MAX_STALE_SECONDS,
    CachedCertificates,
    CallerSettings,
    ServiceAccountVerifier,
    fresh_seconds,
    make_authenticator,
)

pytestmark = pytest.mark.unit

AUDIENCE = "https://adapter.example/push"
CALLER = "push@project.iam.gserviceaccount.com"
SETTINGS = CallerSettings("oidc", AUDIENCE, frozenset({CALLER}))


def key_and_certificate():
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    return pem, certificate.public_bytes(serialization.Encoding.PEM).decode()


PEM, CERTIFICATE = key_and_certificate()
FOREIGN_PEM, _ = key_and_certificate()


class Certificates(Request):
    """Google's address: `up` or not, `calls` so far."""

    def __init__(self, cache_control="max-age=3600"):
        self.up = True
        self.calls = 0
        self.headers = {"Cache-Control": cache_control}

    def __call__(self, *_arguments, **_options):
        self.calls += 1
        if not self.up:
            raise exceptions.TransportError("down")
        return SimpleNamespace(
            status=200, headers=self.headers, data=json.dumps({"k1": CERTIFICATE}).encode()
        )


def token(pem=PEM, **changes):
    now = int(SystemClock().now().timestamp())
    claims = {
        "iss": "https://accounts.google.com",
        "aud": AUDIENCE,
        "email": CALLER,
        "email_verified": True,
        "iat": now,
        "exp": now + 600,
    } | changes
    return "Bearer " + jwt.encode(crypt.RSASigner.from_string(pem, key_id="k1"), claims).decode()


def verify(header, certificates=None):
    ServiceAccountVerifier(SETTINGS, certificates or Certificates())(header)


def test_the_expected_service_accounts_token_is_taken():
    verify(token())


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Basic eA==",
        "Bearer ",
        "Bearer not.a.token",
        token(FOREIGN_PEM),
        token(aud="https://elsewhere.example"),
        token(iss="https://issuer.example"),
        token(email="somebody@example.com"),
        token(email_verified=False),
        token(email_verified="true"),
        token(exp=int(SystemClock().now().timestamp()) - 60),
    ],
)
def test_anything_else_is_unauthenticated(header):
    with pytest.raises(RejectedError) as caught:
        verify(header)
    assert caught.value.status == 401


def test_without_certificates_the_decision_is_put_off_and_not_made():
    certificates = Certificates()
    certificates.up = False
    with pytest.raises(TransientError):
        verify(token(), certificates)


def test_certificates_are_kept_as_long_as_their_cache_control_says():
    inner, clock = Certificates("public, max-age=3600"), ManualClock(SystemClock().now())
    cached = CachedCertificates(inner, clock)
    cached("https://certs")
    clock.advance(3599)
    cached("https://certs")
    assert inner.calls == 1
    clock.advance(2)
    cached("https://certs")
    assert inner.calls == 2


def test_old_certificates_serve_while_google_is_away_without_asking_each_time():
    inner, clock = Certificates("max-age=60"), ManualClock(SystemClock().now())
    cached = CachedCertificates(inner, clock)
    cached("https://certs")
    inner.up = False
    clock.advance(61)
    cached("https://certs")
    cached("https://certs")
    assert inner.calls == 2
    clock.advance(MAX_STALE_SECONDS)
    with pytest.raises(exceptions.TransportError):
        cached("https://certs")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 60),
        ({"Cache-Control": "no-store"}, 60),
        ({"cache-control": "max-age=5"}, 60),
        ({"cache-control": "public, max-age=19000, must-revalidate"}, 19000),
        ({"cache-control": "max-age=999999999"}, 21600),
    ],
)
def test_freshness_is_bounded(headers, seconds):
    assert fresh_seconds(headers) == seconds


def test_emulator_mode_takes_anybody():
    make_authenticator(CallerSettings.from_environment({"PUSH_AUTHENTICATION": "emulator"}), SystemClock())(
        None
    )


def test_oidc_is_what_happens_when_nothing_is_said():
    settings = CallerSettings.from_environment({"PUSH_AUDIENCE": AUDIENCE, "PUSH_CALLERS": f" {CALLER} ,"})
    assert settings == SETTINGS


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"PUSH_AUTHENTICATION": "emulator", "K_SERVICE": "adapter"}, "PUSH_AUTHENTICATION"),
        ({"PUSH_AUTHENTICATION": "none"}, "PUSH_AUTHENTICATION"),
        ({"PUSH_CALLERS": CALLER}, "PUSH_AUDIENCE"),
        ({"PUSH_AUDIENCE": AUDIENCE}, "PUSH_CALLERS"),
        ({"PUSH_AUDIENCE": AUDIENCE, "PUSH_CALLERS": "x, y"}, "PUSH_CALLERS"),
    ],
)
def test_a_wrong_setting_is_named_at_boot(environ, named):
    with pytest.raises(SettingsError, match=named):
        CallerSettings.from_environment(environ)
