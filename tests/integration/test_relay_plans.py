"""What the relay's and the gauges' statements read: as much as they need, however many rows there are."""

from datetime import timedelta

import pytest
from accepted import LANE, NOW, OTHER_LANE, add_lanes, add_payments, change
from sqlalchemy import text
from statement_plans import rows_read

from bridge.messages import EVENTS_LANE
from bridge.storage.due_rows import FAIR_ROWS, UNKNOWN_ROW
from bridge.storage.events import put_back
from bridge.storage.lanes import NEXT_DUE
from bridge.storage.state_figures import SELECT_STATE, SELECT_UNKNOWN

pytestmark = pytest.mark.integration

ROLE = "dispatcher"

PARTNERS = 120
ROWS_EACH = 5


@pytest.fixture
def owner(database):
    add_lanes(database.engine, s4_main=4, s4_second=4)
    return database.engine


@pytest.fixture
def many_partners(owner):
    for number in range(PARTNERS):
        add_payments(owner, ROWS_EACH, f"par_{number:03}", event=False)
    add_payments(owner, 500, "par_closed", lane=OTHER_LANE, event=False)
    analyze(owner)


def analyze(owner):
    with owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE outbox, operations"))


def fair_rows(engine, *, limit, after=""):
    parameters = {"lane": LANE, "limit": limit, "returned": limit // 2, "after_partner": after, "now": NOW}
    with engine.begin() as connection:
        partners = [row.partner_id for row in connection.execute(FAIR_ROWS, parameters)]
    return partners, rows_read(engine, FAIR_ROWS, **parameters)


def test_a_claim_of_a_few_rows_read_all_partners_times_as_many(engine, many_partners):
    partners, read = fair_rows(engine, limit=8)
    assert partners == [f"par_{number:03}" for number in range(8)]
    assert read <= 8 * 4, read


def test_a_claim_goes_on_after_the_partner_served_last_and_round_again(engine, many_partners):
    partners, read = fair_rows(engine, limit=4, after="par_117")
    assert partners == ["par_118", "par_119", "par_000", "par_001"]
    assert read <= 4 * 5, read


def test_a_claim_of_many_rows_takes_as_many_of_each_partner(engine, many_partners):
    partners, read = fair_rows(engine, limit=240, after="par_050")
    assert len(partners) == 240
    assert sorted(partners[:PARTNERS]) == sorted(partners[PARTNERS:])
    assert read <= 240 * 3, read


def test_the_claim_never_walks_past_another_lanes_rows(owner, engine):
    add_payments(owner, 2000, "par_closed", lane=OTHER_LANE, event=False)
    add_payments(owner, 3, event=False)
    analyze(owner)
    partners, read = fair_rows(engine, limit=8)
    assert partners == ["par_a"] * 3
    assert read < 20, read


def test_the_claim_finds_what_has_come_back_behind_a_backlog(owner, engine):
    ids = add_payments(owner, 2000, event=False)
    with owner.begin() as connection:
        for operation_id in ids[:5]:
            put_back(connection, operation_id, not_before=NOW, now=NOW)
        for operation_id in ids[5:500]:
            put_back(connection, operation_id, not_before=NOW + timedelta(minutes=1), now=NOW)
    analyze(owner)
    partners, read = fair_rows(engine, limit=8)
    assert len(partners) == 8
    assert read <= 8 * 4, read


def test_knowing_what_is_due_next_reads_one_row_of_each_lane(engine, many_partners):
    read = rows_read(engine, NEXT_DUE, now=NOW, lane=None, events=EVENTS_LANE)
    assert read <= 2 * 3, read


def test_the_row_of_an_unknown_operation_is_found_by_it_whatever_the_statistics_say(
    owner, engine, many_partners
):
    """They were made when nothing was unknown, or when everything was."""
    [operation_id] = add_payments(owner, 1, "par_unknown", event=False)
    change(owner, operation_id, status="unknown")
    read = rows_read(engine, UNKNOWN_ROW, lane=LANE, now=NOW)
    assert read <= 4, read
    with owner.begin() as connection:
        connection.execute(text("UPDATE operations SET status = 'unknown' WHERE partner_id = 'par_closed'"))
    analyze(owner)
    assert rows_read(engine, UNKNOWN_ROW, lane=LANE, now=NOW) <= 4


def test_the_gauges_read_what_is_unknown_or_parked_and_none_of_the_backlog(owner, database, many_partners):
    unknown, parked = add_payments(owner, 2, event=False, row=False)
    change(owner, unknown, status="unknown", settled_at=NOW)
    change(owner, parked, status="parked", parked_reason="mapping")
    analyze(owner)
    backoffice = database.engine_for("backoffice")
    assert rows_read(backoffice, SELECT_UNKNOWN, max_rows=1000) == 1
    assert rows_read(backoffice, SELECT_STATE, max_rows=1000, overdue_at=NOW) == 1
    backoffice.dispose()
