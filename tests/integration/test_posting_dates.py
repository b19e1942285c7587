"""The day a document is posted on, and what a closed period makes of it."""

from datetime import UTC, date, datetime, timedelta

import pytest
from fakes.accepted import MAPPING, TARGET
from lxml import etree
from posting_stage import make_bridge
from sqlalchemy import text

from bridge.payment import OperationKind
from sap_adapter.claiming import MAX_EARLY_SECONDS

pytestmark = pytest.mark.integration

PERIOD_CLOSED = "refuse:201(F5)"
DAY_SECONDS = 86_400


@pytest.fixture
def bridge(database):
    engine = database.engine_for("sap_adapter")
    yield make_bridge(database.engine, engine)
    engine.dispose()


def map_by(bridge, **members):
    mapping = MAPPING.model_copy(update=members)
    target = TARGET.model_copy(update={"mappings": dict.fromkeys(OperationKind, mapping)})
    bridge.directory.configuration = bridge.directory.configuration.model_copy(
        update={"targets": {"main": target}}
    )


def dates(sending):
    entry = etree.fromstring(sending.content)
    return entry.findtext("DocumentDate"), entry.findtext("PostingDate")


@pytest.mark.parametrize(("chosen", "posted_on"), [("acceptance", "2026-11-21"), ("posting", "2026-11-24")])
def test_the_posting_date_is_that_of_acceptance_or_of_the_first_attempt(bridge, chosen, posted_on):
    map_by(bridge, posting_date=chosen)
    operation_id = bridge.accept()
    bridge.clock.advance(3 * DAY_SECONDS)
    bridge.sap.script.append("not-posted")
    bridge.step(operation_id)
    bridge.clock.advance(DAY_SECONDS)
    bridge.step(operation_id)
    assert [dates(sent) for sent in bridge.sap.sendings] == [("2026-11-21", posted_on)] * 2
    assert bridge.row(operation_id).posting_date.isoformat() == posted_on


def test_a_closed_period_parks_where_the_mapping_does_not_say_otherwise(bridge):
    operation_id = bridge.accept()
    bridge.sap.script.append(PERIOD_CLOSED)
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.parked_reason, row.failure_code) == ("parked", "operator", "sap-period-closed")


def test_a_closed_period_moves_the_posting_to_the_next_month_and_says_so_on_the_operation(bridge):
    map_by(bridge, next_open_day=True)
    operation_id = bridge.accept()
    bridge.sap.script.append(PERIOD_CLOSED)
    bridge.step(operation_id)
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.posting_date.isoformat()) == ("succeeded", "2026-12-01")
    first, second = bridge.sap.sendings
    assert [dates(sent) for sent in (first, second)] == [
        ("2026-11-21", "2026-11-21"),
        ("2026-11-21", "2026-12-01"),
    ]
    # nothing else has changed, and SAP does not replay its refusal
    assert second.content == bridge.sap.with_posting_date(first.content, row.posting_date)
    assert first.message_uuid != second.message_uuid
    assert len(bridge.sap.booked) == 1


def test_an_outage_over_several_ends_of_months_ends_in_the_first_period_that_is_open(bridge):
    map_by(bridge, posting_date="acceptance", next_open_day=True)
    operation_id = bridge.accept()
    bridge.clock.advance(80 * DAY_SECONDS)  # 9 February
    bridge.sap.script.extend([PERIOD_CLOSED] * 2)
    for _ in range(3):
        bridge.step(operation_id)
    assert [dates(sent)[1] for sent in bridge.sap.sendings] == ["2026-11-21", "2026-12-01", "2027-01-01"]
    assert bridge.row(operation_id).status == "succeeded"


def test_what_the_month_after_todays_does_not_take_either_is_parked(bridge):
    map_by(bridge, next_open_day=True)
    operation_id = bridge.accept()
    bridge.sap.script.extend([PERIOD_CLOSED] * 2)
    bridge.step(operation_id)
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.failure_code) == ("parked", "sap-period-closed")
    assert [dates(sent)[1] for sent in bridge.sap.sendings] == ["2026-11-21", "2026-12-01"]


def test_other_reasons_do_not_move_the_posting_date(bridge):
    map_by(bridge, next_open_day=True)
    operation_id = bridge.accept()
    bridge.sap.script.append("refuse:506(F5)")
    bridge.step(operation_id)
    assert bridge.row(operation_id).status == "parked"


def test_a_moved_posting_whose_answer_is_lost_is_found_and_not_posted_again(bridge):
    map_by(bridge, next_open_day=True)
    operation_id = bridge.accept()
    bridge.sap.script.extend([PERIOD_CLOSED, "commit-then-drop"])
    for _ in range(3):
        bridge.step(operation_id)
    assert bridge.row(operation_id).status == "succeeded"
    assert len(bridge.sap.sendings) == 2
    assert len(bridge.sap.booked) == 1


def test_whether_a_closed_period_moves_it_is_frozen_with_the_document(bridge):
    map_by(bridge, next_open_day=True)
    operation_id = bridge.accept()
    bridge.sap.script.extend(["not-posted", PERIOD_CLOSED])
    bridge.step(operation_id)
    map_by(bridge, next_open_day=False)
    bridge.clock.advance(2)
    bridge.step(operation_id)
    bridge.step(operation_id)
    assert bridge.row(operation_id).status == "succeeded"


# --- a payment for a later day: in Berlin 2027 begins at 23:00 UTC
NEW_YEAR = date(2027, 1, 1)
MIDNIGHT = datetime(2026, 12, 31, 23, 0, tzinfo=UTC)


def schedule(bridge, day=NEW_YEAR, begins_at=MIDNIGHT):
    """Accept a payment that is wanted for a later day, as the gateway does."""
    operation_id = bridge.accept()
    with bridge.engine.begin() as connection:
        connection.execute(
            text("UPDATE payments SET status = 'scheduled', requested_execution_date = :day"), {"day": day}
        )
        connection.execute(
            text("UPDATE operations SET status = 'scheduled', due_at = :begins_at"), {"begins_at": begins_at}
        )
    return operation_id


def set_clock(bridge, moment):
    bridge.clock.advance((moment - bridge.clock.now()).total_seconds())


@pytest.mark.parametrize("chosen", ["posting", "acceptance"])
@pytest.mark.parametrize("behind_seconds", [-1, 0, 1, 90])
def test_a_payment_for_the_new_year_is_never_posted_in_the_old_one(bridge, chosen, behind_seconds):
    map_by(bridge, posting_date=chosen)
    operation_id = schedule(bridge)
    set_clock(bridge, MIDNIGHT - timedelta(seconds=behind_seconds))
    bridge.step(operation_id)
    (sending,) = bridge.sap.sendings
    assert dates(sending)[1] == "2027-01-01"
    assert bridge.row(operation_id).posting_date == NEW_YEAR


def test_a_payment_that_is_late_is_posted_on_the_day_it_is_sent(bridge):
    operation_id = schedule(bridge)
    set_clock(bridge, MIDNIGHT + timedelta(days=2))
    bridge.step(operation_id)
    assert dates(bridge.sap.sendings[0])[1] == "2027-01-03"


@pytest.mark.parametrize("early_seconds", [MAX_EARLY_SECONDS + 1, 3600, 5 * DAY_SECONDS])
def test_a_payment_that_is_dispatched_before_its_day_goes_back_until_then(bridge, early_seconds):
    operation_id = schedule(bridge)
    set_clock(bridge, MIDNIGHT - timedelta(seconds=early_seconds))
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (bridge.sap.sendings, row.status, row.not_before) == ([], "scheduled", MIDNIGHT)
    assert bridge.busy_slots() == 0
    set_clock(bridge, MIDNIGHT)
    bridge.step(operation_id)
    assert dates(bridge.sap.sendings[0])[1] == "2027-01-01"
