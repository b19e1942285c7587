"""The dispatcher's bounded loops, each in a small world of its own."""

from datetime import timedelta

from accepted import NOW, add_payment, add_payments, change
from bounded_loops import BOUND, ITEMS, BoundedLoop
from sqlalchemy import text

from bridge.clock import ManualClock
from bridge.storage.feed import feed_head
from dispatcher import sequencer, watchdog
from dispatcher.sequencer import Sequencer
from dispatcher.watchdog import Watchdog, WatchdogSettings


class Sequencing(BoundedLoop):
    """Partners with new events, which get numbers in the feed."""

    table, key = "feed_counters", "partner_id"

    def __init__(self, database, monkeypatch, _folder):
        super().__init__(database.engine)
        monkeypatch.setattr(sequencer, "MAX_PARTNERS", BOUND)
        self.clock = ManualClock(NOW)
        self.engine = database.engine_for("dispatcher")
        self.sequencer = Sequencer(self.engine, lambda: None, self.clock.monotonic)
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


class ExpiredClaims(BoundedLoop):
    """Claims whose lease has ended: whoever held them is dead."""

    table, key = "operations", "operation_id"

    def __init__(self, database, monkeypatch, _folder):
        super().__init__(database.engine)
        monkeypatch.setattr(watchdog, "MAX_EXPIRED", BOUND)
        self.clock = ManualClock(NOW)
        self.engine = database.engine_for("dispatcher")
        settings = WatchdogSettings(5.0, 60.0, settling_seconds=30.0, delayed_after_seconds=900.0)
        self.watchdog = Watchdog(self.engine, self.clock, settings, lambda: None)

    def add_items(self):
        items = add_payments(self.owner, ITEMS, event=False)
        for number, item in enumerate(items):
            self.claim(item, NOW - timedelta(seconds=ITEMS - number))
        return items

    def claim(self, item, lease_until):
        change(
            self.owner,
            item,
            status="processing",
            lease_until=lease_until,
            claims_started=1,
            claims_finished=1,
        )

    def go_round(self):
        self.watchdog.go_round()

    def served(self):
        with self.owner.begin() as connection:
            rows = connection.execute(text("SELECT operation_id FROM outbox WHERE is_returned"))
            return set(rows.scalars())

    def keep_busy(self, items):
        for item in items:
            self.claim(item, NOW - timedelta(minutes=1))

    def settle(self):
        self.clock.advance(60)


DISPATCHER_LOOPS = [Sequencing, ExpiredClaims]
