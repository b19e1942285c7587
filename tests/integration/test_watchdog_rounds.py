"""The watchdog: dead claims, lost messages, stranded operations, long delays; and what it leaves alone."""

from datetime import timedelta

import pytest
from accepted import (
    LANE,
    NOW,
    add_payments,
    change,
    operation,
    outbox_rows,
    scalar,
)
from fakes.publisher import InMemoryPublisher
from sqlalchemy import text

from bridge.clock import ManualClock
from bridge.storage.guard import take_slot
from dispatcher.relay import OperationsRelay, RelaySettings
from dispatcher.watchdog import POISON_CLAIMS, Watchdog, WatchdogSettings

pytestmark = pytest.mark.integration

ROLE = "dispatcher"

SETTINGS = WatchdogSettings(
    interval_seconds=5.0, first_redispatch_seconds=60.0, settling_seconds=30.0, delayed_after_seconds=900.0
)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def clock():
    return ManualClock(NOW)


@pytest.fixture
def woken():
    return []


@pytest.fixture
def watchdog(owner, engine, clock, woken):
    return Watchdog(engine, clock, SETTINGS, lambda: woken.append(clock.now()))


def payment_status(owner, operation_id):
    payment_id = operation(owner, operation_id).payment_id
    return scalar(owner, "SELECT status FROM payments WHERE payment_id = :id", id=payment_id)


def drain(round_of):
    while round_of.go_round().again:
        pass


def claim(owner, operation_id, *, lease_until, claims=1, slot=1):
    """What the adapter's claim leaves: a lease, a permit, no outbox row."""
    change(
        owner, operation_id, status="processing", sent_unresolved=True, lease_until=lease_until,
        claims_started=claims, dispatched_at=None,
    )  # fmt: skip
    with owner.begin() as connection:
        connection.execute(text("DELETE FROM outbox WHERE operation_id = :id"), {"id": operation_id})
        connection.execute(
            text("UPDATE sap_slots SET operation_id = :id, lease_until = :until WHERE slot_number = :slot"),
            {"id": operation_id, "until": lease_until, "slot": slot},
        )


def delayed_events(owner, operation_id):
    statement = "SELECT count(*) FROM events WHERE operation_id = :id AND event_type = 'payment.delayed'"
    return scalar(owner, statement, id=operation_id)


def test_a_live_lease_is_never_touched(owner, watchdog, clock):
    [operation_id] = add_payments(owner, 1)
    claim(owner, operation_id, lease_until=NOW + 10 * MINUTE, claims=POISON_CLAIMS)
    change(owner, operation_id, dispatched_at=NOW - 600 * MINUTE)
    before = operation(owner, operation_id)
    clock.advance(599)
    drain(watchdog)
    assert operation(owner, operation_id) == before
    assert outbox_rows(owner) == {}


def test_an_expired_lease_makes_the_outcome_unknown_and_asks(owner, watchdog, clock, woken):
    [operation_id] = add_payments(owner, 1)
    claim(owner, operation_id, lease_until=NOW + MINUTE)
    clock.advance(61)
    drain(watchdog)
    row = operation(owner, operation_id)
    assert (row.status, row.lease_until, row.sent_unresolved) == ("unknown", None, True)
    assert row.settled_at == NOW + MINUTE + timedelta(seconds=SETTINGS.settling_seconds)
    assert (row.claims_started, row.claims_finished) == (1, 0)
    assert list(outbox_rows(owner)) == [operation_id]
    assert woken


def test_a_permit_stays_taken_while_sap_may_still_work_on_a_dead_claim(owner, watchdog, clock):
    [operation_id] = add_payments(owner, 1)
    claim(owner, operation_id, lease_until=NOW + MINUTE)
    clock.advance(61)
    drain(watchdog)
    until = NOW + MINUTE + timedelta(seconds=SETTINGS.settling_seconds)
    statement = "SELECT count(*) FROM sap_slots WHERE lease_until > :now"
    assert scalar(owner, statement, now=clock.now()) == 1
    assert scalar(owner, "SELECT max(lease_until) FROM sap_slots") == until


def test_a_dead_claims_permit_could_be_taken_before_the_watchdog_had_come_by(owner, watchdog, clock):
    """SAP could be running as many calls above the cap as claims had just died."""
    first, *others = add_payments(owner, 6)
    for slot, operation_id in enumerate((first, *others[:3]), start=1):
        claim(owner, operation_id, lease_until=NOW + MINUTE, slot=slot)
    clock.advance(61)

    def takes_one(operation_id):
        with owner.begin() as connection:
            later = clock.now() + MINUTE
            return take_slot(connection, LANE, operation_id, lease_until=later, now=clock.now())

    assert takes_one(others[3]) is None
    drain(watchdog)
    assert scalar(owner, "SELECT count(*) FROM sap_slots WHERE lease_until > :now", now=clock.now()) == 4
    assert scalar(owner, "SELECT call_window FROM sap_systems WHERE sap_system = :lane", lane=LANE) == 0
    with owner.begin() as connection:  # a probe opens it again
        connection.execute(text("UPDATE sap_systems SET call_window = hard_cap, failed_probes = 0"))
    assert takes_one(others[3]) is None
    clock.advance(SETTINGS.settling_seconds)
    assert takes_one(others[3]) is not None


def test_a_question_whose_asker_died_stays_unknown_and_keeps_what_is_known(owner, watchdog, clock):
    [operation_id] = add_payments(owner, 1)
    claim(owner, operation_id, lease_until=NOW + MINUTE)
    change(owner, operation_id, status="unknown", settled_at=NOW, none_seen_at=NOW)
    clock.advance(61)
    drain(watchdog)
    row = operation(owner, operation_id)
    assert (row.status, row.settled_at, row.none_seen_at, row.lease_until) == ("unknown", NOW, NOW, None)
    assert list(outbox_rows(owner)) == [operation_id]


def test_what_kills_its_process_again_and_again_is_parked_and_told(owner, watchdog, clock):
    [operation_id] = add_payments(owner, 1)
    for number in range(1, POISON_CLAIMS + 1):
        claim(owner, operation_id, lease_until=clock.now() + MINUTE, claims=number)
        clock.advance(61)
        drain(watchdog)
    row = operation(owner, operation_id)
    assert (row.status, row.parked_reason, row.sent_unresolved) == ("parked", "poison", True)
    assert outbox_rows(owner) == {}
    assert delayed_events(owner, operation_id) == 1
    drain(watchdog)
    assert delayed_events(owner, operation_id) == 1


def test_what_was_dispatched_and_never_claimed_goes_out_again_at_growing_intervals(
    owner, engine, watchdog, clock
):
    [operation_id] = add_payments(owner, 1)
    publisher = InMemoryPublisher()
    relay = OperationsRelay(LANE, engine, publisher, clock, RelaySettings(25.0, 500))
    gaps = []
    for _ in range(9):
        drain(relay)
        started = clock.now()
        while not outbox_rows(owner):
            clock.advance(20)
            drain(watchdog)
        gaps.append((clock.now() - started).total_seconds() / 60)
    for gap, expected in zip(gaps, (1, 2, 4, 8, 16, 32, 60, 60, 60), strict=True):
        assert expected * 0.9 <= gap <= expected * 1.1 + 20 / 60
    numbers = [message.dispatch_number for message in publisher.messages()]
    assert numbers == sorted(set(numbers))
    row = operation(owner, operation_id)
    assert (row.status, row.dispatched_at, row.dispatches_without_claim) == ("accepted", None, 9)


@pytest.mark.parametrize("status", ["cancelled", "parked"])
def test_what_is_out_but_at_its_end_takes_no_room_any_more(owner, watchdog, clock, status):
    [operation_id] = add_payments(owner, 1, row=False)
    extra = {"parked_reason": "operator"} if status == "parked" else {"completed_at": NOW}
    change(owner, operation_id, status=status, dispatched_at=NOW, **extra)
    clock.advance(120)
    drain(watchdog)
    assert operation(owner, operation_id).dispatched_at is None
    assert outbox_rows(owner) == {}


@pytest.mark.parametrize("status", ["accepted", "unknown"])
def test_a_stranded_operation_is_put_back(owner, watchdog, status):
    [operation_id] = add_payments(owner, 1, row=False)
    change(owner, operation_id, status=status)
    drain(watchdog)
    assert list(outbox_rows(owner)) == [operation_id]


def test_a_stranded_scheduled_payment_is_put_back_for_its_day(owner, watchdog):
    [operation_id] = add_payments(owner, 1, row=False, status="scheduled", execution_date="2026-12-01")
    drain(watchdog)
    [row] = outbox_rows(owner).values()
    assert row.operation_id == operation_id
    assert row.not_before.isoformat() == "2026-11-30T23:00:00+00:00", "midnight in Berlin"


def test_what_is_on_its_way_is_not_stranded(owner, watchdog, clock):
    waiting, out, calling, parked = add_payments(owner, 4)
    with owner.begin() as connection:
        connection.execute(text("DELETE FROM outbox WHERE operation_id <> :id"), {"id": waiting})
    change(owner, out, dispatched_at=NOW)
    claim(owner, calling, lease_until=NOW + MINUTE)
    change(owner, parked, status="parked", parked_reason="operator")
    clock.advance(10)
    drain(watchdog)
    assert list(outbox_rows(owner)) == [waiting]


def test_a_long_wait_is_told_once(owner, watchdog, clock):
    first, second = add_payments(owner, 2)
    clock.advance(901)
    add_payments(owner, 1, now=clock.now())
    drain(watchdog)
    drain(watchdog)
    assert [delayed_events(owner, first), delayed_events(owner, second)] == [1, 1]
    total = "SELECT count(*) FROM events WHERE event_type = 'payment.delayed'"
    assert scalar(owner, total) == 2
    clock.advance(901)
    drain(watchdog)
    assert scalar(owner, total) == 3
    assert operation(owner, first).delayed_at == NOW + timedelta(seconds=901)
    data = scalar(owner, "SELECT data FROM events WHERE event_type = 'payment.delayed' LIMIT 1")
    assert data["payment"]["status"] == "accepted"
    assert len(data["payment"]["operations"]) == 1


def test_a_delay_was_told_with_a_payment_older_than_the_event_before_it(owner, watchdog, clock):
    """The step before it was being recorded meanwhile: a delay is told before that or after it."""
    [operation_id] = add_payments(owner, 1)
    payment_id = operation(owner, operation_id).payment_id
    clock.advance(901)
    with owner.begin() as recording:
        authorized = text("UPDATE payments SET status = 'authorized' WHERE payment_id = :id")
        recording.execute(authorized, {"id": payment_id})
        drain(watchdog)
        assert delayed_events(owner, operation_id) == 0
    drain(watchdog)
    data = scalar(owner, "SELECT data FROM events WHERE event_type = 'payment.delayed'")
    assert data["payment"]["status"] == "authorized"


@pytest.mark.parametrize("status", ["scheduled", "processing"])
def test_a_scheduled_payment_is_accepted_when_its_day_has_come(owner, watchdog, clock, status):
    """While its lane was closed it stayed `scheduled` for days; and while SAP's answer was awaited."""
    begins = NOW + timedelta(days=3)
    day = begins.date().isoformat()
    due, later, held = add_payments(owner, 3, status="scheduled", execution_date=day, not_before=begins)
    for operation_id in (due, later, held):
        change(owner, operation_id, due_at=begins)
    change(owner, later, due_at=begins + MINUTE)
    if status == "processing":
        claim(owner, due, lease_until=begins + MINUTE)
    watchdog.go_round()
    assert payment_status(owner, due) == "scheduled"
    clock.advance(timedelta(days=3).total_seconds())
    with owner.begin() as connection:  # somebody is at this payment: the next round
        connection.execute(
            text("SELECT FROM payments WHERE payment_id = :id FOR NO KEY UPDATE"),
            {"id": operation(owner, held).payment_id},
        )
        watchdog.go_round()
        assert payment_status(owner, held) == "scheduled"
    assert (payment_status(owner, due), payment_status(owner, later)) == ("accepted", "scheduled")
    assert operation(owner, due).status == ("processing" if status == "processing" else "accepted")
    assert operation(owner, later).status == "scheduled"
    watchdog.go_round()
    assert payment_status(owner, held) == "accepted"
    assert outbox_rows(owner), "it is still queued"


def test_a_scheduled_payment_is_late_only_after_its_day_has_come(owner, engine, clock):
    [operation_id] = add_payments(owner, 1, status="scheduled", execution_date="2026-12-01")
    watchdog = Watchdog(engine, clock, SETTINGS, lambda: None)
    clock.advance(10 * 86_400)  # 30 November, noon
    drain(watchdog)
    assert delayed_events(owner, operation_id) == 0
    clock.advance(12 * 3600)
    drain(watchdog)
    drain(watchdog)
    assert delayed_events(owner, operation_id) == 1


def test_a_scheduled_payment_was_told_late_only_once_the_walk_through_everything_came_by(
    owner, engine, clock, monkeypatch
):
    """What follows the limit in time had passed it the day after its acceptance."""
    monkeypatch.setattr("dispatcher.watchdog.MAX_PAGE", 10)
    add_payments(owner, 50, event=False)
    [operation_id] = add_payments(owner, 1, status="scheduled", execution_date="2026-12-01")
    watchdog = Watchdog(engine, clock, SETTINGS, lambda: None)
    clock.advance(86_400)
    drain(watchdog)
    clock.advance(9 * 86_400 + 11 * 3600 + 901)  # a second more than it may wait, from midnight in Berlin
    watchdog.go_round()
    assert delayed_events(owner, operation_id) == 1


@pytest.mark.parametrize("status", ["accepted", "processing", "unknown"])
def test_a_scheduled_payment_was_told_late_as_soon_as_its_first_call_ran(owner, engine, clock, status):
    """Its wait was counted from acceptance once it was not `scheduled` any more."""
    [operation_id] = add_payments(owner, 1, status="scheduled", execution_date="2026-12-01")
    watchdog = Watchdog(engine, clock, SETTINGS, lambda: None)
    clock.advance(10 * 86_400 + 11 * 3600 + 60)  # a minute into 1 December in Berlin
    change(owner, operation_id, status=status)
    drain(watchdog)
    assert delayed_events(owner, operation_id) == 0
    clock.advance(900)
    drain(watchdog)
    drain(watchdog)
    assert delayed_events(owner, operation_id) == 1


def test_a_payment_for_today_is_not_late_since_midnight(owner, watchdog, clock):
    [operation_id] = add_payments(owner, 1, execution_date=NOW.date().isoformat())
    clock.advance(10)
    drain(watchdog)
    assert delayed_events(owner, operation_id) == 0


def test_a_page_of_the_walk_reads_no_outbox_rows_but_its_own(owner, engine):
    """The walk read the whole outbox for each page: the backlog of a closed lane, every few seconds."""
    from bridge.storage.watchdog import SELECT_WAITING  # noqa: PLC0415 - the statement itself is looked at

    add_payments(owner, 3000, event=False)
    with owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    parameters = {"after_since": NOW - MINUTE, "after_id": "", "limit": 100}
    with engine.begin() as connection:
        plan = connection.execute(
            text(f"EXPLAIN (ANALYZE, FORMAT JSON) {SELECT_WAITING.text}"), parameters
        ).scalar()
    scans = [scan for scan in scans_of(plan[0]["Plan"]) if scan["Relation Name"] == "outbox"]
    read = sum(
        (scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0)) * scan["Actual Loops"] for scan in scans
    )
    assert read == 100, plan
    assert "operations_waiting" in str(plan)


def scans_of(node):
    if "Relation Name" in node:
        yield node
    for child in node.get("Plans", ()):
        yield from scans_of(child)


def test_two_watchdogs_do_not_do_the_same_twice(owner, engine, watchdog, clock):
    [operation_id] = add_payments(owner, 1)
    claim(owner, operation_id, lease_until=NOW + MINUTE)
    clock.advance(61)
    with owner.begin() as connection:
        connection.execute(
            text("SELECT 1 FROM operations WHERE operation_id = :id FOR NO KEY UPDATE"), {"id": operation_id}
        )
        drain(Watchdog(engine, clock, SETTINGS, lambda: None))
        assert outbox_rows(owner) == {}, "somebody is at it, and nobody waits for him"
    drain(watchdog)
    assert list(outbox_rows(owner)) == [operation_id]
