"""A key's name says when it signs; the folder is read again, and a bad reading changes nothing."""

import json
import stat
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from gateway_stage import pem, rsa_key
from joserfc.jwk import RSAKey

from bridge.errors import SettingsError
from cli.main import main
from gateway.signing_keys import REREAD_SECONDS, VERIFIES_FOR, TokenKeys, read_key_set, signs_from

pytestmark = pytest.mark.unit
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
AGAIN = timedelta(seconds=REREAD_SECONDS)


def put(folder, number, begins):
    name = f"{begins:%Y%m%dT%H%M%SZ}-k{number}"
    (folder / f"{name}.pem").write_bytes(pem(rsa_key(number)))
    return name


def kids(keys, now):
    return [key["kid"] for key in keys.public_jwks(now)["keys"]]


def test_a_name_says_when():
    assert signs_from("20261121T120001Z-4f1c") == datetime(2026, 11, 21, 12, 0, 1, tzinfo=UTC)
    assert signs_from("20261121-4f1c") == datetime(2026, 11, 21, tzinfo=UTC)
    for name in ("4f1c", "20261321-4f1c", "20261121", "20261121T1200Z-a", "20261121-../a", "20261121-a\n"):
        assert signs_from(name) is None


def test_a_key_is_published_then_signs_then_verifies_then_is_gone(tmp_path):
    begins = NOW + timedelta(minutes=15)
    old, new = put(tmp_path, 1, NOW - timedelta(days=90)), put(tmp_path, 2, begins)
    keys = TokenKeys.from_folder(str(tmp_path))
    assert (keys.signing(NOW).kid, kids(keys, NOW)) == (old, [old, new])
    assert keys.find(new, NOW) is not None
    assert keys.signing(begins - timedelta(seconds=1)).kid == old
    assert keys.signing(begins).kid == new
    last = begins + VERIFIES_FOR
    assert kids(keys, last - timedelta(seconds=1)) == [old, new]
    assert kids(keys, last) == [new]
    assert keys.find(old, last) is None


def test_a_key_that_is_alone_signs_whatever_its_name_says(tmp_path):
    only = put(tmp_path, 1, NOW + timedelta(days=1))
    assert TokenKeys.from_folder(str(tmp_path)).signing(NOW).kid == only


def test_the_folder_is_read_again_but_not_at_each_look(tmp_path):
    old = put(tmp_path, 1, NOW - timedelta(days=90))
    keys = TokenKeys.from_folder(str(tmp_path))
    assert kids(keys, NOW) == [old]
    new = put(tmp_path, 2, NOW + timedelta(minutes=15))
    assert kids(keys, NOW + AGAIN / 2) == [old]
    assert kids(keys, NOW + AGAIN) == [old, new]
    (tmp_path / f"{new}.pem").unlink()
    assert kids(keys, NOW + 2 * AGAIN) == [old]


@pytest.mark.parametrize("what", ["half a file", "a wrong name", "all gone", "too many"])
def test_a_reading_that_fails_leaves_the_keys_as_they_were(tmp_path, what):
    old = put(tmp_path, 1, NOW - timedelta(days=90))
    keys = TokenKeys.from_folder(str(tmp_path))
    keys.signing(NOW)
    match what:
        case "half a file":
            (tmp_path / "20261120-half.pem").write_bytes(pem(rsa_key(2))[:500])
        case "a wrong name":
            (tmp_path / "new.pem").write_bytes(pem(rsa_key(2)))
        case "all gone":
            (tmp_path / f"{old}.pem").unlink()
        case "too many":
            for number in range(20):
                (tmp_path / f"20261120-{number}.pem").write_bytes(pem(rsa_key(2)))
    with pytest.raises(SettingsError, match="TOKEN_SIGNING_KEYS_DIR"):
        read_key_set(tmp_path)
    assert kids(keys, NOW + AGAIN) == [old]
    assert keys.signing(NOW + 2 * AGAIN).kid == old


def bridge(*arguments):
    return CliRunner().invoke(main, ["keys", *(str(argument) for argument in arguments)])


def test_rotate_makes_a_key_for_later_and_lets_no_second_one_wait(tmp_path):
    folder = tmp_path / "keys"
    assert bridge("rotate", "--dir", folder).exit_code == 0
    first = read_key_set(folder).keys[0]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert bridge("rotate", "--dir", folder).exit_code == 0
    now = datetime.now(UTC)
    known = read_key_set(folder)
    assert known.signing(now) == first
    (waiting,) = known.waiting(now)
    assert timedelta(minutes=14) < waiting.signs_from - now <= timedelta(minutes=15)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}

    refused = bridge("rotate", "--dir", folder)
    assert refused.exit_code == 1
    assert waiting.kid in refused.output
    assert len(list(folder.iterdir())) == 2
    listed = bridge("list", "--dir", folder)
    assert "signs" in listed.output
    assert "waits" in listed.output
    assert "PRIVATE" not in listed.output


def test_rotate_removes_only_what_nobody_needs_any_more(tmp_path):
    now = datetime.now(UTC)
    expired = put(tmp_path, 1, now - timedelta(days=90))
    recent = put(tmp_path, 2, now - timedelta(hours=1))
    signing = put(tmp_path, 3, now - timedelta(minutes=5))
    assert bridge("rotate", "--dir", tmp_path).exit_code == 0
    left = {path.stem for path in tmp_path.iterdir()}
    assert expired not in left
    assert {recent, signing} < left
    assert len(left) == 3


def test_what_is_published_is_what_the_gateway_would_serve_and_nothing_private(tmp_path):
    folder, public = tmp_path / "keys", tmp_path / "public"
    for _ in range(2):
        made = bridge("rotate", "--dir", folder, "--publish-to", public, "--issuer", "https://pay.example")
        assert made.exit_code == 0, made.output
    jwks = json.loads((public / ".well-known" / "jwks.json").read_text())
    assert jwks == TokenKeys.from_folder(str(folder)).public_jwks(datetime.now(UTC))
    assert [set(key) for key in jwks["keys"]] == [{"kty", "n", "e", "kid", "use", "alg"}] * 2
    metadata = json.loads((public / ".well-known" / "oauth-authorization-server").read_text())
    assert metadata["issuer"] == "https://pay.example"
    assert metadata["jwks_uri"] == "https://pay.example/.well-known/jwks.json"
    assert "private_key_jwt" in metadata["token_endpoint_auth_methods_supported"]
    assert list(public.rglob("*.*.*")) == []


def test_one_file_with_all_keys_is_as_good_as_the_folder(tmp_path):
    folder, mounted = tmp_path / "keys", tmp_path / "mounted"
    mounted.mkdir()
    for _ in range(2):
        assert bridge("rotate", "--dir", folder).exit_code == 0
    target = mounted / "signing-keys.json"
    assert bridge("bundle", "--dir", folder, "--to", target).exit_code == 0
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    now = datetime.now(UTC)
    there, here = TokenKeys.from_folder(str(folder)), TokenKeys.from_folder(str(mounted))
    assert here.public_jwks(now) == there.public_jwks(now)
    assert here.signing(now).key.as_dict(private=True) == there.signing(now).key.as_dict(private=True)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"keys": []}',
        '{"keys": 7}',
        '{"keys": [7]}',
        '{"keys": [{"kid": "20261120-a", "kty": "oct", "k": "AAAA"}]}',
        json.dumps(
            {"keys": [RSAKey.import_key(pem(rsa_key(1))).as_dict(private=False) | {"kid": "20261120-a"}]}
        ),
        json.dumps({"keys": [RSAKey.import_key(pem(rsa_key(1))).as_dict(private=True) | {"kid": "a"}]}),
        "[" * 5000,
    ],
    ids=range(10),
)
def test_a_file_that_is_no_set_of_private_keys_is_named(tmp_path, content):
    (tmp_path / "signing-keys.json").write_text(content)
    with pytest.raises(SettingsError, match="TOKEN_SIGNING_KEYS_DIR"):
        TokenKeys.from_folder(str(tmp_path))


@pytest.mark.parametrize(
    "arguments",
    [
        ("rotate",),
        ("rotate", "--dir", "{}", "--publish-to", "{}"),
        ("rotate", "--dir", "{}", "--publish-to", "{}", "--issuer", "nonsense"),
        ("rotate", "--dir", "{}", "--publish-ahead-seconds", "-1"),
        ("list", "--dir", "{}"),
    ],
    ids=" ".join,
)
def test_a_wrong_call_is_told_and_changes_nothing(tmp_path, arguments):
    done = bridge(*(argument.format(tmp_path) for argument in arguments))
    assert done.exit_code in (1, 2)
    assert "Error" in done.output
    assert list(tmp_path.iterdir()) == []
