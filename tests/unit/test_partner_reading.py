"""The parts behind the directory: single flight, the circuit around the store, settings."""

import threading
from datetime import UTC, datetime

import pytest
from fakes.partner_store import InMemoryPartnerStore
from partner_documents import new_partner
from waiting import DEADLINE_SECONDS, wait_until

from bridge.clock import ManualClock
from bridge.errors import SettingsError, TransientError
from bridge.gcp.firestore_documents import FirestoreSettings, decode, encode
from bridge.partner_directory import PartnerDirectorySettings
from bridge.partner_source import PartnerSource
from bridge.ports import InvalidDocumentError
from bridge.single_flight import SingleFlight

pytestmark = pytest.mark.unit


class Flights:
    """Threads that all want one key; the first to come leads and waits at the gate."""

    def __init__(self, load):
        self.flights = SingleFlight()
        self.gate = threading.Event()
        self.loads = 0
        self.results = []
        self._load = load

    def _gated(self):
        self.loads += 1
        self.gate.wait(DEADLINE_SECONDS)
        return self._load()

    def _run(self):
        try:
            self.results.append(self.flights.run("key", self._gated))
        except TransientError as error:
            self.results.append(error)

    def run(self, count):
        threads = [threading.Thread(target=self._run) for _ in range(count)]
        for thread in threads:
            thread.start()
        wait_until(lambda: self.loads == 1)
        wait_until(lambda: waiters(self.flights, "key") == count - 1)
        self.gate.set()
        for thread in threads:
            thread.join(DEADLINE_SECONDS)


def waiters(flights, key):
    flight = flights._flights.get(key)
    return len(flight._condition._waiters) if flight is not None else 0


def test_one_load_serves_all_who_wait_for_it():
    flights = Flights(lambda: "loaded")
    flights.run(6)
    assert (flights.loads, flights.results) == (1, ["loaded"] * 6)
    assert flights.flights.run("key", lambda: "anew") == "anew"


def test_all_who_wait_get_the_error_and_the_next_loads_again():
    error = TransientError("away")

    def fail():
        raise error

    flights = Flights(fail)
    flights.run(4)
    assert (flights.loads, flights.results) == (1, [error] * 4)
    assert flights.flights.run("key", lambda: "anew") == "anew"


def test_another_key_does_not_wait():
    flights = SingleFlight()
    assert flights.run("outer", lambda: flights.run("inner", lambda: "inner")) == "inner"


@pytest.fixture
def clock():
    return ManualClock(datetime(2026, 3, 1, tzinfo=UTC))


class Circuit:
    def __init__(self, clock):
        self.store = InMemoryPartnerStore()
        self.partner = new_partner("shop")
        self.store.put(self.partner, None)
        self.probes = []
        self.source = PartnerSource(self.store, clock, 5.0, self.probes.append)

    def refused(self):
        with pytest.raises(TransientError):
            self.source.get(self.partner.partner_id)


@pytest.fixture
def circuit(clock):
    return Circuit(clock)


def test_a_store_that_fails_is_left_alone_until_a_probe_succeeds(circuit, clock):
    circuit.store.failure = TransientError("away")
    circuit.refused()
    for _ in range(3):
        circuit.refused()
    assert (len(circuit.store.asked), circuit.probes) == (1, [])

    clock.advance(5)
    circuit.refused()
    circuit.refused()
    (probe,) = circuit.probes
    probe()
    circuit.refused()
    assert len(circuit.store.asked) == 2

    circuit.store.failure = None
    clock.advance(5)
    circuit.refused()
    circuit.probes[-1]()
    assert circuit.source.get(circuit.partner.partner_id) == circuit.partner
    assert circuit.source.find_by_client("shop") == circuit.partner


def test_a_damaged_document_shows_that_the_store_is_there(circuit, clock):
    circuit.store.failure = TransientError("away")
    circuit.refused()
    circuit.store.failure = None
    circuit.store.plant(circuit.partner.partner_id, {"status": "?"})
    clock.advance(5)
    circuit.refused()
    circuit.probes[-1]()
    with pytest.raises(InvalidDocumentError):
        circuit.source.get(circuit.partner.partner_id)
    with pytest.raises(InvalidDocumentError):
        circuit.source.get(circuit.partner.partner_id)


@pytest.mark.parametrize("value", ["", "59", "-1", "1e9", "7776001", "one week"])
def test_the_age_of_a_copy_is_bounded(value):
    with pytest.raises(SettingsError, match="PARTNER_MAX_STALE_SECONDS"):
        PartnerDirectorySettings.from_environment({"PARTNER_MAX_STALE_SECONDS": value})
    assert PartnerDirectorySettings.from_environment({}).max_stale_seconds == 7 * 86_400
    given = PartnerDirectorySettings.from_environment({"PARTNER_MAX_STALE_SECONDS": "3600"})
    assert given.max_stale_seconds == 3600


def test_the_emulator_is_refused_on_cloud_run():
    local = {"GOOGLE_CLOUD_PROJECT": "p", "FIRESTORE_EMULATOR_HOST": "127.0.0.1:8086"}
    assert FirestoreSettings.from_environment(local).emulator_host == "127.0.0.1:8086"
    with pytest.raises(SettingsError, match="FIRESTORE_EMULATOR_HOST"):
        FirestoreSettings.from_environment(local | {"K_SERVICE": "gateway"})
    with pytest.raises(SettingsError, match="GOOGLE_CLOUD_PROJECT"):
        FirestoreSettings.from_environment({})


def test_json_survives_firestores_values():
    fields = {
        "null": None, "yes": True, "no": False, "zero": 0, "whole": -(2**53) - 1, "half": 0.5, "text": "Ä€",
        "empty": [], "list": [1, "a", None, {"b": []}], "map": {}, "deep": {"a": {"b": {"c": [True]}}},
    }  # fmt: skip
    decoded = decode(encode(fields))
    assert decoded == fields
    assert [type(decoded[name]) for name in ("yes", "zero", "half")] == [bool, int, float]
