"""Missing numbers of a feed are holes, unless retention removed them or a restore jumped over them."""

from datetime import UTC, datetime

import pytest

from bridge.errors import RejectedError
from bridge.storage.feed import FedEvent, FeedHead, up_to_hole
from gateway.event_routes import _require_kept

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def fed(sequence, follows=None):
    return FedEvent(
        sequence, f"evt_{sequence}", "payment.paid", NOW, {}, sequence - 1 if follows is None else follows
    )


def numbers(events):
    return [event.sequence for event in events]


@pytest.mark.parametrize(
    ("sequences", "after", "before_hole", "missing"),
    [
        ([], 5, [], None),
        ([6, 7, 8], 5, [6, 7, 8], None),
        ([6, 8, 9], 5, [6], 7),
        ([7, 8], 5, [], 6),
        ([6, 7, 10**6], 5, [6, 7], 8),
    ],
)
def test_a_page_ends_before_the_first_missing_number(sequences, after, before_hole, missing):
    events, found = up_to_hole([fed(sequence) for sequence in sequences], after=after)
    assert (numbers(events), found) == (before_hole, missing)


def test_what_retention_removed_is_no_hole():
    page = [fed(9), fed(10)]
    assert up_to_hole(page, after=3)[1] == 4
    assert up_to_hole(page, after=3, expired_to=8) == (page, None)
    # less was removed than is missing
    assert up_to_hole(page, after=3, expired_to=7) == ([], 8)


@pytest.mark.parametrize("after", [100, 450, 999, 1000])
def test_a_jump_is_no_hole_from_wherever_one_comes(after):
    page = [fed(1001, follows=100), fed(1002)]
    assert up_to_hole(page, after=after) == (page, None)


def test_a_hole_before_or_behind_a_jump_is_one():
    assert up_to_hole([fed(1001, follows=100)], after=98) == ([], 99)
    page = [fed(1001, follows=100), fed(1003)]
    events, missing = up_to_hole(page, after=100)
    assert (numbers(events), missing) == ([1001], 1002)


def test_two_jumps_are_passed_one_after_the_other():
    page = [fed(1001, follows=100), fed(2002, follows=1001), fed(2003)]
    assert up_to_hole(page, after=100) == (page, None)


def test_a_reader_gets_over_the_jump_and_is_told_what_is_not_kept():
    head = FeedHead(last_sequence=1005, epoch=2, jumped_from=100, jumped_to=1000, expired_to=60)
    for after in (60, 100, 450, 999, 1000):
        _require_kept(head, after)
    with pytest.raises(RejectedError, match="after=60"):
        _require_kept(head, 59)
