"""Adapter and dispatcher on machines with wrong clocks, and what they do when they do not know the time."""

from datetime import timedelta

import pytest
from fakes.in_memory_connector import InMemoryConnector
from posting_stage import LEASE_SECONDS, READ_LAG_SECONDS, SETTLING_SECONDS, make_bridge
from sqlalchemy import text

from backoffice.change_operation import Operations
from backoffice.order import Order
from bridge.clock import MAX_UNCERTAINTY_SECONDS, ManualClock, SystemClock
from bridge.errors import TransientError
from bridge.storage.database_clock import DatabaseClock
from bridge.storage.engine import DatabaseSettings, make_engine
from dispatcher.watchdog import Watchdog, WatchdogSettings

pytestmark = pytest.mark.integration

WATCHDOG = WatchdogSettings(5.0, 60.0, SETTLING_SECONDS, 900.0)


class WrongMachine(SystemClock):
    def __init__(self, ahead_seconds):
        self.ahead_seconds = ahead_seconds

    def now(self):
        return super().now() + timedelta(seconds=self.ahead_seconds)


class Uncertain(ManualClock):
    """The shared clock, `off_seconds` wrong, and it knows that it may be up to `uncertainty`."""

    def __init__(self, shared, uncertainty, off_seconds=0.0):
        self.shared, self.uncertainty, self.off_seconds = shared, uncertainty, off_seconds

    def now(self):
        return self.shared.now() + timedelta(seconds=self.off_seconds)

    def monotonic(self):
        return self.shared.monotonic()

    def uncertainty_seconds(self):
        return self.uncertainty


class WatchedSap(InMemoryConnector):
    """A watchdog's round comes into every call, as it does where calls take seconds."""

    def __init__(self, watchdog, engine):
        super().__init__()
        self.watchdog, self.engine = watchdog, engine
        self.leases_ended = 0

    def post(self, sending):
        answer = super().post(sending)
        self.watchdog.go_round()
        with self.engine.connect() as connection:
            ended = "SELECT count(*) FROM operations WHERE sent_unresolved AND lease_until IS NULL"
            self.leases_ended += connection.execute(text(ended)).scalar_one()
        return answer


@pytest.fixture
def service(database):
    """Engines with a service's own rights, each with the clock of its machine."""
    made = []

    def make(role, ahead_seconds):
        clock = DatabaseClock(WrongMachine(ahead_seconds))
        settings = DatabaseSettings(database.url_for(role), None, None, None)
        made.append(make_engine(settings, pool_size=4, application_name=role, prepared=True, clock=clock))
        return made[-1], clock

    yield make
    for engine in made:
        engine.dispose()


@pytest.fixture
def bridge(database):
    engine = database.engine_for("sap_adapter")
    yield make_bridge(database.engine, engine)
    engine.dispose()


@pytest.mark.parametrize(
    ("adapter_ahead", "dispatcher_ahead"), [(0, 90), (-90, 0), (-600, 600), (600, -600), (90, -90)]
)
def test_no_claim_that_runs_is_ended_by_a_dispatcher_whose_machine_is_ahead(
    database, service, adapter_ahead, dispatcher_ahead
):
    adapter, adapter_clock = service("sap_adapter", adapter_ahead)
    dispatcher, dispatcher_clock = service("dispatcher", dispatcher_ahead)
    sap = WatchedSap(Watchdog(dispatcher, dispatcher_clock, WATCHDOG, lambda: None), database.engine)
    bridge = make_bridge(database.engine, adapter, clock=adapter_clock, sap=sap)
    operation_id = bridge.accept()
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.claims_started, row.claims_finished) == ("succeeded", 1, 1)
    # what came back late would be recorded all the same (decision 26): the end of the lease shows in the call
    assert (len(sap.booked), sap.leases_ended) == (1, 0)


@pytest.mark.parametrize("behind", [5, 90, 600])
def test_what_an_adapter_on_a_machine_behind_time_has_lost_settled_too_early(database, service, behind):
    adapter, clock = service("sap_adapter", -behind)
    bridge = make_bridge(database.engine, adapter, clock=clock)
    operation_id = bridge.accept()
    bridge.sap.script.append("drop")
    with database.engine.connect() as connection:
        lost_after = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    bridge.step(operation_id)
    settles_in = bridge.row(operation_id).settled_at - lost_after
    assert settles_in.total_seconds() >= SETTLING_SECONDS


def test_who_does_not_know_the_time_claims_nothing_and_changes_nothing(bridge, database):
    unsure = Uncertain(bridge.clock, MAX_UNCERTAINTY_SECONDS * 1.01)
    adapter = make_bridge(database.engine, bridge.service_engine, clock=unsure, sap=bridge.sap)
    operation_id = bridge.accept()
    message = bridge.dispatch(operation_id)
    before = bridge.row(operation_id)
    with pytest.raises(TransientError, match="the clock may be"):
        adapter.posting.handle(message)
    assert bridge.row(operation_id) == before
    unsure.uncertainty = MAX_UNCERTAINTY_SECONDS
    adapter.posting.handle(message)
    assert bridge.row(operation_id).status == "succeeded"


def test_who_does_not_know_the_time_ends_no_lease(bridge, database):
    operation_id = bridge.accept()
    partner = bridge.directory.configuration
    bridge.posting._claiming.claim(bridge.dispatch(operation_id), partner, may_wait=False)  # then it dies
    bridge.clock.advance(LEASE_SECONDS + 1)
    dispatcher = database.engine_for("dispatcher")
    unsure = Uncertain(bridge.clock, float("inf"))
    watchdog = Watchdog(dispatcher, unsure, WATCHDOG, lambda: None)
    watchdog.go_round()
    assert bridge.row(operation_id).status == "processing"
    unsure.uncertainty = 0.0
    watchdog.go_round()
    assert bridge.row(operation_id).status == "unknown"
    dispatcher.dispose()


@pytest.mark.parametrize("off", [(-0.4, 0.4), (0.4, -0.4), (0.0, 0.0)])
def test_a_none_counts_only_when_sap_has_settled_by_both_clocks(bridge, database, off):
    """One adapter loses the call, another asks; each may be 0.4 s wrong, and knows it."""
    shared = bridge.clock
    loser, asker = (
        make_bridge(database.engine, bridge.service_engine, clock=Uncertain(shared, 0.4, one), sap=bridge.sap)
        for one in off
    )
    operation_id = bridge.accept()
    bridge.sap.script.append("drop")
    loser.posting.handle(bridge.dispatch(operation_id))
    first_counted = waited = 0.0
    while bridge.row(operation_id).status == "unknown":
        if first_counted:
            pause_seconds = (bridge.row(operation_id).not_before - asker.clock.now()).total_seconds()
        else:
            pause_seconds = 0.1
        shared.advance(pause_seconds)
        waited += pause_seconds
        asker.posting.handle(bridge.dispatch(operation_id))
        if bridge.row(operation_id).none_seen_at is not None and not first_counted:
            first_counted = waited
    assert SETTLING_SECONDS <= first_counted < SETTLING_SECONDS + 2.0
    assert READ_LAG_SECONDS <= waited - first_counted < READ_LAG_SECONDS + 2.0


def test_a_lost_call_keeps_no_permit_that_another_adapter_still_holds(bridge, database):
    """The adapter that lost it is ahead: by its clock the lease of the other has ended."""
    ahead = Uncertain(bridge.clock, 0.4, 0.4)
    loser = make_bridge(database.engine, bridge.service_engine, clock=ahead, sap=bridge.sap)
    highest = text(
        "UPDATE sap_slots SET operation_id = 'op_asks', lease_until = :until WHERE slot_number = 4"
    )
    with bridge.engine.begin() as connection:
        connection.execute(highest, {"until": bridge.clock.now() + timedelta(seconds=0.3)})
    operation_id = bridge.accept()
    bridge.sap.script.append("drop")
    loser.posting.handle(bridge.dispatch(operation_id))
    with bridge.engine.connect() as connection:
        taken = connection.execute(text("SELECT slot_number, operation_id FROM sap_slots")).all()
    assert {slot: holder for slot, holder in taken if holder} == {3: operation_id, 4: "op_asks"}


def test_a_redriven_operation_settles_by_every_clock(bridge, database):
    """The backoffice is behind; the adapter that asks may be ahead."""
    operation_id = bridge.accept()
    parked = "UPDATE operations SET status = 'parked', parked_reason = 'held', sent_unresolved = true"
    with bridge.engine.begin() as connection:
        connection.execute(text(parked))
    behind = Uncertain(bridge.clock, 0.4, -0.4)
    operations = Operations(database.engine, behind, lambda: None, settling_seconds=SETTLING_SECONDS)
    operations.redrive(operation_id, Order("olga", "ticket 4711"), remap=False)
    settles_in = bridge.row(operation_id).settled_at - bridge.clock.now()
    assert settles_in.total_seconds() >= SETTLING_SECONDS
