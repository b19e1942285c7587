"""An adapter that starts takes back what was pushed while none was there."""

from datetime import timedelta

import pytest
from posting_stage import make_bridge
from sqlalchemy import create_engine, text

from bridge.clock import SystemClock
from sap_adapter.recall import recall_unclaimed

pytestmark = pytest.mark.integration

ROLE = "sap_adapter"


@pytest.fixture
def bridge(database, engine):
    return make_bridge(database.engine, engine)


def test_what_nobody_claimed_kept_the_room_of_its_lane_until_pubsub_pushed_it_again(bridge, engine):
    lost = bridge.accept()
    message = bridge.dispatch(lost)
    bridge.clock.advance(3)
    fresh = bridge.accept()
    bridge.dispatch(fresh)
    assert recall_unclaimed(engine, ["s4-main"], bridge.clock) == 1
    row = bridge.row(lost)
    assert (row.dispatched_at, row.not_before) == (None, bridge.clock.now())
    assert bridge.row(fresh).dispatched_at is not None, "it is perhaps just being claimed"
    bridge.step(lost)
    bridge.posting.handle(message)
    assert len(bridge.sap.sendings) == 1


def test_another_lane_and_what_is_being_called_are_left_alone(bridge, engine):
    calling, done = bridge.accept(), bridge.accept()
    bridge.step(done)
    with bridge.engine.begin() as connection:
        connection.execute(
            text("""
            UPDATE operations SET status = 'processing', sent_unresolved = true, dispatched_at = :now,
                lease_until = :until WHERE operation_id = :id
            """),
            {
                "id": calling,
                "now": bridge.clock.now(),
                "until": bridge.clock.now() + timedelta(minutes=1),
            },
        )
    lost = bridge.accept()
    bridge.dispatch(lost)
    bridge.clock.advance(10)
    assert recall_unclaimed(engine, ["s4-second"], bridge.clock) == 0
    assert recall_unclaimed(engine, ["s4-main"], bridge.clock) == 1
    assert bridge.row(calling).status == "processing"


def test_a_database_that_is_away_stops_no_start():
    engine = create_engine("postgresql+pg8000://nobody@127.0.0.1:1/nothing", hide_parameters=True)

    assert recall_unclaimed(engine, ["s4-main"], SystemClock()) == 0
