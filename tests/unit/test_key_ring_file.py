"""Key rings as files: what is in one, what is wrong with one, and for whom its keys open."""

import base64
import json
import os

import pytest
from fakes.key_wrapper import InMemoryKeyWrapper

from bridge.errors import PermanentError, SettingsError
from bridge.key_ring_file import KeyRingSettings, bound_to, open_key_ring, read_ring_document

pytestmark = pytest.mark.unit

KMS_KEY = "projects/p/locations/europe-west3/keyRings/bridge/cryptoKeys/party-data"
PLACE = {"table": "payments", "column": "encrypted_parties", "row": "pay_1"}


@pytest.fixture
def kms():
    return InMemoryKeyWrapper(KMS_KEY)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ring.json"


def text(value):
    return base64.b64encode(value).decode()


def wrapped(kms, key, key_id, purpose="party-data", kms_key=KMS_KEY):
    return {"kms_key": kms_key, "wrapped": text(kms.wrap(kms_key, key, bound_to(purpose, key_id)))}


def write(path, current, **keys):
    path.write_text(json.dumps({"current": current, "keys": keys}))


def opened(path, kms=None, purpose="party-data", *, plain_allowed=True):
    return open_key_ring(KeyRingSettings(str(path), purpose, plain_allowed=plain_allowed), kms)


BAD_KEYS = [
    {"k1": "AAAA"},
    {"k1": 7},
    {"k:1": text(bytes(32))},
    {"k1": {"kms_key": KMS_KEY}},
    {"k1": {"kms_key": "party-data", "wrapped": "AAAA"}},
    {"k1": {"kms_key": KMS_KEY, "wrapped": "not base64"}},
    {"k1": {"kms_key": KMS_KEY, "wrapped": "AAAA", "plain": "AAAA"}},
]


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"current": "k1"}', '{"current": "x", "keys": {}}', '{"current": [], "keys": {}}']
    + [json.dumps({"current": next(iter(keys)), "keys": keys}) for keys in BAD_KEYS],
)
def test_a_broken_file_is_named(path, content):
    path.write_text(content)
    with pytest.raises(SettingsError, match=r"ring\.json") as refused:
        opened(path)
    assert "AAAA" not in str(refused.value)


def test_a_plain_ring_of_the_documented_form_is_read(path):
    write(path, "k1", k1=text(os.urandom(32)))
    ring = opened(path)
    assert ring.decrypt(ring.encrypt(b"x", **PLACE), **PLACE) == b"x"


def test_wrapped_keys_open_and_old_plain_ones_stay_to_read_with(path, kms):
    old, new = os.urandom(32), os.urandom(32)
    write(path, "k1", k1=text(old))
    value = opened(path).encrypt(b"old", **PLACE)
    write(path, "k2", k1=text(old), k2=wrapped(kms, new, "k2"))
    ring = opened(path, kms)
    assert ring.decrypt(value, **PLACE) == b"old"
    assert ring.encrypt(b"new", **PLACE).startswith("k2:")
    # wrapping the old one changes nothing that is encrypted
    write(path, "k2", k1=wrapped(kms, old, "k1"), k2=wrapped(kms, new, "k2"))
    assert opened(path, kms, plain_allowed=False).decrypt(value, **PLACE) == b"old"


def test_a_ring_in_anothers_place_does_not_open(path, kms):
    write(path, "k1", k1=wrapped(kms, os.urandom(32), "k1"))
    with pytest.raises(SettingsError, match="key k1 does not open as one of webhook-secrets"):
        opened(path, kms, "webhook-secrets")


def test_a_key_under_another_name_does_not_open(path, kms):
    write(path, "k2", k2=wrapped(kms, os.urandom(32), "k1"))
    with pytest.raises(SettingsError, match="key k2 does not open"):
        opened(path, kms)


def test_a_key_of_another_length_is_refused(path, kms):
    write(path, "k1", k1=wrapped(kms, b"short", "k1"))
    with pytest.raises(SettingsError, match="key k1 is not 32 bytes"):
        opened(path, kms)


def test_a_plain_key_is_refused_where_all_have_to_be_wrapped(path, kms):
    write(path, "k1", k1=wrapped(kms, os.urandom(32), "k1"), k2=text(os.urandom(32)))
    with pytest.raises(SettingsError, match="key k2 is not wrapped"):
        opened(path, kms, plain_allowed=False)


def test_cloud_kms_that_does_not_answer_is_named(path, kms):
    write(path, "k1", k1=wrapped(kms, os.urandom(32), "k1"))
    kms.away = True
    with pytest.raises(SettingsError, match="does not answer"):
        opened(path, kms)


def test_a_document_is_written_as_it_was_read(path, kms):
    write(path, "k2", k1=text(os.urandom(32)), k2=wrapped(kms, os.urandom(32), "k2"))
    assert read_ring_document(str(path)).as_json() == json.loads(path.read_text())


def test_on_cloud_run_every_key_is_wrapped_and_there_is_no_stand_in():
    environ = {"RING": "/ring", "KMS_EMULATOR_HOST": "127.0.0.1:1"}
    local = KeyRingSettings.from_environment(environ, "RING", "party-data")
    assert (local.kms_emulator_host, local.plain_allowed) == ("127.0.0.1:1", True)
    with pytest.raises(SettingsError, match="KMS_EMULATOR_HOST"):
        KeyRingSettings.from_environment(environ | {"K_SERVICE": "gateway"}, "RING", "party-data")
    there = KeyRingSettings.from_environment({"RING": "/ring", "K_SERVICE": "gateway"}, "RING", "party-data")
    assert not there.plain_allowed


def test_the_fake_refuses_what_it_has_not_wrapped(kms):
    with pytest.raises(PermanentError):
        kms.unwrap(KMS_KEY, b"x" * 40, b"")
