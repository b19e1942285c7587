"""Every bounded loop is fair: nobody starves behind the bound, and one item that fails stops only itself."""

import pytest
from accepted import NOW, add_lanes, add_payment
from bounded_loops import BOUND, ITEMS, BoundedLoop, rounds_for

from bridge.clock import ManualClock
from bridge.storage.feed import feed_head
from dispatcher import sequencer
from dispatcher.sequencer import Sequencer

pytestmark = pytest.mark.integration


class Sequencing(BoundedLoop):
    """Partners with new events, which get numbers in the feed."""

    table, key = "feed_counters", "partner_id"

    def __init__(self, database, monkeypatch):
        super().__init__(database.engine)
        monkeypatch.setattr(sequencer, "MAX_PARTNERS", BOUND)
        self.clock = ManualClock(NOW)
        self.engine = database.engine_for("dispatcher")
        self.sequencer = Sequencer(self.engine, self.clock, lambda: None)
        self.before = {}

    def add_items(self):
        partners = [f"par_{number}" for number in range(ITEMS)]
        self.keep_busy(partners)
        # each has a counter, so that there is a row to lock
        while self.sequencer.go_round().again:
            pass
        self.before = {partner: self.numbered(partner) for partner in partners}
        self.keep_busy(partners)
        return partners

    def go_round(self):
        self.sequencer.go_round()

    def served(self):
        return {partner for partner, before in self.before.items() if self.numbered(partner) > before}

    def keep_busy(self, items):
        with self.owner.begin() as connection:
            for partner in items:
                add_payment(connection, partner, row=False)

    def settle(self):
        self.clock.advance(3600)

    def numbered(self, partner):
        with self.owner.begin() as connection:
            return feed_head(connection, partner).last_sequence


LOOPS = [Sequencing]


@pytest.fixture(params=LOOPS, ids=lambda loop: loop.__name__)
def loop(request, database, monkeypatch):
    add_lanes(database.engine, s4_main=4)
    made = request.param(database, monkeypatch)
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


def test_an_item_that_fails_stops_only_itself(loop):
    items = loop.add_items()
    with loop.refused(items[0]):
        go_rounds(loop)
        assert loop.served() == set(items[1:])
    loop.settle()
    go_rounds(loop)
    assert loop.served() == set(items)
