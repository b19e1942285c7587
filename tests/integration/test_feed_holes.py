"""A number is missing in the feed: nobody passes it, operators hear of it, all go on when it is back."""

from datetime import timedelta

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs
from webhook_stage import Stage, endpoint

from bridge.clock import ManualClock
from bridge.storage.erase import erase_all
from bridge.storage.feed import feed_head
from bridge.storage.recovered import FeedStart, resume_feeds
from bridge.storage.state_figures import feeds_with_holes

pytestmark = pytest.mark.integration

PAID = "payment.paid"
KEEP_FEED = timedelta(days=90)


@pytest.fixture
def stage(database, tmp_path):
    made = Stage(database, tmp_path)
    made.set_endpoints(endpoint(made.receiver.url))
    yield made
    made.close()


def lend(stage, sequence):
    """Take a row out of the feed for a while; return how to put it back."""
    (row,) = stage.rows(f"SELECT * FROM feed WHERE sequence = {sequence}")
    change(stage, "DELETE FROM feed WHERE sequence = :sequence", sequence=sequence)
    return lambda: change(
        stage,
        "INSERT INTO feed (partner_id, sequence, event_id) VALUES (:partner_id, :sequence, :event_id)",
        **{name: row._mapping[name] for name in ("partner_id", "sequence", "event_id")},
    )


def change(stage, statement, **parameters):
    with stage.owner.begin() as connection:
        connection.execute(text(statement), parameters)


def told(stage):
    return [delivery.sequence for delivery in stage.deliveries()]


def holes(stage):
    with stage.owner.begin() as connection:
        return feeds_with_holes(connection)


def jump(stage):
    """What a recovery does to the feeds."""
    with stage.owner.begin() as connection:
        resume_feeds(connection, FeedStart.at(stage.clock.now()))


def test_the_sweeper_passed_a_number_that_was_lent_for_a_moment(stage):
    """Everything that waited for its webhook waited for ever."""
    stage.publish(*[PAID] * 4)
    put_back = lend(stage, 3)
    stage.instance.sweeper.sweep()
    assert stage.ring() == 204
    assert told(stage) == [1, 2]
    (made,) = stage.rows("SELECT sequence FROM webhooks.cursors")
    assert made.sequence == 2
    assert holes(stage) == 1
    put_back()
    assert holes(stage) == 0
    stage.instance.sweeper.sweep()
    assert told(stage) == [1, 2, 3, 4]
    assert [delivery.previous_sequence for delivery in stage.deliveries()] == [0, 1, 2, 3]
    assert holes(stage) == 0


def test_a_hole_is_logged_once_and_again_when_there_is_another(stage):
    stage.publish(*[PAID] * 4)
    put_back = lend(stage, 2)
    with capture_logs() as lines:
        for _ in range(3):
            stage.ring()
    found = [line for line in lines if line["event"] == "the feed has a hole"]
    assert [(line["log_level"], line["missing_sequence"]) for line in found] == [("error", 2)]
    put_back()
    lend(stage, 4)
    stage.publish(PAID)
    with capture_logs() as lines:
        stage.ring()
    assert [line["missing_sequence"] for line in lines if line["event"] == "the feed has a hole"] == [4]


def test_the_newest_number_is_missing(stage):
    stage.publish(PAID, PAID)
    put_back = lend(stage, 2)
    stage.ring()
    assert (told(stage), holes(stage)) == ([1], 1)
    put_back()
    stage.ring()
    assert (told(stage), holes(stage)) == ([1, 2], 0)


def test_an_endpoint_that_begins_behind_the_hole_notices_nothing(stage):
    later = endpoint(stage.receiver.url, starts_after_sequence=3)
    stage.set_endpoints(*stage.partner.webhook_endpoints, later)
    stage.publish(*[PAID] * 4)
    lend(stage, 2)
    stage.ring()
    at_later = {
        delivery.sequence: delivery.endpoint_id == later.endpoint_id for delivery in stage.deliveries()
    }
    assert at_later == {1: False, 4: True}


def test_what_retention_removed_is_no_hole_for_a_new_endpoint(stage, database):
    stage.publish(*[PAID] * 3)
    engine = database.engine_for("retention")
    clock = ManualClock(stage.now() + KEEP_FEED + timedelta(days=1))
    erased = erase_all(engine, clock, keep_payments=timedelta(days=430), keep_feed=KEEP_FEED)
    engine.dispose()
    assert erased.feed_rows == 3
    assert holes(stage) == 0
    stage.publish(PAID)
    stage.ring()
    assert (told(stage), holes(stage)) == ([4], 0)


def test_jumps_after_restores_are_no_holes(stage):
    stage.publish(PAID)
    stage.ring()
    stage.publish(PAID)  # this one is walked after the jump
    jump(stage)
    assert holes(stage) == 0 or told(stage) == [1]
    stage.ring()
    assert holes(stage) == 0
    stage.publish(PAID)
    jump(stage)
    jump(stage)  # with nothing between them
    stage.publish(PAID, PAID)
    stage.ring()
    with stage.owner.begin() as connection:
        last = feed_head(connection, stage.partner_id).last_sequence
    assert len(told(stage)) == 5
    assert told(stage)[-1] == last
    assert holes(stage) == 0
