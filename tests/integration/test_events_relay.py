"""The relay of events, on real transactions: several claim at once, none waits or takes what another has."""

import threading
from datetime import timedelta
from uuid import uuid4

import pytest
from accepted import NOW, add_payments
from fakes.publisher import CrashError, InMemoryPublisher
from sqlalchemy import text
from waiting import DEADLINE_SECONDS, wait_until

from bridge.clock import ManualClock
from bridge.messages import EVENTS_LANE, EVENTS_TOPIC
from bridge.storage.outbox import CLAIM_EVENTS, Claim, claim_events, delete_published
from dispatcher.relay import BUSY_SECONDS, EventsRelay, RelaySettings
from dispatcher.sequencer import Sequencer
from dispatcher.worker import Round

pytestmark = pytest.mark.integration

ROLE = "dispatcher"

SETTINGS = RelaySettings(lease_seconds=25.0, max_batch=10)
EVENTS = "SELECT event_id FROM outbox WHERE lane = 'events' ORDER BY identity"


@pytest.fixture
def clock():
    return ManualClock(NOW)


@pytest.fixture
def publisher():
    return InMemoryPublisher()


def add_sequenced(owner, engine, count, partner_id="par_a"):
    """Return the ids of that many events with their places, in order."""
    add_payments(owner, count, partner_id, row=False)
    while Sequencer(engine, lambda: None, ManualClock(NOW).monotonic).go_round().again:
        pass
    with owner.begin() as connection:
        return list(connection.execute(text(EVENTS)).scalars())


def published(publisher):
    return [message.event_id for message in publisher.messages(EVENTS_TOPIC)]


def test_while_one_round_publishes_another_takes_the_next_batch(owner, engine, publisher, clock):
    ids = add_sequenced(owner, engine, 15)
    relay = EventsRelay(engine, publisher, clock, SETTINGS)
    publisher.gates[EVENTS_TOPIC] = threading.Event()
    first = threading.Thread(target=relay.go_round)
    first.start()
    wait_until(lambda: publisher.calls, what="the first round in the gate")
    second = threading.Thread(target=relay.go_round)
    second.start()
    second.join(0.2)
    publisher.gates[EVENTS_TOPIC].set()
    first.join(DEADLINE_SECONDS)
    second.join(DEADLINE_SECONDS)
    assert sorted(map(len, (messages for _, messages in publisher.batches))) == [5, 10]
    assert sorted(published(publisher)) == sorted(ids)
    with owner.begin() as connection:
        assert connection.execute(text(EVENTS)).all() == []


def test_more_than_a_batch_calls_for_help_and_less_does_not(owner, engine, publisher, clock):
    calls = []
    relay = EventsRelay(engine, publisher, clock, SETTINGS, lambda: calls.append(1))
    add_sequenced(owner, engine, 3)
    assert relay.go_round() == Round()
    assert calls == []
    add_sequenced(owner, engine, 11)
    assert relay.go_round() == Round(again=True)
    assert calls == [1]
    assert relay.go_round() == Round()
    assert len(calls) == 1


def test_rows_that_another_relay_is_just_claiming_are_left_to_it_without_waiting(
    owner, engine, publisher, clock
):
    ids = add_sequenced(owner, engine, 4)
    with owner.begin() as other:
        other.execute(
            text("SELECT FROM outbox WHERE event_id = ANY(:ids) FOR UPDATE"), {"ids": [ids[0], ids[2]]}
        )
        relay = EventsRelay(engine, publisher, clock, SETTINGS)
        assert relay.go_round().again, "what the other has may not be all that there is"
        assert published(publisher) == [ids[1], ids[3]]
        assert relay.go_round() == Round(next_seconds=BUSY_SECONDS)
    assert relay.go_round() == Round()
    assert sorted(published(publisher)) == sorted(ids)


def test_a_claim_that_another_has_made_since_we_looked_is_respected(owner, engine, publisher, clock):
    """Its commit comes between our choice of rows and our lock on them."""
    [event_id] = add_sequenced(owner, engine, 1)
    with owner.connect() as other:
        other.execute(
            text(
                "UPDATE outbox SET claim_id = gen_random_uuid(), lease_until = :until WHERE lane = 'events'"
            ),
            {"until": NOW + timedelta(minutes=1)},
        )
        relay = EventsRelay(engine, publisher, clock, SETTINGS)
        assert relay.go_round() == Round(next_seconds=BUSY_SECONDS), "found, but locked"
        other.commit()
    assert relay.go_round() == Round()
    assert published(publisher) == []
    clock.advance(61)
    relay.go_round()
    assert published(publisher) == [event_id]


def test_what_was_published_by_a_relay_that_died_before_the_delete_goes_out_again(
    owner, engine, publisher, clock
):
    ids = add_sequenced(owner, engine, 2)
    publisher.crashes = True
    with pytest.raises(CrashError):
        EventsRelay(engine, publisher, clock, SETTINGS).go_round()
    publisher.crashes = False
    other = EventsRelay(engine, publisher, clock, SETTINGS)
    other.go_round()
    assert published(publisher) == ids, "not while its lease lives"
    clock.advance(SETTINGS.lease_seconds + 1)
    other.go_round()
    assert published(publisher) == ids * 2


def test_partners_take_turns_in_a_batch_each_in_the_order_of_its_feed(owner, engine, publisher, clock):
    add_sequenced(owner, engine, 20, "par_large")
    add_sequenced(owner, engine, 3, "par_small")
    EventsRelay(engine, publisher, clock, SETTINGS).go_round()
    places = [(message.partner_id, message.sequence) for message in publisher.messages(EVENTS_TOPIC)]
    assert [sequence for partner, sequence in places if partner == "par_small"] == [1, 2, 3]
    assert [sequence for partner, sequence in places if partner == "par_large"] == [1, 2, 3, 4, 5]


def test_a_claim_read_the_whole_outbox_to_find_the_rows_that_it_had_chosen(owner, engine):
    add_sequenced(owner, engine, 1500)
    with owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE outbox"))
    parameters = {"lane": EVENTS_LANE, "limit": 50, "returned": 0, "after_partner": "", "now": NOW}
    parameters |= {"claim_id": "00000000-0000-4000-8000-000000000000", "lease_until": NOW}
    with engine.begin() as connection:
        explain = text(f"EXPLAIN (ANALYZE, FORMAT JSON) {CLAIM_EVENTS.text}")
        plan = connection.execute(explain, parameters).scalar()
        connection.rollback()
    read = sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for node in nodes_of(plan[0]["Plan"])
        if node.get("Relation Name") == "outbox" and node["Node Type"] != "ModifyTable"
    )
    assert read <= 50 * 4, read


def test_what_may_be_lost_with_the_database_waits_for_no_disk_and_what_may_not_does(owner, engine):
    """Every claim and every delete waited for the disk, though both may be done again."""
    add_sequenced(owner, engine, 1)
    claim = Claim(uuid4(), NOW + timedelta(seconds=25))
    with engine.begin() as connection:
        batch = claim_events(connection, claim, limit=10, after_partner="", now=NOW)
        assert waits_for_disk(connection) == "off"
    with engine.begin() as connection:
        assert delete_published(connection, claim, batch.identities) == 1
        assert waits_for_disk(connection) == "off"
    with engine.begin() as connection:
        assert waits_for_disk(connection) == "on", "for that transaction alone"


def waits_for_disk(connection):
    return connection.execute(text("SELECT current_setting('synchronous_commit')")).scalar()


def nodes_of(node):
    yield node
    for child in node.get("Plans", ()):
        yield from nodes_of(child)
