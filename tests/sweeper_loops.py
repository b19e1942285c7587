"""The webhooks sweeper's bounded loops, each in a small world of its own."""

import json
from contextlib import contextmanager

from bounded_loops import BOUND, ITEMS, BoundedLoop
from partner_documents import new_partner
from sqlalchemy import text
from webhook_stage import Stage, endpoint

from bridge.errors import PermanentError
from bridge.storage import webhooks as cursors
from webhooks import sweeper


class OverdueDeliveries(BoundedLoop):
    """Deliveries whose tasks are lost; they stay overdue, as nobody takes the new tasks either."""

    table, key = "webhooks.deliveries", "delivery_id"

    def __init__(self, database, monkeypatch, folder):
        super().__init__(database.engine)
        monkeypatch.setattr(sweeper, "MAX_OVERDUE", BOUND)
        monkeypatch.setattr(sweeper, "MAX_OVERDUE_ROUNDS", 1)
        self.stage = Stage(database, folder)
        self.engine = self.stage.engine

    def add_items(self):
        self.stage.set_endpoints(endpoint(self.stage.receiver.url))
        self.stage.publish(*["payment.paid"] * ITEMS)
        self.stage.ring()
        self.stage.queue.waiting.clear()
        self.stage.outlive_the_grace()
        return [delivery.delivery_id for delivery in self.stage.deliveries()]

    def go_round(self):
        self.stage.instance.sweeper._sweep_overdue()
        self.stage.clock.advance(10)

    def served(self):
        tasks = [json.loads(task.payload) for task in self.stage.queue.waiting]
        return {task["delivery_id"] for task in tasks}

    def keep_busy(self, items):
        """They are overdue as before."""

    def settle(self):
        self.stage.clock.advance(sweeper.LONGEST_WAIT_SECONDS)

    @contextmanager
    def refused(self, item):
        """Have the queue refuse the task of the item for good."""
        schedule = self.stage.queue.schedule

        def refuse(name, url, payload, at):
            if item.encode() in payload:
                raise PermanentError("planted by a test")
            return schedule(name, url, payload, at)

        self.stage.queue.schedule = refuse
        try:
            yield
        finally:
            self.stage.queue.schedule = schedule


class ForgottenEndpoints(BoundedLoop):
    """Endpoints whose deliveries wait, and whoever should have made their tasks is dead."""

    table, key = "webhooks.deliveries", "endpoint_id"

    def __init__(self, database, monkeypatch, folder):
        super().__init__(database.engine)
        monkeypatch.setattr(sweeper, "MAX_OVERDUE", BOUND)
        self.stage = Stage(database, folder)
        self.engine = self.stage.engine

    def add_items(self):
        made = [endpoint(self.stage.receiver.url) for _ in range(ITEMS)]
        self.stage.set_endpoints(*made)
        # more than one for each, so that the first endpoints go on having some
        self.stage.publish(*["payment.paid"] * 10)
        self.stage.ring()
        self.stage.queue.waiting.clear()
        with self.owner.begin() as connection:
            connection.execute(text("UPDATE webhooks.deliveries SET task = 'waiting'"))
        self.stage.outlive_the_grace()
        return sorted(each.endpoint_id for each in made)

    def go_round(self):
        self.stage.instance.sweeper._sweep_forgotten()
        self.stage.clock.advance(10)

    def served(self):
        rows = self.stage.rows("SELECT DISTINCT endpoint_id FROM webhooks.deliveries WHERE sweep > 0")
        return {row.endpoint_id for row in rows}

    def keep_busy(self, items):
        """They have ten deliveries each."""

    def settle(self):
        self.stage.clock.advance(3600)

    can_fail = False


class FeedsBehind(BoundedLoop):
    """Partners whose endpoints are behind their feeds, and nobody rings."""

    table, key = "webhooks.cursors", "partner_id"

    def __init__(self, database, monkeypatch, folder):
        super().__init__(database.engine)
        monkeypatch.setattr(sweeper, "MAX_PARTNERS", BOUND)
        monkeypatch.setattr(sweeper, "MAX_KNOWN_PARTNERS", 1)
        monkeypatch.setattr(cursors, "LOCK_TIMEOUT_MILLISECONDS", 50)
        self.stage = Stage(database, folder)
        self.engine = self.stage.engine
        self.partners = {}
        self.before = {}

    def add_items(self):
        for _ in range(ITEMS):
            self.stage.partner = new_partner()
            self.stage.store.put(self.stage.partner, None)
            self.stage.set_endpoints(endpoint(self.stage.receiver.url))
            self.partners[self.stage.partner_id] = self.stage.partner
            self.stage.publish("payment.paid")
            self.stage.ring()
        self.before = self.positions()
        self.keep_busy(sorted(self.partners))
        return sorted(self.partners)

    def go_round(self):
        self.stage.instance.sweeper._sweep_feeds()
        self.stage.clock.advance(10)

    def served(self):
        return {partner for partner, position in self.positions().items() if position > self.before[partner]}

    def keep_busy(self, items):
        for partner_id in items:
            self.stage.partner = self.partners[partner_id]
            self.stage.publish("payment.paid")

    def settle(self):
        self.stage.clock.advance(3600)

    def positions(self):
        rows = self.stage.rows("SELECT partner_id, sequence FROM webhooks.cursors")
        return {row.partner_id: row.sequence for row in rows}


class DeletedEndpoints(BoundedLoop):
    """Endpoints that are gone, with deliveries that are still open."""

    table, key = "webhooks.cursors", "endpoint_id"

    def __init__(self, database, monkeypatch, folder):
        super().__init__(database.engine)
        monkeypatch.setattr(sweeper, "MAX_CANCELLED_ROUNDS", BOUND)
        self.stage = Stage(database, folder)
        self.engine = self.stage.engine

    def add_items(self):
        made = [endpoint(self.stage.receiver.url) for _ in range(ITEMS)]
        self.stage.set_endpoints(*made)
        self.stage.publish(*["payment.paid"] * 2)
        self.stage.ring()
        with self.owner.begin() as connection:
            connection.execute(text("UPDATE webhooks.cursors SET status = 'deleted'"))
        return sorted(each.endpoint_id for each in made)

    def go_round(self):
        self.stage.instance.sweeper._sweep_deleted()

    def served(self):
        rows = self.stage.rows(
            "SELECT endpoint_id FROM webhooks.deliveries GROUP BY 1 HAVING every(status = 'cancelled')"
        )
        return {row.endpoint_id for row in rows}

    def keep_busy(self, items):
        """An endpoint that is gone gets no more."""

    def settle(self):
        self.stage.clock.advance(3600)

    can_fail = False


SWEEPER_LOOPS = [OverdueDeliveries, ForgottenEndpoints, FeedsBehind, DeletedEndpoints]
