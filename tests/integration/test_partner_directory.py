"""The directory over a real mirror: a store that can be taken away, a clock turned by hand."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from fakes.partner_store import InMemoryPartnerStore
from partner_documents import changed, new_partner
from sqlalchemy import create_engine
from structlog.testing import capture_logs
from waiting import DEADLINE_SECONDS, wait_until

from bridge.clock import ManualClock
from bridge.errors import TransientError
from bridge.partner_directory import PartnerDirectorySettings, make_directory
from bridge.partner_mirror import PartnerMirror, restore_from_mirror
from bridge.storage import partner_configs

pytestmark = pytest.mark.integration

NOWHERE = "postgresql+pg8000://nobody@127.0.0.1:1/none"
AWAY = TransientError("the store is away")


@pytest.fixture
def clock():
    return ManualClock(datetime(2026, 3, 1, 12, 0, tzinfo=UTC))


@pytest.fixture
def store():
    return InMemoryPartnerStore()


class Probes:
    """Runs the background probes when the test says so."""

    def __init__(self):
        self.waiting = []

    def __call__(self, task):
        self.waiting.append(task)

    def run(self):
        waiting, self.waiting = self.waiting, []
        for task in waiting:
            task()
        return len(waiting)


@pytest.fixture
def probes():
    return Probes()


@pytest.fixture
def make(database, store, clock, probes):
    """Makes directories of as many processes as a test wants, on one database and one store."""

    def make(engine=database.engine, **settings):
        return make_directory(store, engine, clock, PartnerDirectorySettings(**settings), probes)

    return make


@pytest.fixture
def nowhere():
    """A database that is away."""
    engine = create_engine(NOWHERE, hide_parameters=True)
    yield engine
    engine.dispose()


def mirrored(database, partner_id):
    with database.engine.begin() as connection:
        return partner_configs.read(connection, partner_id)


def errors(logs):
    return [entry["event"] for entry in logs if entry["log_level"] == "error"]


def test_a_partner_is_asked_for_once_within_the_ttl(make, store, clock):
    partner = new_partner("shop")
    store.put(partner, None)
    directory = make()
    assert directory.partner(partner.partner_id) == partner
    assert directory.by_client("shop") == partner
    clock.advance(29.9)
    assert directory.partner(partner.partner_id) == partner
    assert store.asked == [partner.partner_id]


def test_a_suspension_is_seen_when_the_ttl_is_over(make, store, clock):
    partner = new_partner("shop")
    store.put(partner, None)
    directory = make()
    assert directory.by_client("shop").status == "active"
    store.put(changed(partner, status="suspended"), 1)
    clock.advance(30)
    assert directory.by_client("shop").status == "suspended"
    assert directory.partner(partner.partner_id).status == "suspended"


def test_an_unknown_partner_or_client_is_remembered_for_5_seconds(make, store, clock):
    directory = make()
    stranger = new_partner("new-shop")
    for _ in range(3):
        assert directory.partner(stranger.partner_id) is None
        assert directory.by_client("new-shop") is None
    assert store.asked == [stranger.partner_id, "new-shop"]
    store.put(stranger, None)
    clock.advance(5)
    assert directory.by_client("new-shop") == stranger
    assert directory.partner(stranger.partner_id) == stranger


@pytest.mark.parametrize("name", ["", "par_1", "a/b", "x" * 101, "nul\x00", "shop\n"])
def test_what_can_not_be_an_id_is_nobody_and_asks_nobody(make, store, name):
    directory = make()
    assert directory.partner(name) is None
    if name != "par_1":
        assert directory.by_client(name) is None
    assert store.asked == []


def test_a_client_that_was_taken_from_its_partner_is_nobodys(make, store, clock):
    partner = new_partner("kept", "taken")
    store.put(partner, None)
    directory = make()
    assert directory.by_client("taken") == partner
    newer = changed(partner, clients=partner.clients[:1])
    store.put(newer, 1)
    clock.advance(30)
    with capture_logs() as logs:
        assert directory.by_client("taken") is None
        assert make().by_client("taken") is None
    assert directory.by_client("kept") == newer
    assert errors(logs) == []


def test_a_client_that_moved_is_found_at_its_new_partner(make, store, clock):
    old, new = new_partner("moving", "staying"), new_partner("other")
    store.put(old, None)
    store.put(new, None)
    directory = make()
    assert directory.by_client("moving") == old
    store.put(changed(old, clients=old.clients[1:]), 1)
    moved = changed(new, clients=(*new.clients, old.clients[0]))
    store.put(moved, 1)
    clock.advance(30)
    assert directory.by_client("moving") == moved


def test_while_the_store_is_away_what_was_read_is_served(make, store, clock, probes):
    partner = new_partner("shop")
    store.put(partner, None)
    directory = make()
    directory.partner(partner.partner_id)
    store.failure = AWAY
    clock.advance(3600)
    assert directory.partner(partner.partner_id) == partner
    assert directory.by_client("shop") == partner
    store.failure = None
    clock.advance(5)
    directory.partner(partner.partner_id)
    assert probes.run() == 1
    newer = changed(partner, status="suspended")
    store.put(newer, 1)
    clock.advance(5)
    assert directory.partner(partner.partner_id) == newer


def test_a_store_that_is_away_is_asked_once_per_interval_and_never_by_a_waiting_caller(
    make, store, clock, probes
):
    partners = [new_partner() for _ in range(5)]
    for partner in partners:
        store.put(partner, None)
        make().partner(partner.partner_id)
    store.asked.clear()
    store.failure = AWAY
    directory = make()
    for partner in partners:
        assert directory.partner(partner.partner_id) == partner
    assert len(store.asked) == 1
    for _ in range(3):
        clock.advance(5)
        for partner in partners:
            assert directory.partner(partner.partner_id) == partner
        assert len(probes.waiting) == 1
        assert probes.run() == 1
    assert len(store.asked) == 4


def test_a_cold_start_without_the_store_is_served_from_the_mirror(make, store):
    partner = new_partner("shop")
    store.put(partner, None)
    make().partner(partner.partner_id)
    store.failure = AWAY
    assert make().partner(partner.partner_id) == partner
    assert make().by_client("shop") == partner


def test_who_is_unknown_while_the_store_is_away_is_not_denied(make, store):
    store.failure = AWAY
    directory = make()
    with pytest.raises(TransientError):
        directory.partner(new_partner().partner_id)
    with pytest.raises(TransientError):
        directory.by_client("nobody")


def test_while_the_store_is_away_a_newer_copy_of_another_process_is_found(make, store, clock):
    partner = new_partner("shop")
    store.put(partner, None)
    directory = make()
    directory.partner(partner.partner_id)
    suspended = changed(partner, status="suspended")
    store.put(suspended, 1)
    make().partner(partner.partner_id)
    store.failure = AWAY
    assert directory.partner(partner.partner_id) == partner
    clock.advance(30)
    assert directory.partner(partner.partner_id) == suspended


def test_a_copy_that_is_too_old_is_not_served(make, store, clock):
    partner = new_partner("shop")
    store.put(partner, None)
    directory = make(max_stale_seconds=600)
    directory.partner(partner.partner_id)
    store.failure = AWAY
    clock.advance(600)
    assert directory.partner(partner.partner_id) == partner
    assert make(max_stale_seconds=600).by_client("shop") == partner
    clock.advance(5)
    for reader in (directory, make(max_stale_seconds=600)):
        with pytest.raises(TransientError):
            reader.partner(partner.partner_id)
        with pytest.raises(TransientError):
            reader.by_client("shop")


def test_an_unchanged_document_stays_young_in_the_mirror(make, store, clock, database):
    partner = new_partner()
    store.put(partner, None)
    directory = make()
    directory.partner(partner.partner_id)
    first_seen = mirrored(database, partner.partner_id).seen_at
    clock.advance(60)
    directory.partner(partner.partner_id)
    assert mirrored(database, partner.partner_id).seen_at == first_seen
    clock.advance(3600)
    directory.partner(partner.partner_id)
    assert mirrored(database, partner.partner_id).seen_at == first_seen + timedelta(seconds=3660)


def test_a_document_that_is_gone_is_served_and_told(make, store, clock):
    partner = new_partner("shop")
    store.put(partner, None)
    directory = make()
    directory.partner(partner.partner_id)
    store.lose(partner.partner_id)
    clock.advance(30)
    for reader in (directory, make()):
        with capture_logs() as logs:
            assert reader.partner(partner.partner_id) == partner
            assert reader.by_client("shop") == partner
        assert errors(logs) == ["partner document is gone from Firestore"]


def test_a_document_that_was_never_read_is_found_gone_by_its_client(make, store):
    partner = new_partner("shop")
    store.put(partner, None)
    make().partner(partner.partner_id)
    store.lose(partner.partner_id)
    with capture_logs() as logs:
        assert make().by_client("shop") == partner
    assert errors(logs) == ["partner document is gone from Firestore"]


def test_a_damaged_document_leaves_the_last_good_one(make, store, clock):
    partner = new_partner("shop")
    store.put(partner, None)
    directory = make()
    directory.partner(partner.partner_id)
    store.plant(partner.partner_id, partner.model_dump(mode="json") | {"version": 2, "status": "Meier"})
    clock.advance(30)
    for reader in (directory, make()):
        with capture_logs() as logs:
            assert reader.partner(partner.partner_id) == partner
            assert reader.by_client("shop") == partner
        assert errors(logs) == ["partner document is not valid"]
        assert "Meier" not in str(logs)


def test_a_damaged_document_without_a_good_copy_answers_nothing(make, store):
    partner = new_partner("shop")
    store.plant(partner.partner_id, partner.model_dump(mode="json") | {"status": "?"})
    with capture_logs() as logs, pytest.raises(TransientError):
        make().partner(partner.partner_id)
    assert errors(logs) == ["partner document is not valid"]
    with pytest.raises(TransientError):
        make().by_client("shop")


def test_an_older_document_in_the_store_does_not_undo_a_newer_one(make, store, clock, database):
    partner = new_partner("shop")
    suspended = changed(partner, status="suspended")
    store.put(partner, None)
    store.put(suspended, 1)
    directory = make()
    directory.partner(partner.partner_id)
    store.lose(partner.partner_id)
    store.put(partner, None)  # as after restoring an old backup of Firestore
    clock.advance(30)
    for reader in (directory, make()):
        with capture_logs() as logs:
            assert reader.partner(partner.partner_id) == suspended
            assert reader.by_client("shop") == suspended
        assert errors(logs) == ["partner document in Firestore is older than one seen before"]
    assert mirrored(database, partner.partner_id).version == 2


def test_an_older_version_never_overwrites_a_newer_in_the_mirror(database, clock):
    """The slower of two connections waits for the faster and then finds its own version out of date."""
    partner = new_partner()
    newer = changed(partner, status="suspended")
    now = clock.now()
    slow_result = []
    mirror = PartnerMirror(database.engine)

    def write_older():
        slow_result.append(mirror.remember(partner, now + timedelta(seconds=1)))

    with database.engine.begin() as connection:
        partner_configs.upsert(
            connection,
            partner_id=newer.partner_id,
            version=2,
            document=newer.model_dump(mode="json"),
            seen_at=now,
        )
        slow = threading.Thread(target=write_older)
        slow.start()
        wait_until(lambda: waits_for_a_lock(database))
    slow.join(DEADLINE_SECONDS)
    assert slow_result == [newer]
    assert mirrored(database, partner.partner_id).version == 2
    assert mirror.remember(newer, now - timedelta(seconds=1)) == newer
    assert mirrored(database, partner.partner_id).seen_at == now


def waits_for_a_lock(database):
    with database.engine.begin() as connection:
        return connection.exec_driver_sql(
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ).first()


def test_many_threads_ask_the_store_once(make, store):
    partner = new_partner("shop")
    store.put(partner, None)
    gate = threading.Event()
    store.before_answer = lambda: gate.wait(DEADLINE_SECONDS)
    directory = make()
    answers = []

    def ask(by_client):
        answers.append(directory.by_client("shop") if by_client else directory.partner(partner.partner_id))

    threads = [threading.Thread(target=ask, args=(number % 2,)) for number in range(12)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(store.asked) == 2)
    gate.set()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert answers == [partner] * 12
    assert sorted(store.asked) == sorted([partner.partner_id, "shop"])


def test_a_thread_that_comes_when_the_load_is_done_does_not_load_again(make, store):
    partner = new_partner()
    store.put(partner, None)
    directory = make()
    assert directory.partner(partner.partner_id) == partner
    # as a thread does that looked before the first one was done
    assert directory._load_partner(partner.partner_id) == partner
    assert store.asked == [partner.partner_id]


def test_an_answer_that_was_long_on_its_way_does_not_undo_a_newer_one(make, store, nowhere):
    partner = new_partner("shop")
    suspended = changed(partner, status="suspended")
    store.put(partner, None)
    directory = make(nowhere)

    def overtake():
        store.before_answer = lambda: None
        store.put(suspended, 1)
        assert directory.partner(partner.partner_id) == suspended

    store.before_answer = overtake
    assert directory.by_client("shop") == suspended
    assert directory.partner(partner.partner_id) == suspended


def test_without_the_mirror_an_older_document_does_not_undo_a_newer_one(make, store, clock, nowhere):
    partner = new_partner("shop")
    suspended = changed(partner, status="suspended")
    store.put(partner, None)
    store.put(suspended, 1)
    directory = make(nowhere)
    directory.partner(partner.partner_id)
    store.lose(partner.partner_id)
    store.put(partner, None)
    clock.advance(30)
    with capture_logs() as logs:
        assert directory.partner(partner.partner_id) == suspended
        assert directory.partner(partner.partner_id) == suspended
    assert errors(logs) == ["partner document in Firestore is older than one seen before"]


def test_without_the_mirror_the_store_is_enough(make, store, clock, nowhere):
    partner = new_partner("shop")
    store.put(partner, None)
    directory = make(nowhere)
    assert directory.by_client("shop") == partner
    newer = changed(partner, status="suspended")
    store.put(newer, 1)
    clock.advance(30)
    assert directory.partner(partner.partner_id) == newer
    store.failure = AWAY
    clock.advance(30)
    assert directory.partner(partner.partner_id) == newer
    with pytest.raises(TransientError):
        directory.partner(new_partner().partner_id)


def test_every_service_that_reads_partners_may_keep_the_mirror(make, store, database):
    partner = new_partner("shop")
    store.put(partner, None)
    for role in ("gateway", "sap_adapter", "webhooks", "partners"):
        engine = database.engine_for(role)
        with capture_logs() as logs:
            assert make(engine).by_client("shop") == partner
        engine.dispose()
        assert logs == []


def test_the_mirror_fills_an_empty_store_and_leaves_the_rest(make, store, database):
    kept, lost = new_partner("kept"), new_partner("lost")
    for partner in (kept, lost):
        store.put(partner, None)
        make().partner(partner.partner_id)
    newer = changed(kept, status="suspended")
    store.put(newer, 1)
    store.lose(lost.partner_id)
    assert restore_from_mirror(database.engine, store) == 1
    assert store.get(lost.partner_id) == lost
    assert store.get(kept.partner_id) == newer
    assert restore_from_mirror(database.engine, store) == 0


def test_a_partner_whose_client_another_copy_has_too_does_not_stop_the_restoring(store, database, clock):
    old, new, rest = new_partner("moved", "kept"), new_partner("moved"), new_partner("rest")
    mirror = PartnerMirror(database.engine)
    for partner in (old, new, rest):
        mirror.remember(partner, clock.now())
    with capture_logs() as logs:
        assert restore_from_mirror(database.engine, store) == 2
    assert errors(logs) == ["partner not restored, its client is another's"]
    assert store.get(rest.partner_id) == rest


def test_a_dated_change_takes_effect_by_the_clock_also_while_firestore_is_away(make, store, clock):
    from_then = clock.now() + timedelta(hours=1)
    dated = [{"effective_from": from_then, "status": "suspended"}]
    partner = changed(new_partner("shop"), dated_changes=dated, version=1)
    store.put(partner, None)
    directory = make()
    assert directory.by_client("shop").status == "active"
    store.failure = AWAY
    clock.advance(3599)
    assert directory.partner(partner.partner_id).status == "active"
    clock.advance(1)
    assert directory.partner(partner.partner_id).status == "suspended"
    assert directory.by_client("shop").status == "suspended"
    assert make().by_client("shop").status == "suspended"
