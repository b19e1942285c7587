"""The feed gets shorter from its old end, without a hole, and never by what a webhook still needs."""

import threading
from datetime import timedelta

import pytest
from accepted import NOW, add_event, add_payment, operation, scalar
from sqlalchemy import text
from waiting import DEADLINE_SECONDS, wait_until

from bridge.clock import ManualClock
from bridge.errors import SettingsError
from bridge.storage.erase import Settings, erase_all
from bridge.storage.feed import feed_head, feed_page, sequence_events
from bridge.storage.feed_retention import delete_oldest

pytestmark = pytest.mark.integration

ROLE = "retention"

KEEP_FEED = timedelta(days=90)
OLD, YOUNG = NOW - KEEP_FEED - timedelta(seconds=1), NOW - KEEP_FEED + timedelta(seconds=1)
PARTNER, OTHER = "par_a", "par_b"

ADD_CURSOR = text("""
    INSERT INTO webhooks.cursors (endpoint_id, partner_id, sequence, status, disabled_reason,
                                  configuration_version, created_at)
    VALUES (:endpoint_id, :partner_id, :sequence, :status,
            CASE CAST(:status AS text) WHEN 'disabled' THEN 'partner' END, 1, :now)
""")
ADD_DELIVERY = text("""
    INSERT INTO webhooks.deliveries (delivery_id, endpoint_id, partner_id, event_id, sequence,
                                     previous_sequence, status, next_attempt_at, created_at)
    SELECT 'dlv_' || sequence, :endpoint_id, partner_id, event_id, sequence, 0, :status,
           CASE CAST(:status AS text) WHEN 'pending' THEN CAST(:now AS timestamptz) END, :now
    FROM feed WHERE partner_id = :partner_id AND sequence = :sequence
""")
WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)


def fill(owner, *moments, partner_id=PARTNER):
    """One payment, and an event of each moment, numbered in that order."""
    with owner.begin() as connection:
        operation_id = add_payment(connection, partner_id, now=NOW, row=False, event=False)
    payment_id = operation(owner, operation_id).payment_id
    with owner.begin() as connection:
        for moment in moments:
            add_event(connection, payment_id, operation_id, partner_id, "payment.paid", moment)
    number(owner, partner_id)


def number(owner, partner_id=PARTNER):
    with owner.begin() as connection:
        return sequence_events(connection, partner_id, limit=10_000)


def fed(owner, partner_id=PARTNER):
    with owner.begin() as connection:
        return [event.sequence for event in feed_page(connection, partner_id, after=0, limit=10_000)]


def add_cursor(owner, sequence, *, status="enabled", endpoint_id="whe_1", partner_id=PARTNER):
    with owner.begin() as connection:
        connection.execute(
            ADD_CURSOR,
            {
                "endpoint_id": endpoint_id,
                "partner_id": partner_id,
                "sequence": sequence,
                "status": status,
                "now": NOW,
            },
        )


def add_delivery(owner, sequence, status, endpoint_id="whe_1"):
    parameters = {"endpoint_id": endpoint_id, "partner_id": PARTNER, "sequence": sequence, "now": NOW}
    with owner.begin() as connection:
        connection.execute(ADD_DELIVERY, parameters | {"status": status})


def run(engine, **options):
    done = erase_all(
        engine, ManualClock(NOW), keep_payments=timedelta(days=430), keep_feed=KEEP_FEED, **options
    )
    assert done.payments == 0
    return done.feed_rows


def test_old_events_leave_the_feed_and_stay_in_their_timeline(owner, engine):
    fill(owner, OLD, OLD, YOUNG, YOUNG)
    fill(owner, YOUNG, partner_id=OTHER)
    assert run(engine) == 2
    assert fed(owner) == [3, 4]
    assert fed(owner, OTHER) == [1]
    assert scalar(owner, "SELECT count(*) FROM events") == 5
    assert run(engine) == 0


def test_numbering_goes_on_after_the_whole_feed_has_gone(owner, engine):
    fill(owner, OLD, OLD, OLD)
    assert run(engine) == 3
    assert fed(owner) == []
    with owner.begin() as connection:
        assert feed_head(connection, PARTNER).last_sequence == 3
    fill(owner, NOW)
    assert fed(owner) == [4]


def test_an_old_event_behind_a_young_one_stays(owner, engine):
    """A long transaction may have numbered it late; without it there would be a hole."""
    fill(owner, OLD, YOUNG, OLD)
    assert run(engine) == 1
    assert fed(owner) == [2, 3]


@pytest.mark.parametrize("status", ["enabled", "disabled"])
def test_what_an_endpoint_has_not_passed_stays(owner, engine, status):
    fill(owner, OLD, OLD, OLD, OLD)
    add_cursor(owner, 4)
    add_cursor(owner, 2, status=status, endpoint_id="whe_2")
    add_cursor(owner, 0, endpoint_id="whe_3", partner_id=OTHER)
    assert run(engine) == 2
    assert fed(owner) == [3, 4]


@pytest.mark.parametrize("status", ["pending", "held"])
def test_what_has_not_been_delivered_stays(owner, engine, status):
    fill(owner, OLD, OLD, OLD)
    add_cursor(owner, 3)
    add_delivery(owner, 1, "delivered")
    add_delivery(owner, 2, status)
    add_delivery(owner, 3, "exhausted")
    assert run(engine) == 1
    assert fed(owner) == [2, 3]
    with owner.begin() as connection:
        connection.execute(
            text("UPDATE webhooks.deliveries SET status = 'delivered', next_attempt_at = NULL")
        )
    assert run(engine) == 2


def test_an_endpoint_that_was_deleted_keeps_nothing(owner, engine):
    fill(owner, OLD, OLD)
    add_cursor(owner, 1, status="deleted")
    add_delivery(owner, 1, "held")
    assert run(engine) == 2


def test_a_long_feed_goes_in_batches(owner, engine):
    fill(owner, *[OLD] * 25, YOUNG)
    assert run(engine, per_transaction=4, max_transactions=3) == 12
    assert fed(owner) == list(range(13, 27))
    assert run(engine, per_transaction=4) == 13
    assert fed(owner) == [26]


def test_an_interrupted_job_is_not_finished_and_says_so(owner, engine):
    fill(owner, *[OLD] * 5)
    options = {"keep_payments": timedelta(days=430), "keep_feed": KEEP_FEED}
    done = erase_all(engine, ManualClock(NOW), **options, per_transaction=2, max_transactions=2)
    assert (done.feed_rows, done.finished) == (4, False)
    done = erase_all(engine, ManualClock(NOW), **options, per_transaction=2)
    assert (done.feed_rows, done.finished) == (1, True)


def test_two_jobs_leave_no_hole_between_their_batches(owner, engine):
    """The second waits: had it gone on behind the first and committed before, a reader would skip rows."""
    fill(owner, *[OLD] * 6)
    done = []

    def second():
        with engine.begin() as connection:
            done.append(delete_oldest(connection, PARTNER, written_until=OLD, limit=3))

    with engine.begin() as first:
        assert delete_oldest(first, PARTNER, written_until=OLD, limit=3) == 3
        other = threading.Thread(target=second)
        other.start()
        wait_until(lambda: scalar(owner, WAITING) == 1, what="the second job waiting")
        assert fed(owner) == [1, 2, 3, 4, 5, 6]
    other.join(DEADLINE_SECONDS)
    assert done == [3]
    assert fed(owner) == []


def test_the_dispatcher_numbers_while_the_job_deletes(owner, engine):
    fill(owner, OLD, OLD)
    with engine.begin() as job:
        assert delete_oldest(job, PARTNER, written_until=OLD, limit=10) == 2
        fill(owner, NOW)  # waits for nothing
        assert fed(owner) == [1, 2, 3]
    assert fed(owner) == [3]


def test_a_feed_is_not_kept_for_less_than_webhooks_are_tried():
    environ = {"DATABASE_URL": "postgresql+pg8000://nobody@127.0.0.1:1/none"}
    assert Settings.from_environment(environ).keep_feed == timedelta(days=90)
    with pytest.raises(SettingsError, match="FEED_RETENTION_DAYS"):
        Settings.from_environment(environ | {"FEED_RETENTION_DAYS": "6"})
