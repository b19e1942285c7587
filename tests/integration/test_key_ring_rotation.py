"""`bridge keys ring` against a stand-in for Cloud KMS, and services that start on what it has written."""

import json

import pytest
from click.testing import CliRunner
from kms_server import PARTY_KEY, SECRETS_KEY, KmsServer
from webhook_stage import environment as webhooks_environment

from bridge.errors import PermanentError, SettingsError
from bridge.key_ring_file import KeyRingSettings, open_key_ring
from cli.main import main
from webhooks.settings import Settings as WebhooksSettings

pytestmark = pytest.mark.integration

PLACE = {"table": "payments", "column": "encrypted_parties", "row": "pay_1"}


@pytest.fixture
def server():
    with KmsServer() as running:
        yield running


@pytest.fixture
def path(tmp_path):
    return tmp_path / "party-data.json"


def invoke(server, *arguments, **options):
    environment = {"KMS_EMULATOR_HOST": server.host}
    return CliRunner().invoke(main, ["keys", "ring", *map(str, arguments)], env=environment, **options)


def done(server, *arguments, **options):
    result = invoke(server, *arguments, **options)
    assert result.exit_code == 0, result.output
    return result.output


def add(server, path, kms_key=PARTY_KEY):
    return done(server, "add", "--file", path, "--purpose", "party-data", "--kms-key", kms_key).split()[0]


def opened(server, path, purpose="party-data"):
    settings = KeyRingSettings(str(path), purpose, kms_emulator_host=server.host, plain_allowed=False)
    return open_key_ring(settings)


def test_a_new_ring_opens_and_shows_no_key(server, path):
    key_id = add(server, path)
    ring = opened(server, path)
    assert ring.encrypt(b"x", **PLACE).startswith(f"{key_id}:")
    document = json.loads(path.read_text())
    assert set(document["keys"][key_id]) == {"kms_key", "wrapped"}
    assert path.stat().st_mode & 0o777 == 0o600
    assert PARTY_KEY in done(server, "list", "--file", path)


def test_a_rotation_has_no_moment_in_which_something_can_not_be_read(server, path):
    first = add(server, path)
    before = opened(server, path)
    second = add(server, path)
    added = opened(server, path)  # some instances have the new file, some the old one
    for writer in (before, added):
        value = writer.encrypt(b"x", **PLACE)
        assert value.startswith(f"{first}:")
        assert {reader.decrypt(value, **PLACE) for reader in (before, added)} == {b"x"}
    done(server, "use", "--file", path, second)
    used = opened(server, path)
    value = used.encrypt(b"y", **PLACE)
    assert value.startswith(f"{second}:")
    assert {reader.decrypt(value, **PLACE) for reader in (added, used)} == {b"y"}
    with pytest.raises(PermanentError):
        before.decrypt(value, **PLACE)  # why it takes two steps


def test_keys_are_wrapped_anew_and_what_they_have_encrypted_is_read(server, path):
    done(server, "add", "--file", path, "--purpose", "party-data")  # plain, as it is made locally
    plain = open_key_ring(KeyRingSettings(str(path), "party-data"))
    value = plain.encrypt(b"x", **PLACE)
    with pytest.raises(SettingsError, match="is not wrapped"):
        opened(server, path)
    done(server, "rewrap", "--file", path, "--purpose", "party-data", "--kms-key", PARTY_KEY)
    server.rotate(PARTY_KEY)
    done(server, "rewrap", "--file", path, "--purpose", "party-data", "--kms-key", PARTY_KEY)
    server.keys[PARTY_KEY][0] = None  # the old version is not needed any more
    assert opened(server, path).decrypt(value, **PLACE) == b"x"
    done(server, "rewrap", "--file", path, "--purpose", "party-data", "--kms-key", SECRETS_KEY)
    assert opened(server, path).decrypt(value, **PLACE) == b"x"


def test_a_key_is_removed_only_when_asked_twice_and_not_current(server, path):
    first, second = add(server, path), add(server, path)
    assert invoke(server, "remove", "--file", path, first, input="y\n").exit_code == 1
    done(server, "use", "--file", path, second)
    assert invoke(server, "remove", "--file", path, first, input="n\n").exit_code == 1
    done(server, "remove", "--file", path, first, input="y\n")
    assert list(json.loads(path.read_text())["keys"]) == [second]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("use", "nothing"), "has no key nothing"),
        (("add", "--purpose", "party-data", "--kms-key", "party-data"), "names no CryptoKey"),
        (("add", "--purpose", "other"), "party-data"),
        (("add", "--purpose", "party-data", "--kms-key", PARTY_KEY + "-unknown"), "NOT_FOUND"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_written(server, path, arguments, told):
    add(server, path)
    before = path.read_text()
    refused = invoke(server, arguments[0], "--file", path, *arguments[1:])
    assert refused.exit_code != 0
    assert told in refused.output
    assert path.read_text() == before


def test_a_failing_cloud_kms_writes_no_ring(server, path):
    server.denied = {PARTY_KEY}
    refused = invoke(server, "add", "--file", path, "--purpose", "party-data", "--kms-key", PARTY_KEY)
    assert "useToEncrypt" in refused.output
    assert not path.exists()


def test_the_ring_of_party_data_does_not_open_as_that_of_webhook_secrets(server, path):
    add(server, path)
    environ = webhooks_environment(path.parent, WEBHOOK_KEY_RING=str(path), KMS_EMULATOR_HOST=server.host)
    settings = WebhooksSettings.from_environment(environ)
    with pytest.raises(SettingsError, match="does not open as one of webhook-secrets"):
        open_key_ring(settings.webhook_key_ring)
