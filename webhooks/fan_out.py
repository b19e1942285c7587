"""Fan-out: walk a partner's feed past each of its endpoints' cursors and leave a delivery per matching event.

Whoever does it, and however often: the cursor's lock and the unique (endpoint, event) make it once. A cursor
stops before a number that is missing in the feed, and goes on when it is there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from bridge.clock import Clock
from bridge.ids import new_id
from bridge.partner import PartnerConfiguration
from bridge.ports import PartnerDirectory
from bridge.storage import webhook_sweeps, webhooks
from bridge.storage.failures import is_away
from bridge.storage.feed import FedEvent, feed_head, feed_page, up_to_hole
from bridge.storage.restores import may_decide
from bridge.storage.webhook_turns import Turn
from bridge.storage.webhooks import Cursor, NewDelivery, Position
from bridge.webhook_endpoint import WebhookEndpoint
from webhooks.tasks import DeliveryTask, DeliveryTasks, tasks_for
from webhooks.turns import Turns

PAGE_EVENTS = 100
# What is left after so many pages is done by the next doorbell or the sweeper.
MAX_PAGES = 20

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Page:
    """`tasks` are due now; `is_last` when the feed had no more at that moment.

    `waits`: deliveries wait for their partner's turn. `is_probed`: the endpoint fails, and some wait to probe
    it; `is_probe_due`: one may now.
    """

    tasks: list[DeliveryTask]
    is_last: bool
    waits: bool = False
    is_probed: bool = False
    is_probe_due: bool = False


class FanOut:
    """Use case of the doorbell and of the sweeper."""

    def __init__(
        self,
        engine: Engine,
        directory: PartnerDirectory,
        tasks: DeliveryTasks,
        turns: Turns,
        clock: Clock,
        *,
        page_events: int = PAGE_EVENTS,
    ) -> None:
        self._engine = engine
        self._directory = directory
        self._tasks = tasks
        self._turns = turns
        self._clock = clock
        self._page_events = page_events
        # the missing numbers that have been logged, by endpoint: once is enough, the gauge goes on
        self._known_holes: dict[str, int] = {}

    def fan_out(self, partner_id: str, up_to_sequence: int | None = None) -> bool:
        """Bring all endpoints of the partner up to its feed; False if a task could not be created.

        `up_to_sequence` spares endpoints that are there already. One that fails is brought up when its gate
        opens: until then its events stay in the feed, but for what is needed to probe it. Raises
        TransientError when the partner's configuration can't be read now, and what one endpoint failed by
        after the others have had their turn.
        """
        with self._engine.begin() as connection:
            positions = webhooks.cursor_positions(connection, partner_id)
            places = self._turns.free_places(connection, partner_id)
        # an endpoint that was made or changed a moment ago is on its cursor before any cache knows of it
        needed = max((position.configuration_version for position in positions.values()), default=0)
        partner = self._directory.partner(partner_id, at_least_version=needed)
        if partner is None:
            _log.warning("events of an unknown partner", partner_id=partner_id)
            return True
        queue_answers = True
        failure: Exception | None = None
        new = Position(0, 0)
        # endpoints that fail come after those that are well
        for endpoint in sorted(
            partner.webhook_endpoints, key=lambda each: positions.get(each.endpoint_id, new).is_failing
        ):
            position = positions.get(endpoint.endpoint_id, new)
            is_there = up_to_sequence is not None and position.sequence >= up_to_sequence
            if is_there or position.has_probes:
                continue
            try:
                made, queue_answers = self._bring_up(partner, endpoint, places, queue_answers=queue_answers)
                places -= made
            except SQLAlchemyError as error:
                if is_away(error):
                    raise
                failure = error
                _log.warning(
                    "endpoint not fanned out",
                    endpoint_id=endpoint.endpoint_id,
                    reason=type(error).__name__,
                )
        if failure is not None:
            # after the others have had their turn: the doorbell rings again, and the sweeper comes back
            raise failure
        return queue_answers

    def _bring_up(
        self, partner: PartnerConfiguration, endpoint: WebhookEndpoint, places: int, *, queue_answers: bool
    ) -> tuple[int, bool]:
        """Return how many of the partner's `places` in the queue it took, and whether the queue answers."""
        made = 0
        for _ in range(MAX_PAGES):
            page = self._walk_page(partner, endpoint, places - made)
            made += len(page.tasks)
            # a queue that is away is waited for once, not once per page
            queue_answers = queue_answers and self._tasks.create(page.tasks)
            if page.waits and queue_answers:
                # the places may have become free before anybody could see these deliveries
                queue_answers = self._turns.call(Turn(partner.partner_id))
            if page.is_probe_due:
                queue_answers = self._call_probe(endpoint.endpoint_id) and queue_answers
            if page.is_last or page.is_probed:
                break
        return made, queue_answers

    def _walk_page(self, partner: PartnerConfiguration, endpoint: WebhookEndpoint, places: int) -> _Page:
        """One transaction: a page of the feed, its deliveries and the cursor after it."""
        now = self._clock.now()
        with self._engine.begin() as connection:
            if not may_decide(connection):
                # the sweeper finds the cursor behind the feed when it is over
                return _Page([], is_last=True)
            cursor = self._lock_or_make(connection, partner, endpoint)
            if cursor is None or cursor.status == "deleted":
                return _Page([], is_last=True)
            page = feed_page(connection, partner.partner_id, after=cursor.sequence, limit=self._page_events)
            entries = self._before_hole(connection, partner, endpoint, page, after=cursor.sequence)
            if not entries:
                return _Page([], is_last=True)
            deliveries = []
            previous_sequence = cursor.previous_sequence
            # in the order of the feed also where they are listed by id
            delivery_ids = sorted(new_id("dlv", now) for _ in entries)
            for delivery_id, entry in zip(delivery_ids, entries, strict=True):
                if endpoint.wants(entry.event_type):
                    deliveries.append(
                        NewDelivery(delivery_id, entry.event_id, entry.sequence, previous_sequence)
                    )
                    previous_sequence = entry.sequence
            is_held = cursor.status == "disabled"
            is_probed = cursor.probe_at is not None and not is_held
            # behind those that wait already, so that the order of the feed is kept
            direct = 0 if is_held or is_probed or cursor.has_waiting else max(places, 0)
            created: set[str] = set()
            for some, task in ((deliveries[:direct], "made"), (deliveries[direct:], "waiting")):
                created |= webhooks.insert_deliveries(
                    connection,
                    some,
                    endpoint_id=endpoint.endpoint_id,
                    partner_id=partner.partner_id,
                    held=is_held,
                    now=now,
                    task="made" if is_held else task,
                )
            webhooks.move_cursor(
                connection,
                endpoint.endpoint_id,
                sequence=entries[-1].sequence,
                previous_sequence=previous_sequence,
            )
        due = [delivery.delivery_id for delivery in deliveries[:direct]]
        return _Page(
            [DeliveryTask(delivery_id, 1, 0, now) for delivery_id in due if delivery_id in created],
            is_last=len(entries) < self._page_events,
            waits=not is_held and not is_probed and len(deliveries) > direct,
            is_probed=is_probed and bool(created),
            is_probe_due=is_probed
            and bool(created)
            and cursor.probe_at is not None
            and cursor.probe_at <= now,
        )

    def _call_probe(self, endpoint_id: str) -> bool:
        now = self._clock.now()
        with self._engine.begin() as connection:
            probe = webhook_sweeps.take_waiting(connection, endpoint_id, now=now, limit=1)
        return self._tasks.create(tasks_for(probe, now))

    def _before_hole(
        self,
        connection: Connection,
        partner: PartnerConfiguration,
        endpoint: WebhookEndpoint,
        page: Sequence[FedEvent],
        *,
        after: int,
    ) -> Sequence[FedEvent]:
        """Return the events of the page that stand before the first number that is missing."""
        entries, missing = up_to_hole(page, after=after)
        if missing is not None:
            # a new endpoint may begin below what retention has removed
            expired_to = feed_head(connection, partner.partner_id).expired_to
            entries, missing = up_to_hole(page, after=after, expired_to=expired_to)
        if missing is None:
            self._known_holes.pop(endpoint.endpoint_id, None)
        elif self._known_holes.get(endpoint.endpoint_id) != missing:
            self._known_holes[endpoint.endpoint_id] = missing
            _log.error(
                "the feed has a hole",
                partner_id=partner.partner_id,
                endpoint_id=endpoint.endpoint_id,
                missing_sequence=missing,
            )
        return entries

    def _lock_or_make(
        self, connection: Connection, partner: PartnerConfiguration, endpoint: WebhookEndpoint
    ) -> Cursor | None:
        """Return the endpoint's cursor, locked; None if its id is another partner's."""
        who = {"endpoint_id": endpoint.endpoint_id, "partner_id": partner.partner_id}
        cursor = webhooks.lock_cursor(connection, **who)
        if cursor is None:
            webhooks.insert_cursor(
                connection,
                **who,
                starts_after_sequence=endpoint.starts_after_sequence,
                configuration_version=partner.version,
                now=self._clock.now(),
            )
            cursor = webhooks.lock_cursor(connection, **who)
        if cursor is None:
            _log.error("an endpoint's id is another partner's", endpoint_id=endpoint.endpoint_id)
        return cursor
