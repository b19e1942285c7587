"""The day a document is posted on, and what a closed period makes of it."""

import pytest
from fakes.accepted import MAPPING, TARGET
from lxml import etree
from posting_stage import make_bridge

from bridge.payment import OperationKind

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
