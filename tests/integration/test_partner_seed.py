"""The local stack's demo partners, in a real Firestore emulator and a real mirror."""

import pytest
import standardwebhooks
from argon2 import PasswordHasher
from firestore_emulator import FirestoreEmulator
from partner_documents import changed

from bridge.key_ring_file import KeyRingSettings, open_key_ring
from bridge.payment import OperationKind
from bridge.storage import partner_configs
from bridge.webhook_secrets import open_secret
from devstack.keys import load_or_create
from devstack.seed import seed

pytestmark = pytest.mark.integration

RECEIVER = "http://127.0.0.1:8091"


@pytest.fixture
def emulator(tmp_path):
    running = FirestoreEmulator(tmp_path).start()
    yield running
    running.kill()


@pytest.fixture
def store(emulator):
    opened = emulator.patient_store()
    yield opened
    opened.close()


def test_the_demo_partners_can_do_what_their_credentials_say(database, store, tmp_path):
    keys = load_or_create(tmp_path / "keys")
    seed(database.engine, store, keys, RECEIVER)
    ring = open_key_ring(KeyRingSettings(str(keys.webhook_secrets), "webhook-secrets"))
    assert len(keys.partners) == 2
    for partner in keys.partners:
        document = store.find_by_client(partner.client_id)
        assert document.partner_id == partner.partner_id
        assert PasswordHasher().verify(document.client(partner.client_id).secret_hash, partner.client_secret)
        assert set(document.targets["main"].mappings) == set(OperationKind)
        (endpoint,) = document.webhook_endpoints
        assert endpoint.url == f"{RECEIVER}/webhooks/{partner.partner_id}"
        (secret,) = endpoint.secrets
        assert endpoint.keys[0].public != endpoint.next_key.public
        assert open_secret(ring, endpoint.endpoint_id, secret.encrypted) == partner.webhook_secret
        standardwebhooks.Webhook(partner.webhook_secret)
        assert partner.client_secret not in document.model_dump_json()
        assert partner.webhook_secret not in document.model_dump_json()


def test_seeding_again_changes_nothing(database, store, tmp_path):
    keys = load_or_create(tmp_path / "keys")
    seed(database.engine, store, keys, RECEIVER)
    first, second = (store.get(partner.partner_id) for partner in keys.partners)
    suspended = changed(second, status="suspended")
    store.put(suspended, 1)
    seed(database.engine, store, load_or_create(tmp_path / "keys"), RECEIVER)
    assert store.get(first.partner_id) == first
    assert store.get(second.partner_id) == suspended


def test_an_emulator_that_has_lost_all_gets_back_what_was_there(database, emulator, store, tmp_path):
    keys = load_or_create(tmp_path / "keys")
    seed(database.engine, store, keys, RECEIVER)
    before = [store.get(partner.partner_id) for partner in keys.partners]
    emulator.kill()
    emulator.start()
    assert store.get(before[0].partner_id) is None
    seed(database.engine, store, keys, RECEIVER)
    assert [store.get(partner.partner_id) for partner in keys.partners] == before


def test_a_crash_between_the_store_and_the_mirror_is_made_good(database, store, tmp_path):
    keys = load_or_create(tmp_path / "keys")
    seed(database.engine, store, keys, RECEIVER)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM partner_configs")
    seed(database.engine, store, keys, RECEIVER)
    with database.engine.begin() as connection:
        mirrored = partner_configs.read_after(connection, "", limit=10)
    assert sorted(row.document["partner_id"] for row in mirrored) == sorted(
        partner.partner_id for partner in keys.partners
    )
