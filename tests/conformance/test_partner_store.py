"""The port PartnerStore: the fake, and Firestore's own emulator."""

import threading
import uuid

import firestore_emulator
import pytest
from fakes.partner_store import InMemoryPartnerStore
from firestore_emulator import FirestoreEmulator
from partner_documents import changed, new_partner
from waiting import DEADLINE_SECONDS

from bridge.errors import TransientError
from bridge.ports import ClientTakenError, InvalidDocumentError, VersionConflictError

pytestmark = pytest.mark.conformance


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    running = FirestoreEmulator(tmp_path_factory.mktemp("firestore")).start()
    yield running
    running.kill()


@pytest.fixture(params=["fake", "emulator"])
def store(request):
    if request.param == "fake":
        made = InMemoryPartnerStore()
    else:
        made = request.getfixturevalue("emulator").patient_store(f"project-{uuid.uuid4()}")
    yield made
    made.close()


def plant(store, partner_id, document):
    if isinstance(store, InMemoryPartnerStore):
        store.plant(partner_id, document)
    else:
        firestore_emulator.plant(store, partner_id, document)


def test_a_document_comes_back_as_it_was_written(store):
    partner = new_partner("shop-1", "shop-2")
    store.put(partner, None)
    assert store.get(partner.partner_id) == partner


def test_what_was_never_written_is_none(store):
    assert store.get(new_partner().partner_id) is None
    assert store.find_by_client("nobody") is None


@pytest.mark.parametrize("partner_id", ["", "x", "par_1/sub/doc", "../partners", "par_" + "0" * 25])
def test_an_id_of_another_form_is_none(store, partner_id):
    assert store.get(partner_id) is None


def test_a_partner_is_found_by_each_of_its_clients(store):
    first, second = new_partner("shop-1", "shop-2"), new_partner("shop-3")
    store.put(first, None)
    store.put(second, None)
    assert store.find_by_client("shop-2") == first
    assert store.find_by_client("shop-3") == second
    assert store.find_by_client("shop") is None


def test_a_partner_is_found_by_a_revoked_client(store):
    partner = new_partner("shop-1")
    revoked = changed(partner, clients=[partner.clients[0].model_dump() | {"status": "revoked"}])
    store.put(partner, None)
    store.put(revoked, 1)
    assert store.find_by_client("shop-1") == revoked


def test_pages_run_through_all_partners_by_id_and_show_a_damaged_one(store):
    partners = [new_partner(f"shop-{number}") for number in range(5)]
    for partner in partners:
        store.put(partner, None)
    partners.sort(key=lambda partner: partner.partner_id)
    damaged = {"partner_id": partners[1].partner_id, "version": 1, "clients": []}
    plant(store, partners[1].partner_id, damaged)
    first = store.page("", 2)
    assert first == [(partners[0].partner_id, partners[0]), (partners[1].partner_id, None)]
    rest = store.page(first[-1][0], 100)
    assert rest == [(partner.partner_id, partner) for partner in partners[2:]]
    assert store.page(rest[-1][0], 100) == []


def test_a_change_replaces_the_whole_document(store):
    partner = new_partner("shop-1", "shop-2")
    store.put(partner, None)
    newer = changed(partner, clients=[partner.clients[1].model_dump()], webhook_endpoints=[])
    store.put(newer, 1)
    assert store.get(partner.partner_id) == newer
    assert store.find_by_client("shop-1") is None
    assert store.find_by_client("shop-2") == newer


def test_a_change_from_another_version_is_a_conflict(store):
    partner = new_partner()
    store.put(partner, None)
    newer = changed(partner, status="suspended")
    for expected in (None, 2):
        with pytest.raises(VersionConflictError):
            store.put(changed(newer), expected)
    assert store.get(partner.partner_id) == partner
    store.put(newer, 1)
    with pytest.raises(VersionConflictError):
        store.put(newer, 1)


def test_a_change_of_what_is_not_there_is_a_conflict(store):
    with pytest.raises(VersionConflictError):
        store.put(changed(new_partner()), 1)


def test_a_version_that_does_not_rise_is_refused(store):
    partner = new_partner()
    store.put(partner, None)
    with pytest.raises(ValueError, match="version"):
        store.put(partner, 1)


def test_a_client_belongs_to_one_partner(store):
    first, second = new_partner("shop-1"), new_partner("shop-2")
    store.put(first, None)
    store.put(second, None)
    with pytest.raises(ClientTakenError):
        store.put(new_partner("shop-9", "shop-1"), None)
    with pytest.raises(ClientTakenError):
        store.put(changed(second, clients=first.clients), 1)
    assert store.get(second.partner_id) == second


def test_of_many_changes_from_one_version_one_is_taken(store):
    partner = new_partner()
    store.put(partner, None)
    barrier = threading.Barrier(6)
    outcomes = []

    def race(number):
        barrier.wait(DEADLINE_SECONDS)
        try:
            store.put(changed(partner, name=f"Muster {number}"), 1)
        except VersionConflictError:
            outcomes.append("conflict")
        else:
            outcomes.append(f"Muster {number}")

    threads = [threading.Thread(target=race, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert outcomes.count("conflict") == 5
    (winner,) = set(outcomes) - {"conflict"}
    assert store.get(partner.partner_id).name == winner


def test_a_document_that_does_not_fit_is_an_error_without_its_contents(store):
    partner = new_partner("shop-1")
    damaged = partner.model_dump(mode="json") | {"status": "Müller", "surprise": "Meier"}
    plant(store, partner.partner_id, damaged)
    for look_up in (lambda: store.get(partner.partner_id), lambda: store.find_by_client("shop-1")):
        with pytest.raises(InvalidDocumentError, match=r"status") as caught:
            look_up()
        assert "ller" not in str(caught.value)
        assert "Meier" not in str(caught.value)
        assert caught.value.__cause__ is None


def test_a_store_that_is_away_is_a_transient_error(tmp_path):
    emulator = FirestoreEmulator(tmp_path)
    with pytest.raises(TransientError):
        emulator.store().get(new_partner().partner_id)
