"""What a mark outside says of a database."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from bridge.high_water_mark import HighWaterMark, MarksOfDatabase, Suspicion

MARK = HighWaterMark("db", 7, "t7", 1, datetime(2026, 11, 29, tzinfo=UTC))
# two are proposed and not known to stand outside: PostgreSQL has started between them
DATABASE = MarksOfDatabase("db", 9, 7, ("t7", "t8", "t9"), is_compared=False, takes_over=False)
NEW = MarksOfDatabase("db", 0, 0, (), is_compared=False, takes_over=False)


@pytest.mark.parametrize(
    ("database", "mark", "suspicion"),
    [
        (NEW, None, None),
        (DATABASE, MARK, None),
        # the answer to the writing was lost, or another dispatcher has written it
        (DATABASE, replace(MARK, serial=8, token="t8"), None),
        (DATABASE, replace(MARK, serial=9, token="t9"), None),
        (DATABASE, replace(MARK, serial=10, token="t10"), Suspicion.BEHIND),
        # a copy that was put back and went on for as many marks
        (DATABASE, replace(MARK, serial=9, token="other"), Suspicion.BEHIND),
        (DATABASE, replace(MARK, serial=7, token="other"), Suspicion.BEHIND),
        # the mark itself was put back
        (DATABASE, replace(MARK, serial=6, token="t6"), None),
        (DATABASE, replace(MARK, database_id="staging"), Suspicion.ANOTHER_DATABASE),
        (NEW, MARK, Suspicion.BEHIND),
        (NEW, replace(MARK, database_id="older"), Suspicion.ANOTHER_DATABASE),
        (DATABASE, None, Suspicion.MARK_MISSING),
        # it was there a moment ago
        (replace(DATABASE, is_compared=True), None, None),
        (replace(DATABASE, is_compared=True), replace(MARK, database_id="x"), Suspicion.ANOTHER_DATABASE),
        (replace(DATABASE, takes_over=True), replace(MARK, serial=99, token="t99"), None),
        (replace(DATABASE, takes_over=True), replace(MARK, database_id="staging"), None),
    ],
)
def test_a_database_is_suspected_when_the_mark_is_not_of_its_own_past(database, mark, suspicion):
    assert database.suspicion(mark) is suspicion
