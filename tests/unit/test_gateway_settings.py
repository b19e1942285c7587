"""A wrong setting or key file is one clear line at boot, and says nothing of a key."""

import base64
import json
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from gateway_stage import NOW, pem, rsa_key
from joserfc import jws
from joserfc.jwk import KeySet

from bridge.errors import SettingsError
from bridge.money import Money
from cli.main import main
from gateway.keys import read_fingerprint_key, read_receipt_keys, renewed_receipt_keys
from gateway.receipts import Receipts
from gateway.settings import Settings
from gateway.signing_keys import TokenKeys

pytestmark = pytest.mark.unit

GOOD = {
    "DATABASE_URL": "postgresql+pg8000://gateway@127.0.0.1:5432/bridge",
    "GOOGLE_CLOUD_PROJECT": "partner-payments-local",
    "TOKEN_ISSUER": "http://127.0.0.1:8080",
    "TOKEN_AUDIENCE": "http://127.0.0.1:8080",
    "TOKEN_SIGNING_KEYS_DIR": "/keys/token-signing",
    "PARTY_KEY_RING": "/keys/party-data.json",
    "FINGERPRINT_KEY": "/keys/fingerprint.key",
    "RECEIPT_SIGNING_KEY": "/keys/receipt.pem",
    "WEBHOOK_KEY_RING": "/keys/webhooks.json",
}


def test_what_is_not_said_has_a_default():
    settings = Settings.from_environment(GOOD)
    assert (settings.host, settings.port, settings.threads) == ("127.0.0.1", 8081, 16)
    assert (settings.counters_url, settings.forwarded_hops) == ("memory://", 1)


@pytest.mark.parametrize("name", [name for name in GOOD if name != "DATABASE_URL"])
def test_what_has_none_is_asked_for_by_name(name):
    with pytest.raises(SettingsError, match=name):
        Settings.from_environment({**GOOD, name: ""})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("PORT", "0"),
        ("PORT", "65536"),
        ("THREADS", "-1"),
        ("THREADS", "1.5"),
        ("TOKEN_ISSUER", "payments.example"),
        ("TOKEN_ISSUER", "https://payments.example/"),
        ("DATABASE_URL", "nonsense"),
        ("FORWARDED_HOPS", "-1"),
        ("FORWARDED_HOPS", "4"),
        ("TOKENS_PER_MINUTE", "0"),
        ("TOKEN_REQUESTS_PER_MINUTE", "many"),
        ("RATE_LIMIT_STORAGE_URL", "memcached://127.0.0.1"),
        ("RATE_LIMIT_STORAGE_URL", "redis"),
    ],
)
def test_a_wrong_value_is_named(name, value):
    with pytest.raises(SettingsError, match=name):
        Settings.from_environment({**GOOD, name: value})


def test_a_key_signs_from_the_time_in_its_name_and_verifies_as_long_as_its_tokens_live(tmp_path):
    at = datetime(2026, 11, 1, 0, 15, tzinfo=UTC)
    for name, number in (("20260101-b", 1), ("20261101-a", 2), ("20270101-c", 3)):
        (tmp_path / f"{name}.pem").write_bytes(pem(rsa_key(number)))
    (tmp_path / "notes.txt").write_text("not a key")
    keys = TokenKeys.from_folder(str(tmp_path))
    assert keys.signing(at).kid == "20261101-a"
    assert [key["kid"] for key in keys.public_jwks(at)["keys"]] == ["20260101-b", "20261101-a", "20270101-c"]
    assert keys.find("20260101-b", at) is not None
    assert keys.find("notes", at) is None
    assert keys.find(["20260101-b"], at) is None


def public_pem(key):
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a key",
        pem(ed25519.Ed25519PrivateKey.generate()),
        pem(rsa.generate_private_key(public_exponent=65537, key_size=1024)),  # noqa: S505 - the point
        public_pem(rsa_key(1)),
    ],
    ids=["empty", "text", "ed25519", "short", "public"],
)
def test_a_file_that_is_no_strong_rsa_private_key_is_named(tmp_path, content):
    (tmp_path / "20260101-a.pem").write_bytes(content)
    with pytest.raises(SettingsError, match=r"20260101-a\.pem"):
        TokenKeys.from_folder(str(tmp_path))


def test_an_empty_or_missing_folder_of_keys_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(SettingsError, match="TOKEN_SIGNING_KEYS_DIR"):
            TokenKeys.from_folder(str(folder))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        pem(rsa_key(1)),
        pem(ec.generate_private_key(ec.SECP256R1())),
        public_pem(ed25519.Ed25519PrivateKey.generate()),
    ],
    ids=["empty", "rsa", "ec", "public"],
)
def test_a_file_that_is_no_ed25519_private_key_is_named(tmp_path, content):
    file = tmp_path / "receipt.pem"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match="RECEIPT_SIGNING_KEY"):
        read_receipt_keys(str(file))


def test_former_receipt_keys_stay_public_and_only_the_newest_signs(tmp_path):
    file = tmp_path / "receipt.pem"
    kids = []
    for _ in range(3):
        assert CliRunner().invoke(main, ["keys", "receipt", "--file", str(file)]).exit_code == 0
        known = read_receipt_keys(str(file))
        kids.insert(0, known.signing.kid)
        assert [key.kid for key in known.former] == kids[1:]
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_bytes().count(b"PRIVATE KEY-----") == 2, "one key, from its begin to its end"
    published = Receipts(known, "https://api.test").public_jwks()["keys"]
    assert [key["kid"] for key in published] == kids
    assert not any("d" in key for key in published)


def test_a_receipt_of_a_former_key_is_still_verified_by_what_is_published(tmp_path):
    file = tmp_path / "receipt.pem"
    file.write_bytes(renewed_receipt_keys(file))
    receipt = Receipts(read_receipt_keys(str(file)), "https://api.test").sign(
        payment_id="pay_1", external_id="A-1", amount=Money(1, "EUR"), body=b"{}", accepted_at=NOW
    )
    file.write_bytes(renewed_receipt_keys(file))
    published = KeySet.import_key_set(Receipts(read_receipt_keys(str(file)), "x").public_jwks())
    with pytest.warns(UserWarning, match="EdDSA"):
        signed = jws.deserialize_compact(receipt, published, algorithms=["EdDSA"])
    assert json.loads(signed.payload)["payment_id"] == "pay_1"


@pytest.mark.parametrize(
    "behind", [b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", public_pem(rsa_key(1))]
)
def test_a_former_receipt_key_that_is_none_is_named(tmp_path, behind):
    file = tmp_path / "receipt.pem"
    file.write_bytes(pem(ed25519.Ed25519PrivateKey.generate()) + behind)
    with pytest.raises(SettingsError, match=r"RECEIPT_SIGNING_KEY .* public key"):
        read_receipt_keys(str(file))
    done = CliRunner().invoke(main, ["keys", "receipt", "--file", str(file)])
    assert (done.exit_code, done.output.count("public key")) == (1, 1)


def test_a_fingerprint_key_is_at_least_32_bytes_in_base64(tmp_path):
    file = tmp_path / "key"
    file.write_bytes(base64.b64encode(b"k" * 32) + b"\n")
    assert read_fingerprint_key(str(file)) == b"k" * 32
    for content in (base64.b64encode(b"k" * 31), b"not base64!", b""):
        file.write_bytes(content)
        with pytest.raises(SettingsError, match="FINGERPRINT_KEY"):
            read_fingerprint_key(str(file))
    with pytest.raises(SettingsError, match="FINGERPRINT_KEY"):
        read_fingerprint_key(str(tmp_path / "missing"))
