"""The dispatcher's bounded loops, each in a small world of its own."""

from accepted import NOW, add_payment
from bounded_loops import BOUND, ITEMS, BoundedLoop

from bridge.clock import ManualClock
from bridge.storage.feed import feed_head
from dispatcher import sequencer
from dispatcher.sequencer import Sequencer


class Sequencing(BoundedLoop):
    """Partners with new events, which get numbers in the feed."""

    table, key = "feed_counters", "partner_id"

    def __init__(self, database, monkeypatch, _folder):
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


DISPATCHER_LOOPS = [Sequencing]
