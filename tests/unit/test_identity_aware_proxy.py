"""Which assertions of Identity-Aware Proxy are believed: real signatures, and a stand-in for the keys."""

import json
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from google.auth import crypt, exceptions, jwt
from google.auth.transport import Request

from bridge.clock import ManualClock, SystemClock
from bridge.environment import CLOUD_RUN
from bridge.errors import RejectedError, SettingsError, TransientError
from bridge.gcp.firestore_documents import FirestoreSettings
from bridge.gcp.iap import HEADER, ISSUER, KEYS_URL
from bridge.gcp.identity import CachedCertificates, CallerSettings
from bridge.gcp.operators import OperatorSettings, make_operator_authenticator
from bridge.key_ring_file import KeyRingSettings
from bridge.web.addresses import http_loopback

pytestmark = pytest.mark.unit

AUDIENCE = "/projects/123456789012/locations/europe-west3/services/bridge-partners"
OPERATOR = "ada@example.com"
SETTINGS = OperatorSettings("iap", AUDIENCE, frozenset({OPERATOR}))


def key_pair():
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private, public.decode()


PRIVATE, PUBLIC = key_pair()
FOREIGN, _ = key_pair()


class Keys(Request):
    """Google's address of IAP's public keys: `up` or not, what was asked for so far."""

    def __init__(self):
        self.up = True
        self.asked = []

    def __call__(self, url, *_arguments, **_options):
        self.asked.append(url)
        if not self.up:
            raise exceptions.TransportError("down")
        return SimpleNamespace(
            status=200, headers={"Cache-Control": "max-age=3600"}, data=json.dumps({"k1": PUBLIC}).encode()
        )


def assertion(private=PRIVATE, **changes):
    now = int(SystemClock().now().timestamp())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "email": OPERATOR, "sub": "accounts.google.com:1"}
    claims |= {"iat": now, "exp": now + 600, **changes}
    return jwt.encode(crypt.EsSigner.from_string(private, "k1"), claims).decode()


def name(headers, keys=None):
    return make_operator_authenticator(SETTINGS, SystemClock(), keys or Keys())(headers)


def test_the_operator_is_whom_iap_has_let_in():
    assert name({HEADER: assertion()}) == OPERATOR


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": f"Bearer {assertion()}"},
        {HEADER: assertion(FOREIGN)},
        {HEADER: assertion(aud=AUDIENCE.replace("partners", "backoffice"))},
        {HEADER: assertion(aud=AUDIENCE.replace("123456789012", "210987654321"))},
        {HEADER: assertion(iss="https://accounts.google.com")},
        {HEADER: assertion(exp=1_000_000_000, iat=999_999_000)},
        {HEADER: assertion(email=None)},
        {HEADER: "not.a.token"},
        {HEADER: ""},
    ],
    ids=["nothing", "elsewhere", "key", "service", "project", "issuer", "expired", "email", "junk", "empty"],
)
def test_nobody_else_comes_in(headers):
    with pytest.raises(RejectedError) as refused:
        name(headers)
    assert refused.value.status == 401


def test_another_algorithm_is_refused_whatever_the_key():
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    now = int(SystemClock().now().timestamp())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "email": OPERATOR, "iat": now, "exp": now + 600}
    signed = jwt.encode(crypt.RSASigner.from_string(pem, "k1"), claims).decode()
    with pytest.raises(RejectedError, match="is not signed with ES256"):
        name({HEADER: signed})


def test_whom_iap_lets_in_and_the_service_does_not_know_is_refused():
    with pytest.raises(RejectedError) as refused:
        name({HEADER: assertion(email="eve@example.com")})
    assert refused.value.status == 403


def test_the_keys_are_fetched_once_and_outlast_an_outage_of_their_address():
    keys, clock = Keys(), ManualClock(SystemClock().now())
    authenticate = make_operator_authenticator(SETTINGS, clock, CachedCertificates(keys, clock))
    authenticate({HEADER: assertion()})
    authenticate({HEADER: assertion()})
    assert keys.asked == [KEYS_URL]
    keys.up = False
    clock.advance(7200)
    assert authenticate({HEADER: assertion()}) == OPERATOR


def test_without_any_keys_it_is_an_outage_and_no_refusal():
    keys = Keys()
    keys.up = False
    with pytest.raises(TransientError):
        name({HEADER: assertion()}, keys)


def test_the_settings_name_the_audience_and_the_operators():
    given = {"OPERATOR_AUTHENTICATION": "iap", "OPERATOR_AUDIENCE": AUDIENCE, "OPERATORS": OPERATOR}
    assert OperatorSettings.from_environment(given) == SETTINGS
    for missing in ("OPERATOR_AUDIENCE", "OPERATORS"):
        with pytest.raises(SettingsError, match=missing):
            OperatorSettings.from_environment(given | {missing: ""})
    with pytest.raises(SettingsError, match="OPERATOR_AUTHENTICATION"):
        OperatorSettings.from_environment(given | {"OPERATOR_AUTHENTICATION": "basic"})


EMULATOR_MODES = {
    "OPERATOR_AUTHENTICATION": (OperatorSettings.from_environment, {"OPERATOR_AUTHENTICATION": "emulator"}),
    "PUSH_AUTHENTICATION": (CallerSettings.from_environment, {"PUSH_AUTHENTICATION": "emulator"}),
    "FIRESTORE_EMULATOR_HOST": (
        FirestoreSettings.from_environment,
        {"GOOGLE_CLOUD_PROJECT": "p", "FIRESTORE_EMULATOR_HOST": "127.0.0.1:1"},
    ),
    "KMS_EMULATOR_HOST": (
        lambda environ: KeyRingSettings.from_environment(environ, "RING", "party-data"),
        {"RING": "/ring", "KMS_EMULATOR_HOST": "127.0.0.1:1"},
    ),
    "WEBHOOK_ALLOW_HTTP_LOOPBACK": (http_loopback, {"WEBHOOK_ALLOW_HTTP_LOOPBACK": "true"}),
}


@pytest.mark.parametrize("variable", CLOUD_RUN)
@pytest.mark.parametrize("mode", EMULATOR_MODES)
def test_a_mode_for_emulators_is_refused_in_services_jobs_and_worker_pools(mode, variable):
    read, environ = EMULATOR_MODES[mode]
    read(environ)
    with pytest.raises(SettingsError, match=mode):
        read(environ | {variable: "bridge"})


@pytest.mark.parametrize("variable", CLOUD_RUN)
def test_a_plain_key_is_refused_in_services_jobs_and_worker_pools(variable):
    assert KeyRingSettings.from_environment({"RING": "/ring"}, "RING", "party-data").plain_allowed
    on_cloud_run = KeyRingSettings.from_environment({"RING": "/ring", variable: "x"}, "RING", "party-data")
    assert not on_cloud_run.plain_allowed
