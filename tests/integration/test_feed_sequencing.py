"""The feed: gap-free numbers for each partner, whoever commits when, whoever sequences, broker or not."""

import threading

import pytest
from accepted import NOW, add_event, add_payment, add_payments, operation, outbox_rows
from fakes.publisher import CrashError, InMemoryPublisher
from waiting import DEADLINE_SECONDS

from bridge.clock import ManualClock
from bridge.errors import TransientError
from bridge.messages import EVENTS_LANE, EVENTS_TOPIC
from bridge.storage.feed import FeedHead, feed_head, feed_page
from dispatcher.relay import EventsRelay, RelaySettings
from dispatcher.sequencer import MAX_EVENTS, Sequencer

pytestmark = pytest.mark.integration

ROLE = "dispatcher"

SETTINGS = RelaySettings(lease_seconds=25.0, max_batch=50)


@pytest.fixture
def clock():
    return ManualClock(NOW)


@pytest.fixture
def publisher():
    return InMemoryPublisher()


@pytest.fixture
def sequencer(owner, engine):
    return Sequencer(engine, lambda: None, ManualClock(NOW).monotonic)


@pytest.fixture
def relay(owner, engine, publisher, clock):
    return EventsRelay(engine, publisher, clock, SETTINGS)


def feed(owner, partner_id="par_a"):
    with owner.begin() as connection:
        return feed_page(connection, partner_id, after=0, limit=10_000)


def drain(round_of, rounds=50):
    for _ in range(rounds):
        if not round_of.go_round().again:
            return
    raise AssertionError("it never ended")


def test_each_partners_events_are_numbered_from_one_without_gaps(owner, sequencer):
    a = add_payments(owner, 3, "par_a")
    b = add_payments(owner, 2, "par_b")
    drain(sequencer)
    assert [event.sequence for event in feed(owner, "par_a")] == [1, 2, 3]
    assert [event.sequence for event in feed(owner, "par_b")] == [1, 2]
    assert [event.data["payment"]["id"] for event in feed(owner, "par_a")] == [
        operation(owner, operation_id).payment_id for operation_id in a
    ]
    assert len(b) == 2


def test_a_page_begins_after_the_sequence_asked_for(owner, sequencer):
    add_payments(owner, 5)
    drain(sequencer)
    with owner.begin() as connection:
        assert [event.sequence for event in feed_page(connection, "par_a", after=2, limit=2)] == [3, 4]
        assert feed_page(connection, "par_a", after=5, limit=2) == []
        assert feed_page(connection, "par_unknown", after=0, limit=2) == []
        assert feed_head(connection, "par_a") == FeedHead(last_sequence=5, epoch=1)
        assert feed_head(connection, "par_unknown") == FeedHead(last_sequence=0, epoch=1)


def test_events_committed_out_of_their_identities_order_leave_no_gap_and_accepted_comes_before_paid(
    owner, sequencer
):
    with owner.connect() as slow, owner.connect() as fast:
        first = add_payment(slow)  # the lower identities, still open
        second = add_payment(fast)
        fast.commit()
        drain(sequencer)
        row = operation(owner, second)
        add_event(fast, row.payment_id, second, "par_a", "payment.paid")
        fast.commit()
        slow.commit()
    row = operation(owner, first)
    with owner.begin() as connection:
        add_event(connection, row.payment_id, first, "par_a", "payment.paid")
    drain(sequencer)
    events = feed(owner)
    assert [event.sequence for event in events] == [1, 2, 3, 4]
    payments = {}
    for event in events:
        payments.setdefault(event.data["payment"]["id"], []).append(event.event_type)
    assert list(payments.values()) == [["payment.accepted", "payment.paid"]] * 2


def test_many_sequencers_and_writers_at_once_leave_no_gap_and_no_duplicate(owner, engine):
    failures = []
    writing = threading.Event()

    def write(partner_id):
        for _ in range(40):
            with owner.begin() as connection:
                add_payment(connection, partner_id, row=False)

    def sequence():
        sequencer = Sequencer(engine, lambda: None, ManualClock(NOW).monotonic)
        try:
            while not writing.is_set():
                sequencer.go_round()
        except Exception as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    writers = [threading.Thread(target=write, args=(partner,)) for partner in ("par_a", "par_a", "par_b")]
    sequencers = [threading.Thread(target=sequence) for _ in range(3)]
    for thread in (*sequencers, *writers):
        thread.start()
    for thread in writers:
        thread.join(DEADLINE_SECONDS)
    writing.set()
    for thread in sequencers:
        thread.join(DEADLINE_SECONDS)
    drain(Sequencer(engine, lambda: None, ManualClock(NOW).monotonic))
    assert failures == []
    assert [event.sequence for event in feed(owner, "par_a")] == list(range(1, 81))
    assert [event.sequence for event in feed(owner, "par_b")] == list(range(1, 41))
    assert len({event.event_id for event in feed(owner, "par_a")}) == 80


def test_sequencing_goes_on_while_nothing_can_be_published(owner, sequencer, relay, publisher):
    publisher.away = True
    add_payments(owner, 3)
    drain(sequencer)
    with pytest.raises(TransientError):
        relay.go_round()
    add_payments(owner, 2)
    drain(sequencer)
    assert [event.sequence for event in feed(owner)] == [1, 2, 3, 4, 5]
    publisher.away = False
    drain(relay)
    assert [message.sequence for message in publisher.messages(EVENTS_TOPIC)] == [1, 2, 3, 4, 5]
    assert outbox_rows(owner, EVENTS_LANE) == {}


def test_more_events_than_one_transaction_takes_are_all_numbered(owner, sequencer):
    add_payments(owner, MAX_EVENTS + 20, row=False)
    drain(sequencer)
    assert [event.sequence for event in feed(owner)] == list(range(1, MAX_EVENTS + 21))


def test_an_event_without_its_number_is_not_relayed(owner, relay, publisher):
    add_payments(owner, 1)
    relay.go_round()
    assert publisher.batches == []


def test_an_event_is_relayed_once_with_its_place_in_the_feed(owner, sequencer, relay, publisher):
    add_payments(owner, 1)
    drain(sequencer)
    drain(relay)
    drain(relay)
    [message] = publisher.messages(EVENTS_TOPIC)
    [event] = feed(owner)
    assert (message.event_id, message.partner_id, message.sequence) == (event.event_id, "par_a", 1)


def test_events_relays_at_once_share_the_work(owner, engine, sequencer, publisher, clock):
    add_payments(owner, 400, row=False)
    drain(sequencer)
    relays = [EventsRelay(engine, publisher, clock, SETTINGS) for _ in range(3)]
    threads = [threading.Thread(target=drain, args=(relay,)) for relay in relays]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    drain(relays[0])
    assert sorted(message.sequence for message in publisher.messages()) == list(range(1, 401))


def test_an_event_whose_relay_crashed_is_published_again(owner, sequencer, relay, publisher, clock):
    add_payments(owner, 1)
    drain(sequencer)
    publisher.crashes = True
    with pytest.raises(CrashError):
        relay.go_round()
    publisher.crashes = False
    drain(relay)
    assert len(publisher.messages()) == 1
    clock.advance(SETTINGS.lease_seconds + 1)
    drain(relay)
    assert len(publisher.messages()) == 2
    assert outbox_rows(owner, EVENTS_LANE) == {}


def test_a_small_partners_event_is_in_the_first_batch(owner, sequencer, relay, publisher):
    add_payments(owner, 200, "par_large", row=False)
    add_payments(owner, 1, "par_small", row=False)
    drain(sequencer)
    relay.go_round()
    assert "par_small" in {message.partner_id for message in publisher.batches[0][1]}
