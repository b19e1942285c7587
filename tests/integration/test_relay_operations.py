"""The relay of SAP lanes, on real transactions: what goes out, in which order, and what a crash leaves."""

import threading
from datetime import timedelta

import pytest
from accepted import (
    LANE,
    NOW,
    OTHER_LANE,
    add_lanes,
    add_payment,
    add_payments,
    change,
    lane_row,
    operation,
    outbox_rows,
    scalar,
    set_lane,
)
from fakes.publisher import CrashError, InMemoryPublisher
from sqlalchemy import text

from bridge.clock import ManualClock
from bridge.errors import TransientError
from bridge.messages import operations_topic
from bridge.storage.events import put_back
from bridge.storage.lanes import next_due
from dispatcher.relay import BUSY_SECONDS, FULL_SECONDS, OperationsRelay, RelaySettings
from dispatcher.worker import Round

pytestmark = pytest.mark.integration

ROLE = "dispatcher"

SETTINGS = RelaySettings(lease_seconds=25.0, max_batch=500)
TOPIC = operations_topic(LANE)


@pytest.fixture
def clock():
    return ManualClock(NOW)


@pytest.fixture
def publisher():
    return InMemoryPublisher()


@pytest.fixture
def owner(database):
    add_lanes(database.engine, s4_main=4, s4_second=4)
    return database.engine


@pytest.fixture
def relay(owner, engine, publisher, clock):
    return OperationsRelay(LANE, engine, publisher, clock, SETTINGS)


def drain(relay, rounds=50):
    for _ in range(rounds):
        if not relay.go_round().again:
            return
    raise AssertionError("the lane never ended")


def take_slots(owner, which):
    statement = text(
        f"UPDATE sap_slots SET lease_until = :until WHERE slot_number {which} AND sap_system = :lane"
    )
    with owner.begin() as connection:
        connection.execute(statement, {"until": NOW + timedelta(minutes=10), "lane": LANE})


def test_a_published_row_is_gone_and_its_operation_is_out(owner, relay, publisher):
    [operation_id] = add_payments(owner, 1)
    drain(relay)
    [message] = publisher.messages(TOPIC)
    row = operation(owner, operation_id)
    assert (message.operation_id, message.payment_id, message.partner_id, message.sap_system) == (
        operation_id, row.payment_id, "par_a", LANE,
    )  # fmt: skip
    assert message.dispatch_number == row.dispatch_number == 1
    assert row.dispatched_at == NOW
    assert outbox_rows(owner) == {}


def test_no_more_goes_out_than_the_lane_has_room_for(owner, relay, publisher, clock):
    ids = add_payments(owner, 30)
    drain(relay)
    assert publisher.operation_ids() == ids[:8], "twice the window, in order of acceptance"
    # Three are claimed: two of them are calling.
    change(owner, ids[0], dispatched_at=None, status="processing", lease_until=NOW + timedelta(minutes=1))
    change(owner, ids[1], dispatched_at=None, status="processing", lease_until=NOW + timedelta(minutes=1))
    change(owner, ids[2], dispatched_at=None, status="rejected", completed_at=NOW)
    take_slots(owner, "<= 2")
    drain(relay)
    assert publisher.operation_ids() == ids[:9]


def test_a_lane_that_is_full_is_left_alone_for_a_moment_and_one_that_is_not_knows_what_is_due_next(
    owner, relay, publisher, clock
):
    ids = add_payments(owner, 10)
    assert relay.go_round() == Round(pause_seconds=FULL_SECONDS)
    assert publisher.operation_ids() == ids[:8]
    assert relay.go_round() == Round(pause_seconds=FULL_SECONDS), "no room"
    for operation_id in ids[:8]:
        change(owner, operation_id, dispatched_at=None, status="rejected", completed_at=NOW)
    with owner.begin() as connection:
        add_payment(connection, not_before=NOW + timedelta(seconds=5))
    assert relay.go_round() == Round(next_seconds=5.0)
    assert publisher.operation_ids() == ids


def test_what_others_left_of_their_share_waited_for_a_pause_though_there_was_room(owner, relay, publisher):
    many = add_payments(owner, 10, "par_many")
    few = add_payments(owner, 1, "par_few")
    assert relay.go_round() == Round(again=True)
    assert sorted(publisher.operation_ids()) == sorted([*many[:4], *few])
    assert relay.go_round() == Round(pause_seconds=FULL_SECONDS)
    assert sorted(publisher.operation_ids()) == sorted([*many[:7], *few])


def test_a_batch_that_is_smaller_than_the_room_is_followed_by_the_next(owner, engine, publisher, clock):
    ids = add_payments(owner, 5)
    relay = OperationsRelay(LANE, engine, publisher, clock, RelaySettings(lease_seconds=25.0, max_batch=3))
    assert relay.go_round() == Round(again=True)
    assert relay.go_round() == Round()
    assert publisher.operation_ids() == ids


def test_concurrent_relays_never_publish_a_row_twice_nor_more_than_the_room(owner, engine, publisher, clock):
    ids = add_payments(owner, 60)
    relays = [OperationsRelay(LANE, engine, publisher, clock, SETTINGS) for _ in range(4)]
    over = []

    def adapter(messages):
        """Count what is out at the moment of publishing."""
        out = scalar(owner, "SELECT count(*) FROM operations WHERE dispatched_at IS NOT NULL")
        if out > 8:
            over.append(out)

    publisher.before_publishing = adapter
    failures = []

    def work(relay):
        try:
            for _ in range(60):
                relay.go_round()
                # Whatever was published is claimed at once, as the adapter does.
                for operation_id in publisher.operation_ids():
                    scalar(
                        owner,
                        "UPDATE operations SET dispatched_at = NULL, status = 'rejected', completed_at = :now"
                        " WHERE operation_id = :id AND dispatched_at IS NOT NULL RETURNING 1",
                        now=NOW,
                        id=operation_id,
                    )
        except Exception as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    threads = [threading.Thread(target=work, args=(relay,)) for relay in relays]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    assert over == []
    assert set(publisher.times()) == set(ids)
    assert max(publisher.times().values()) == 1


def test_a_crash_between_publishing_and_deleting_publishes_again_and_makes_the_first_message_stale(
    owner, relay, engine, publisher, clock
):
    [operation_id] = add_payments(owner, 1)
    publisher.crashes = True
    with pytest.raises(CrashError):
        relay.go_round()
    publisher.crashes = False
    other = OperationsRelay(LANE, engine, publisher, clock, SETTINGS)
    other.go_round()
    assert publisher.times()[operation_id] == 1, "not while the dead relay's lease lives"
    clock.advance(SETTINGS.lease_seconds + 1)
    drain(other)
    first, second = publisher.messages()
    assert second.dispatch_number > first.dispatch_number
    assert operation(owner, operation_id).dispatch_number == second.dispatch_number
    assert outbox_rows(owner) == {}


def test_an_operation_put_back_while_its_row_is_being_published_survives_the_delete(
    owner, relay, publisher, clock
):
    [operation_id] = add_payments(owner, 1)

    def claimed_and_put_back(_messages):
        with owner.begin() as connection:
            put_back(connection, operation_id, not_before=NOW + timedelta(seconds=5), now=NOW)
        change(owner, operation_id, dispatched_at=None, dispatch_number=2)

    publisher.before_publishing = claimed_and_put_back
    drain(relay)
    publisher.before_publishing = None
    assert list(outbox_rows(owner)) == [operation_id]
    clock.advance(5)
    drain(relay)
    assert [message.dispatch_number for message in publisher.messages()] == [1, 3]
    assert outbox_rows(owner) == {}


def test_a_publisher_that_fails_gives_everything_back(owner, relay, publisher):
    ids = add_payments(owner, 3)
    publisher.away = True
    with pytest.raises(TransientError):
        relay.go_round()
    assert [row.claim_id for row in outbox_rows(owner).values()] == [None] * 3
    assert all(operation(owner, operation_id).dispatched_at is None for operation_id in ids)
    publisher.away = False
    drain(relay)
    assert publisher.operation_ids() == ids
    assert {message.dispatch_number for message in publisher.messages()} == {2}


def test_an_operation_claimed_from_a_message_thought_lost_is_not_recalled(owner, relay, publisher):
    """The publish timed out but arrived: the adapter spends the number before the rows are given back."""
    [operation_id] = add_payments(owner, 1)
    publisher.away = True
    publisher.before_publishing = lambda _messages: change(
        owner, operation_id, status="processing", dispatch_number=2, dispatched_at=None,
        lease_until=NOW + timedelta(minutes=1),
    )  # fmt: skip
    with pytest.raises(TransientError):
        relay.go_round()
    publisher.away, publisher.before_publishing = False, None
    drain(relay)
    row = operation(owner, operation_id)
    assert (row.status, row.dispatch_number, row.dispatched_at) == ("processing", 2, None)
    assert publisher.messages() == []
    assert outbox_rows(owner) == {}, "the row has nothing to say any more"


def test_a_small_partner_is_in_the_first_batch_beside_a_large_one(owner, relay, publisher):
    add_payments(owner, 1000, "par_large", event=False)
    small = add_payments(owner, 3, "par_small", event=False)
    relay.go_round()
    [(_, batch)] = publisher.batches
    assert [m.operation_id for m in batch if m.partner_id == "par_small"] == small


def test_with_room_for_one_at_a_time_partners_take_turns(owner, relay, publisher):
    for partner in ("par_a", "par_b", "par_c"):
        add_payments(owner, 4, partner)
    set_lane(owner, LANE, call_window=1, failed_probes=1)
    served = []
    for _ in range(6):
        relay.go_round()
        message = publisher.messages()[-1]
        served.append(message.partner_id)
        change(owner, message.operation_id, dispatched_at=None, status="rejected", completed_at=NOW)
    assert served == ["par_a", "par_b", "par_c"] * 2


def test_a_partners_order_of_acceptance_is_kept(owner, relay, publisher):
    a, b = add_payments(owner, 4, "par_a"), add_payments(owner, 4, "par_b")
    relay.go_round()
    assert [i for i in publisher.operation_ids() if i in a] == a
    assert [i for i in publisher.operation_ids() if i in b] == b


def test_what_came_back_had_to_wait_behind_all_that_was_accepted_after_it(owner, relay, publisher, clock):
    """A question about an unknown outcome was asked when the backlog of the outage had been drained."""
    ids = add_payments(owner, 20)
    drain(relay)
    assert publisher.operation_ids() == ids[:8]
    with owner.begin() as connection:
        for operation_id in ids[:8]:
            connection.execute(
                text("UPDATE operations SET dispatched_at = NULL WHERE operation_id = :id"),
                {"id": operation_id},
            )
            put_back(connection, operation_id, not_before=NOW + timedelta(seconds=1), now=NOW)
    clock.advance(1)
    drain(relay)
    assert publisher.operation_ids()[8:] == [*ids[:4], *ids[8:12]], "half of the room is for the others"


def test_a_probe_that_is_to_be_a_posting_is_not_what_has_come_back(owner, relay, publisher):
    """While SAP answers no questions those come back all the time, and would keep the lane closed."""
    unknown, other = add_payments(owner, 2)
    change(owner, unknown, status="unknown")
    with owner.begin() as connection:
        put_back(connection, unknown, not_before=NOW, now=NOW)
        connection.execute(
            text("UPDATE outbox SET not_before = :before WHERE operation_id = :id"),
            {"before": NOW - timedelta(minutes=1), "id": other},
        )
    set_lane(owner, LANE, call_window=1, failed_probes=2)
    drain(relay)
    assert publisher.operation_ids() == [other]


@pytest.mark.parametrize(
    "closed",
    [
        {"held": True},
        {"call_window": 0, "failed_probes": 1, "probe_not_before": NOW + timedelta(seconds=9)},
        {"held": True, "call_window": 0, "failed_probes": 1, "probe_not_before": NOW},
    ],
)
def test_a_closed_lanes_rows_are_not_touched_and_hold_up_no_other_lane(
    owner, relay, engine, publisher, clock, closed
):
    add_payments(owner, 5)
    others = add_payments(owner, 2, lane=OTHER_LANE)
    set_lane(owner, LANE, **closed)
    before = outbox_rows(owner)
    done = relay.go_round()
    assert not done.again
    drain(OperationsRelay(OTHER_LANE, engine, publisher, clock, SETTINGS))
    assert publisher.operation_ids() == others
    assert outbox_rows(owner) == before


def test_a_closed_lane_looks_again_when_its_probe_is_due(owner, relay):
    add_payments(owner, 1)
    set_lane(owner, LANE, call_window=0, failed_probes=1, probe_not_before=NOW + timedelta(seconds=9))
    assert relay.go_round() == Round(next_seconds=9.0)


def test_an_open_circuit_lets_one_probe_through_when_it_is_due(owner, relay, publisher, clock):
    ids = add_payments(owner, 5)
    set_lane(owner, LANE, call_window=0, failed_probes=2, probe_not_before=NOW + timedelta(seconds=9))
    clock.advance(9)
    drain(relay)
    drain(relay)
    assert publisher.operation_ids() == ids[:1]
    assert lane_row(owner).call_window == 1


def test_a_probe_is_preferably_the_question_about_an_unknown_operation_each_time_another(
    owner, relay, publisher, clock
):
    ids = add_payments(owner, 5)
    for operation_id in ids[2:4]:
        change(owner, operation_id, status="unknown")
    asked = []
    for _ in range(4):
        set_lane(owner, LANE, call_window=0, failed_probes=1, probe_not_before=clock.now())
        drain(relay)
        operation_id = publisher.operation_ids()[-1]
        asked.append(operation_id)
        # The question failed: back to the lane, after a pause.
        change(owner, operation_id, dispatched_at=None)
        with owner.begin() as connection:
            put_back(connection, operation_id, not_before=clock.now() + timedelta(seconds=1), now=clock.now())
        clock.advance(2)
    assert asked == [ids[2], ids[3]] * 2


def test_while_slots_settle_a_probe_still_goes_out(owner, relay, publisher):
    """Settling takes the highest slots; the probe needs the first one only."""
    ids = add_payments(owner, 3)
    take_slots(owner, "> 1")
    set_lane(owner, LANE, call_window=0, failed_probes=1, probe_not_before=NOW)
    drain(relay)
    assert publisher.operation_ids() == ids[:1]


@pytest.mark.parametrize("status", ["processing", "parked", "cancelled", "rejected"])
def test_a_row_whose_operation_is_with_somebody_or_at_its_end_is_dropped(owner, relay, publisher, status):
    first, second = add_payments(owner, 2)
    extra = {"parked": {"parked_reason": "operator"}, "processing": {}}.get(status, {"completed_at": NOW})
    change(owner, first, status=status, **extra)
    drain(relay)
    assert publisher.operation_ids() == [second]
    assert outbox_rows(owner) == {}


def test_a_locked_operation_is_left_for_the_next_round_and_waits_for_nobody(owner, relay, publisher):
    first, second = add_payments(owner, 2)
    with owner.begin() as connection:
        connection.execute(
            text("SELECT 1 FROM operations WHERE operation_id = :id FOR NO KEY UPDATE"), {"id": first}
        )
        relay.go_round()
        assert publisher.operation_ids() == [second]
    drain(relay)
    assert publisher.operation_ids() == [second, first]


def test_a_lane_that_somebody_holds_is_tried_again_soon(owner, relay, publisher):
    add_payments(owner, 1)
    with owner.begin() as connection:
        connection.execute(
            text("SELECT 1 FROM sap_systems WHERE sap_system = :lane FOR NO KEY UPDATE"), {"lane": LANE}
        )
        assert relay.go_round() == Round(next_seconds=BUSY_SECONDS)
    drain(relay)
    assert len(publisher.messages()) == 1


def test_a_scheduled_payment_waits_for_its_day_and_the_lane_knows_when(owner, relay, publisher, clock):
    day = NOW + timedelta(seconds=30)
    [operation_id] = add_payments(owner, 1, status="scheduled", execution_date="2026-12-01", not_before=day)
    assert relay.go_round() == Round(next_seconds=30.0)
    clock.advance(30)
    drain(relay)
    assert publisher.operation_ids() == [operation_id]


def test_what_is_due_next_in_each_lane(owner, engine):
    def due():
        with engine.begin() as connection:
            return next_due(connection, NOW)

    assert due() == {}
    soon, later = NOW + timedelta(seconds=3), NOW + timedelta(seconds=60)
    add_payments(owner, 1, "par_b", not_before=soon, event=False)
    add_payments(owner, 3, "par_a", not_before=later, event=False)
    add_payments(owner, 1, "par_c", lane=OTHER_LANE, event=False)
    assert due() == {LANE: soon, OTHER_LANE: NOW}
    set_lane(owner, LANE, call_window=0, failed_probes=1, probe_not_before=later)
    set_lane(owner, OTHER_LANE, held=True)
    assert due() == {LANE: later}
    with owner.begin() as connection:
        add_payment(connection, row=False)
    assert due() == {LANE: later, "events": NOW}
