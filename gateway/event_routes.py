"""`GET /v1/events`: the partner's gap-free feed (API.md section 3)."""

from dataclasses import dataclass

from flask import Flask, Response, jsonify, request
from sqlalchemy import Engine

from bridge.clock import rfc3339
from bridge.storage.feed import feed_epoch, feed_page
from gateway.authorization import current_partner, requires
from gateway.parameters import limit_parameter, sequence_parameter

DEFAULT_PAGE_EVENTS = 100
MAX_PAGE_EVENTS = 500


@dataclass(frozen=True, slots=True)
class EventRoutes:
    engine: Engine

    def register(self, app: Flask) -> None:
        app.add_url_rule("/v1/events", endpoint="list_events", view_func=self.list)

    @requires("events:read")
    def list(self) -> Response:
        after = sequence_parameter(request.args, "after")
        limit = limit_parameter(request.args, default=DEFAULT_PAGE_EVENTS, highest=MAX_PAGE_EVENTS)
        partner_id = current_partner().partner_id
        with self.engine.connect() as connection:
            events = feed_page(connection, partner_id, after=after, limit=limit)
            epoch = feed_epoch(connection, partner_id)
        return jsonify(
            data=[
                {
                    "id": event.event_id,
                    "sequence": event.sequence,
                    "type": event.event_type,
                    "timestamp": rfc3339(event.created_at),
                    "data": event.data,
                }
                for event in events
            ],
            last_sequence=events[-1].sequence if events else after,
            epoch=epoch,
        )
