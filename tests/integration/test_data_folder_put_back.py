"""A copy of the data folder that is put back, on the same cluster and timeline, is noticed by itself."""

import pytest
from accepted import NOW
from backoffice_stage import make_backoffice
from fakes.accepted import PARTNER_ID
from fakes.mark_store import InMemoryMarkStore
from fakes.publisher import InMemoryPublisher
from own_server import OwnServer
from restore_stage import Restorable
from scratch import scratch_folder
from sqlalchemy import text

from bridge.errors import RecoveryDueError, TransientError
from bridge.storage.delays import tell_delay
from bridge.storage.events import put_back as queue
from bridge.storage.feed import feed_page
from bridge.storage.recovered import FEED_JUMP
from bridge.storage.recoveries import RestoredRecoveryError
from dispatcher.mark_keeper import MarkKeeper, MarkSettings
from dispatcher.relay import OperationsRelay, RelaySettings
from dispatcher.sequencer import Sequencer

pytestmark = pytest.mark.integration


class PutBack(Restorable):
    """Backed up by a copy of the folder; every start of PostgreSQL breaks all connections."""

    def __init__(self, stage, server, database):
        super().__init__(stage, None, database)
        self.server = server

    def back_up(self):
        self.since = self.bridge.clock.now()
        self.copied = self._stopped(self.server.copy)

    def restore(self):
        self.bridge.clock.advance(3600)
        self._stopped(lambda: self.server.put_back(self.copied))

    def close(self):
        for engine in self.engines:
            engine.dispose()

    def _stopped(self, action):
        for engine in self.engines:
            engine.dispose()
        self.server.stop()
        try:
            return action()
        finally:
            self.server.start()


@pytest.fixture
def put_back():
    with scratch_folder("bridge-put-back-") as folder:
        server = OwnServer(folder)
        server.start()
        try:
            database = server.make_database()
            with database.engine.begin() as connection:
                connection.execute(
                    text("INSERT INTO partner_configs VALUES (:partner_id, 1, '{}', :now)"),
                    {"partner_id": PARTNER_ID, "now": NOW},
                )
            for stage in make_backoffice(database):
                stood = PutBack(stage, server, database)
                yield stood
                stood.close()
        finally:
            server.stop()


def fed(put_back):
    with put_back.bridge.engine.begin() as connection:
        return {
            event.sequence: event.event_id for event in feed_page(connection, PARTNER_ID, after=0, limit=1000)
        }


def test_a_copy_of_the_data_folder_was_put_back_and_everything_went_on(put_back):
    bridge, store, publisher = put_back.bridge, InMemoryMarkStore(), InMemoryPublisher()
    keeper = MarkKeeper(put_back.dispatcher, store, bridge.clock, MarkSettings())
    settings = RelaySettings(lease_seconds=10, max_batch=100)
    relay = OperationsRelay("s4-main", put_back.dispatcher, publisher, bridge.clock, settings)
    sequencer = Sequencer(put_back.dispatcher, lambda: None)
    keeper.go_round()
    known = [bridge.accept() for _ in range(4)]
    bridge.step(known[0])
    sequencer.go_round()
    put_back.back_up()
    # the first thing after the start, and the last before the database is lost
    keeper.go_round()
    lost = [bridge.accept() for _ in range(2)]
    for operation_id in (known[1], known[2], *lost):
        bridge.step(operation_id)
    sequencer.go_round()
    numbered, booked = fed(put_back), len(bridge.sap.booked)
    assert booked == 5

    put_back.restore()
    # before anybody has looked at the mark, and after: nothing is posted, published or numbered
    for error in (TransientError, RecoveryDueError):
        bridge.step(known[1])
        again = bridge.accept()
        with bridge.engine.begin() as connection:
            tell_delay(connection, again, now=bridge.clock.now())
            queue(connection, again, not_before=bridge.clock.now(), now=bridge.clock.now())
        relay.go_round()
        sequencer.go_round()
        with pytest.raises(error):
            put_back.cancel(bridge.row(known[1]).payment_id)
        assert put_back.stage.post(f"/admin/payments/{known[1]}/reject").status_code == 503
        assert len(bridge.sap.booked) == len(bridge.sap.sendings) == booked
        assert publisher.calls == 0
        assert fed(put_back).items() <= numbered.items()
        keeper.go_round()
    assert (bridge.lane().held, bridge.lane().held_by) == (True, "recovery")
    assert put_back.latest()["suspicion"]["reason"] == "behind"
    epoch = store.read().mark.epoch

    put_back.recover()
    keeper.go_round()
    assert store.read().mark.epoch == epoch + 1
    assert not bridge.lane().held
    put_back.let_all_go_on()
    sequencer.go_round()
    keeper.go_round()
    references = put_back.references()
    assert len(references) == len(set(references)) == len(put_back.operations())
    assert {row.payment_status for row in put_back.operations()} == {"paid"}
    assert bridge.row(again).status == "succeeded"
    fresh = fed(put_back).items() - numbered.items()
    assert fresh
    assert min(sequence for sequence, _ in fresh) > FEED_JUMP


class KilledError(Exception):
    """The recovery's job was killed."""


class KillingTheJob:
    """SAP's list of documents, at the first look for which the job dies: it has marked the operations."""

    def documents_since(self, _day, _offset):
        raise KilledError


def refuses_to_carry_on(put_back):
    refused = put_back.begin()
    with pytest.raises(RestoredRecoveryError, match="--restart"):
        put_back.job().run()
    return (refused.status_code, "--restart" in refused.json["detail"]) == (409, True)


def test_a_copy_of_the_data_folder_made_during_a_recovery_gave_numbers_twice_when_it_was_put_back(put_back):
    bridge, store = put_back.bridge, InMemoryMarkStore()
    keeper = MarkKeeper(put_back.dispatcher, store, bridge.clock, MarkSettings())
    sequencer = Sequencer(put_back.dispatcher, lambda: None)
    keeper.go_round()
    put_back.since = bridge.clock.now()
    assert put_back.begin().status_code == 201
    with pytest.raises(KilledError):
        put_back.job(KillingTheJob()).run()
    put_back.back_up()
    # PostgreSQL has only started again, which looks no different
    assert refuses_to_carry_on(put_back)
    assert put_back.begin(restart=True).status_code == 201
    assert put_back.job().run()
    keeper.go_round()
    bridge.step(bridge.accept())
    sequencer.go_round()
    numbered = fed(put_back)
    assert numbered
    assert len(bridge.sap.booked) == 1

    put_back.restore()
    keeper.go_round()
    assert refuses_to_carry_on(put_back)
    assert put_back.begin(restart=True).status_code == 201
    assert put_back.job().run()
    keeper.go_round()
    bridge.step(bridge.accept())
    put_back.let_all_go_on()
    sequencer.go_round()
    assert {row.payment_status for row in put_back.operations()} == {"paid"}
    assert len(put_back.operations()) == len(set(put_back.references())) == len(bridge.sap.booked) == 2
    assert not fed(put_back).keys() & numbered.keys()
