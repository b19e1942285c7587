"""The parts of the local stack that need no process."""

import json
import stat

import pytest

from bridge.key_ring_file import KeyRingSettings, open_key_ring
from bridge.messages import push_subscription
from devstack import emulators, start_checks
from devstack.emulators import find_emulators, find_java
from devstack.keys import load_or_create
from devstack.layout import PORTS, Layout
from devstack.preflight import StartError
from devstack.reaper import read_until_end
from devstack.start_checks import create_folders, require_free_ports, require_room
from devstack.topics import pushes, subscription
from devstack.units import Unit, dependents_of

pytestmark = pytest.mark.unit


@pytest.fixture
def no_usual_folders(monkeypatch):
    monkeypatch.setattr(emulators, "USUAL_FOLDERS", ())


def java_in(folder, version):
    program = folder / "java"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-01-01' >&2\n")
    program.chmod(0o755)


def sdk_in(folder):
    for jar in (
        "platform/pubsub-emulator/lib/cloud-pubsub-emulator-0.8.20-all.jar",
        "platform/cloud-firestore-emulator/cloud-firestore-emulator.jar",
    ):
        path = folder / jar
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_emulators_are_found_where_the_user_says(tmp_path, no_usual_folders):
    sdk_in(tmp_path / "sdk")
    java_in(tmp_path / "bin", "17.0.15")
    environ = {"CLOUDSDK_ROOT_DIR": str(tmp_path / "sdk"), "PATH": str(tmp_path / "bin")}
    found = find_emulators(environ)
    assert found.pubsub_jar.is_relative_to(tmp_path / "sdk")
    assert found.java == str(tmp_path / "bin" / "java")


def test_emulators_are_found_beside_a_linked_gcloud(tmp_path, no_usual_folders):
    sdk_in(tmp_path / "sdk")
    java_in(tmp_path / "bin", "21")
    gcloud = tmp_path / "sdk" / "bin" / "gcloud"
    gcloud.parent.mkdir()
    gcloud.touch(mode=0o755)
    (tmp_path / "bin" / "gcloud").symlink_to(gcloud)
    found = find_emulators({"PATH": str(tmp_path / "bin")})
    assert found.firestore_jar.is_relative_to(tmp_path / "sdk")


def test_missing_emulators_are_one_line_with_the_command_that_installs_them(tmp_path, no_usual_folders):
    java_in(tmp_path, "17.0.1")
    with pytest.raises(StartError) as error:
        find_emulators({"PATH": str(tmp_path), "HOME": str(tmp_path)})
    message = str(error.value)
    assert "Pub/Sub and Firestore" in message
    assert "gcloud components install pubsub-emulator cloud-firestore-emulator" in message
    assert "\n" not in message


@pytest.mark.parametrize("version", ["11.0.2", "1.8.0_292"])
def test_old_java_is_refused_by_its_version(tmp_path, version):
    java_in(tmp_path, version)
    with pytest.raises(StartError, match=r"Java 17 or newer.*apt-get install.*found Java (11|8)"):
        find_java({"PATH": str(tmp_path)})


def test_java_home_that_is_too_old_gives_way_to_a_newer_one_on_the_path(tmp_path):
    java_in(tmp_path / "home" / "bin", "11.0.2")
    java_in(tmp_path / "bin", "21.0.1")
    environ = {"JAVA_HOME": str(tmp_path / "home"), "PATH": str(tmp_path / "bin")}
    assert find_java(environ) == str(tmp_path / "bin" / "java")


def test_keys_are_made_once_and_only_their_owner_may_read_them(tmp_path):
    keys = load_or_create(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert load_or_create(tmp_path) == keys
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert {stat.S_IMODE(path.stat().st_mode) for path in before} == {0o600}
    ring = open_key_ring(KeyRingSettings(str(keys.party_data), "party-data"))
    place = {"table": "t", "column": "c", "row": "r"}
    assert ring.decrypt(ring.encrypt(b"x", **place), **place) == b"x"
    assert keys.party_data.read_bytes() != keys.webhook_secrets.read_bytes()


def test_demo_partners_differ_in_everything(tmp_path):
    first, second = load_or_create(tmp_path).partners
    assert all(a != b for a, b in zip(vars(first).values(), vars(second).values(), strict=True))


def test_nearly_full_disk_is_named_with_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(start_checks, "MIN_FREE_BYTES", 2**62)
    with pytest.raises(StartError, match=f"disk of {tmp_path} is nearly full"):
        require_room(tmp_path)


def test_probe_of_a_folder_leaves_nothing(tmp_path):
    require_room(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match=r"can't create the folder .*file/state"):
        create_folders(Layout(tmp_path / "file" / "state"))


def test_port_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(StartError, match="port 70082 for sap_adapter does not exist"):
        require_free_ports(Layout(tmp_path, 62_000), ["sap_adapter"])


def test_ports_are_distinct_and_shift_together(tmp_path):
    assert len(set(PORTS.values())) == len(PORTS)
    assert Layout(tmp_path, 1000).url("receiver") == "http://127.0.0.1:9091"


def test_every_dead_letter_topic_has_a_subscription_of_its_own(tmp_path):
    all_pushes = list(pushes(Layout(tmp_path)))
    topics = {push.topic for push in all_pushes}
    dead = {push.dead_letters for push in all_pushes if push.dead_letters}
    assert dead <= topics
    assert {push.topic for push in all_pushes if push.topic not in dead} == {
        "payment-operations-s4-main",
        "payment-operations-s4-second",
        "payment-events",
    }
    assert all(push.endpoint.endswith("/pubsub/dead-letters") for push in all_pushes if push.topic in dead)
    assert len({push_subscription(topic) for topic in topics}) == len(all_pushes)


def test_dead_letter_topics_have_no_dead_letters_of_their_own(tmp_path):
    for push in pushes(Layout(tmp_path)):
        assert ("deadLetterPolicy" in subscription(push)) == (push.dead_letters is not None)
    assert json.dumps(subscription(push))


def test_dependents_are_found_through_steps():
    def unit(name, *after):
        return Unit(name, (), {}, after=after)

    units = {u.name: u for u in (unit("a"), unit("step", "a"), unit("b", "step"), unit("c"))}
    assert dependents_of(units, "a") == {"step", "b"}
    assert dependents_of(units, "c") == set()


def test_reaper_forgets_what_it_was_told_is_gone():
    told = [b"+group 10\n", b"+group 11\n", b"+folder /x y\n", b"-group 10\n"]
    assert read_until_end(told) == [("group", "11"), ("folder", "/x y")]
