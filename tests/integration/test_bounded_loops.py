"""Every bounded loop is fair: nobody starves behind the bound, and one item that fails stops only itself."""

import pytest
from accepted import add_lanes
from bounded_loops import ITEMS, rounds_for
from dispatcher_loops import DISPATCHER_LOOPS
from sweeper_loops import SWEEPER_LOOPS

pytestmark = pytest.mark.integration

LOOPS = [*DISPATCHER_LOOPS, *SWEEPER_LOOPS]


@pytest.fixture(params=LOOPS, ids=lambda loop: loop.__name__)
def loop(request, database, monkeypatch, tmp_path):
    add_lanes(database.engine, s4_main=4)
    made = request.param(database, monkeypatch, tmp_path)
    yield made
    made.engine.dispose()


def go_rounds(loop, rounds=None):
    for _ in range(rounds or rounds_for(ITEMS)):
        loop.keep_busy(sorted(loop.served()))
        loop.go_round()


def test_nobody_starves_behind_the_bound_while_the_first_have_more_each_time(loop):
    items = loop.add_items()
    go_rounds(loop)
    assert loop.served() == set(items)


def test_an_item_that_is_locked_stops_only_itself(loop):
    items = loop.add_items()
    with loop.locked(items[0]):
        go_rounds(loop)
        assert loop.served() == set(items[1:])
    loop.settle()
    go_rounds(loop)
    assert loop.served() == set(items)


@pytest.mark.parametrize("loop", [loop for loop in LOOPS if loop.can_fail], indirect=True)
def test_an_item_that_fails_stops_only_itself(loop):
    items = loop.add_items()
    with loop.refused(items[0]):
        go_rounds(loop)
        assert loop.served() == set(items[1:])
    loop.settle()
    go_rounds(loop)
    assert loop.served() == set(items)
