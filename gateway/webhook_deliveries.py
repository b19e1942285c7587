"""What partners do with their deliveries: read them, have them sent again, replay a time, send a test."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Engine

from bridge.clock import Clock
from bridge.errors import FieldError, RejectedError
from bridge.ids import first_id, new_id
from bridge.partner import PartnerConfiguration
from bridge.payment import EventType
from bridge.storage import webhook_deliveries, webhook_probes, webhooks
from bridge.storage.transactions import snapshot, transaction
from bridge.storage.webhook_deliveries import Attempt, Delivery, LockedCursor, Only, Range
from bridge.storage.webhooks import NewDelivery
from bridge.webhook_endpoint import WebhookEndpoint
from gateway.payment_request import invalid_request
from gateway.webhook_endpoints import WebhookEndpoints, no_such_endpoint

MAX_REPLAYED_EVENTS = 10_000
MAX_ATTEMPTS_SHOWN = 100


@dataclass(frozen=True, slots=True)
class WebhookDeliveries:
    """`engine` is one of `make_statement_engine`; `wake` rings at the webhooks service, after a commit."""

    endpoints: WebhookEndpoints
    engine: Engine
    clock: Clock
    wake: Callable[[], None]

    def page(
        self,
        partner: PartnerConfiguration,
        endpoint_id: str,
        *,
        status: str | None,
        after: tuple[datetime, str] | None,
        limit: int,
    ) -> list[Delivery]:
        """Return deliveries of the endpoint, newest first. 404."""
        self.endpoints.get(partner, endpoint_id)
        with self.engine.connect() as connection:
            return webhook_deliveries.deliveries_page(
                connection, partner.partner_id, endpoint_id, status=status, after=after, limit=limit
            )

    def get(self, partner_id: str, delivery_id: str) -> tuple[Delivery, list[Attempt]]:
        """Return the delivery and its attempts, newest first. 404."""
        with snapshot(self.engine) as connection:
            found = _found(connection, partner_id, delivery_id)
            return found, webhook_deliveries.attempts_of(connection, delivery_id, limit=MAX_ATTEMPTS_SHOWN)

    def test(self, partner: PartnerConfiguration, endpoint_id: str) -> Delivery:
        """Have a test sent, also to a disabled endpoint. 404."""
        endpoint = self.endpoints.get(partner, endpoint_id).endpoint
        now = self.clock.now()
        delivery_id = new_id("dlv", now)
        with transaction(self.engine) as connection:
            self._locked(connection, partner, endpoint)
            webhook_deliveries.insert_test(
                connection,
                delivery_id=delivery_id,
                endpoint_id=endpoint_id,
                partner_id=partner.partner_id,
                now=now,
            )
            made = _found(connection, partner.partner_id, delivery_id)
        self.wake()
        return made

    def redeliver(self, partner_id: str, delivery_id: str) -> Delivery:
        """Have it sent again now; as it stands if an attempt runs at this moment. 404, 409."""
        with transaction(self.engine) as connection:
            found = _found(connection, partner_id, delivery_id)
            cursor = webhook_deliveries.lock_cursor(
                connection, endpoint_id=found.endpoint_id, partner_id=partner_id
            )
            _require_enabled(cursor)
            now = self.clock.now()
            if webhook_deliveries.send_again(connection, delivery_id, now=now):
                webhook_probes.allow_probe(connection, found.endpoint_id, now=now)
            found = _found(connection, partner_id, delivery_id)
        self.wake()
        return found

    def replay(
        self,
        partner: PartnerConfiguration,
        endpoint_id: str,
        only: Only,
        since: datetime,
        until: datetime | None,
        *,
        dry_run: bool,
    ) -> int:
        """Have the events of that time sent again; return how many. 404, 409, 422 if there are too many."""
        endpoint = self.endpoints.get(partner, endpoint_id).endpoint
        now = self.clock.now()
        end = min(until, now) if until is not None else now
        if since >= end:
            raise invalid_request([FieldError("/since", "is not before until, or lies in the future")])
        events = Range(first_id("evt", since), first_id("evt", end))
        with transaction(self.engine) as connection:
            cursor = self._locked(connection, partner, endpoint)
            _require_enabled(cursor)
            count = webhook_deliveries.count_replayable(
                connection, endpoint_id, only, events, limit=MAX_REPLAYED_EVENTS + 1
            )
            missing = self._missing(connection, partner, endpoint, only, events, cursor)
            if count + len(missing) > MAX_REPLAYED_EVENTS:
                raise invalid_request(
                    [
                        FieldError(
                            "/since", f"there are more than {MAX_REPLAYED_EVENTS} events; take them in parts"
                        )
                    ]
                )
            if dry_run:
                return count + len(missing)
            count = webhook_deliveries.replay(connection, endpoint_id, only, events, now=now)
            made = webhooks.insert_deliveries(
                connection,
                missing,
                endpoint_id=endpoint_id,
                partner_id=partner.partner_id,
                held=False,
                now=now,
                task="wanted",
            )
        self.wake()
        return count + len(made)

    def _missing(
        self,
        connection: Connection,
        partner: PartnerConfiguration,
        endpoint: WebhookEndpoint,
        only: Only,
        events: Range,
        cursor: LockedCursor,
    ) -> list[NewDelivery]:
        if only == "failed":
            return []
        found = webhook_deliveries.missing_events(
            connection,
            partner_id=partner.partner_id,
            endpoint_id=endpoint.endpoint_id,
            walked_to=cursor.sequence,
            event_types=[str(each) for each in EventType if endpoint.wants(str(each))],
            events=events,
            limit=MAX_REPLAYED_EVENTS + 1,
        )
        now = self.clock.now()
        delivery_ids = sorted(new_id("dlv", now) for _ in found)
        return [
            NewDelivery(delivery_id, event.event_id, event.sequence, event.previous_sequence)
            for delivery_id, event in zip(delivery_ids, found, strict=True)
        ]

    def _locked(
        self, connection: Connection, partner: PartnerConfiguration, endpoint: WebhookEndpoint
    ) -> LockedCursor:
        """Return the endpoint's cursor, made if no event has been told yet."""
        who = {"endpoint_id": endpoint.endpoint_id, "partner_id": partner.partner_id}
        cursor = webhook_deliveries.lock_cursor(connection, **who)
        if cursor is None:
            webhooks.insert_cursor(
                connection,
                **who,
                starts_after_sequence=endpoint.starts_after_sequence,
                configuration_version=0,
                now=self.clock.now(),
            )
            cursor = webhook_deliveries.lock_cursor(connection, **who)
        if cursor is None:
            raise no_such_endpoint()
        return cursor


def _found(connection: Connection, partner_id: str, delivery_id: str) -> Delivery:
    found = webhook_deliveries.find_delivery(connection, partner_id, delivery_id)
    if found is None:
        raise RejectedError("not-found", 404, "There is no such delivery.")
    return found


def _require_enabled(cursor: LockedCursor | None) -> None:
    if cursor is None or cursor.status == "deleted":
        raise no_such_endpoint()
    if cursor.status == "disabled":
        raise RejectedError("endpoint-disabled", 409, "The endpoint is disabled; enable it first.")
