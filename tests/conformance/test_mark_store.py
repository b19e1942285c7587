"""The port MarkStore: the fake, and Firestore's own emulator."""

import threading
import uuid
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from fakes.mark_store import InMemoryMarkStore
from firestore_emulator import PATIENT_SECONDS, FirestoreEmulator
from google.cloud.firestore_v1.types import Document, Write
from waiting import DEADLINE_SECONDS

from bridge.errors import TransientError
from bridge.gcp.firestore_documents import FirestoreSettings, encode
from bridge.gcp.firestore_mark import make_mark_store
from bridge.high_water_mark import HighWaterMark
from bridge.ports import InvalidDocumentError, VersionConflictError

pytestmark = pytest.mark.conformance

FIRST = HighWaterMark("db-1", 1, "token-1", 1, datetime(2026, 11, 29, 9, 30, 0, 123456, UTC))
SECOND = replace(FIRST, serial=2, token="token-2")


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    running = FirestoreEmulator(tmp_path_factory.mktemp("firestore")).start()
    yield running
    running.kill()


def store_of(emulator):
    return make_mark_store(
        FirestoreSettings(
            f"project-{uuid.uuid4()}",
            emulator_host=emulator.address,
            read_timeout_seconds=PATIENT_SECONDS,
            write_timeout_seconds=PATIENT_SECONDS,
        )
    )


@pytest.fixture(params=["fake", "emulator"])
def store(request):
    made = InMemoryMarkStore() if request.param == "fake" else store_of(request.getfixturevalue("emulator"))
    yield made
    made.close()


def test_a_fresh_project_has_no_mark(store):
    assert store.read() is None


def test_a_mark_comes_back_as_it_was_written(store):
    store.write(FIRST, None)
    standing = store.read()
    assert standing.mark == FIRST
    store.write(SECOND, standing)
    assert store.read().mark == SECOND


def test_the_first_mark_is_written_once(store):
    store.write(FIRST, None)
    with pytest.raises(VersionConflictError):
        store.write(SECOND, None)
    assert store.read().mark == FIRST


def test_an_old_process_moves_nothing_however_high_its_serial_is(store):
    store.write(FIRST, None)
    old = store.read()
    store.write(SECOND, old)
    with pytest.raises(VersionConflictError):
        store.write(replace(FIRST, serial=99), old)
    assert store.read().mark == SECOND


def test_a_mark_that_was_deleted_is_a_conflict(store, request):
    store.write(FIRST, None)
    standing = store.read()
    if isinstance(store, InMemoryMarkStore):
        store.lose()
    else:
        store._open_client().delete_document(name=store._name())
    assert store.read() is None
    with pytest.raises(VersionConflictError):
        store.write(SECOND, standing)


@pytest.mark.parametrize("serial", [1, 2])
def test_a_serial_that_does_not_rise_is_refused(store, serial):
    store.write(SECOND, None)
    with pytest.raises(ValueError, match="serial"):
        store.write(replace(FIRST, serial=serial), store.read())
    assert store.read().mark == SECOND


def test_of_many_that_move_one_mark_one_succeeds(store):
    store.write(FIRST, None)
    standing, barrier, outcomes = store.read(), threading.Barrier(6), []

    def race(number):
        barrier.wait(DEADLINE_SECONDS)
        try:
            store.write(replace(SECOND, token=f"token-{number}"), standing)
        except VersionConflictError:
            outcomes.append("conflict")
        else:
            outcomes.append(f"token-{number}")

    threads = [threading.Thread(target=race, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert outcomes.count("conflict") == 5
    (winner,) = set(outcomes) - {"conflict"}
    assert store.read().mark.token == winner


def test_a_document_that_is_no_mark_is_an_error_that_names_its_fields(emulator):
    store = store_of(emulator)
    store._commit(Write(update=Document(name=store._name(), fields=encode({"serial": "Müller", "epoch": 1}))))
    with pytest.raises(InvalidDocumentError, match=r"database_id, proposed_at, serial, token") as caught:
        store.read()
    assert "ller" not in str(caught.value)
    store.close()


def test_a_store_that_is_away_is_a_transient_error(tmp_path):
    store = make_mark_store(
        FirestoreSettings("p", emulator_host=FirestoreEmulator(tmp_path).address, read_timeout_seconds=0.2)
    )
    with pytest.raises(TransientError):
        store.read()
    store.close()
