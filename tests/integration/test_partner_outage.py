"""The directory on the real Firestore client while the emulator is killed, hangs and comes back empty."""

import socket
from datetime import UTC, datetime

import pytest
from firestore_emulator import FirestoreEmulator
from partner_documents import changed, new_partner
from waiting import wait_until

from bridge.clock import ManualClock
from bridge.errors import TransientError, UnknownOutcomeError
from bridge.gcp.firestore import make_partner_store
from bridge.gcp.firestore_documents import FirestoreSettings
from bridge.partner_directory import PartnerDirectorySettings, make_directory
from bridge.partner_mirror import restore_from_mirror

pytestmark = pytest.mark.integration

TIMEOUT_SECONDS = 6.0


@pytest.fixture
def emulator(tmp_path):
    running = FirestoreEmulator(tmp_path).start()
    yield running
    running.kill()


@pytest.fixture
def store(emulator):
    opened = emulator.store(read_timeout_seconds=TIMEOUT_SECONDS)
    yield opened
    opened.close()


def test_partners_are_served_while_firestore_is_dead_and_read_again_when_it_is_back(
    database, emulator, store
):
    partner = new_partner("shop")
    store.put(partner, None)
    clock = ManualClock(datetime.now(UTC))
    settings = PartnerDirectorySettings()
    directory = make_directory(store, database.engine, clock, settings)
    assert directory.by_client("shop") == partner
    emulator.kill()
    clock.advance(settings.fresh_seconds)
    # the request that notices pays the timeout, the ones after it nothing (test_partner_directory.py)
    for _ in range(6):
        assert directory.by_client("shop") == partner
        clock.advance(settings.away_seconds)

    second_store = emulator.store()
    cold = make_directory(second_store, database.engine, clock, settings)
    assert cold.by_client("shop") == partner

    emulator.start()
    wait_until(lambda: restored(database, store))
    newer = changed(partner, status="suspended")
    store.put(newer, 1)
    for reader in (directory, cold):
        wait_until(lambda reader=reader: later_read(reader, clock) == newer, what="the newer version")
    second_store.close()


def later_read(directory, clock):
    clock.advance(PartnerDirectorySettings().fresh_seconds)
    return directory.by_client("shop")


def restored(database, store):
    try:
        return restore_from_mirror(database.engine, store) == 1
    except (TransientError, UnknownOutcomeError):
        return False


def test_a_firestore_that_hangs_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        store = make_partner_store(FirestoreSettings("test-project", emulator_host=address))
        partner = new_partner()
        for call in (
            lambda: store.get(partner.partner_id),
            lambda: store.find_by_client("shop"),
            lambda: store.put(partner, None),
        ):
            with pytest.raises(TransientError):
                call()
        store.close()
