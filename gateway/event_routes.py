"""`GET /v1/events`: the partner's gap-free feed (docs/api.md)."""

from collections.abc import Sequence
from dataclasses import dataclass

from flask import Flask, Response, jsonify, request
from sqlalchemy import Engine

from bridge.clock import rfc3339
from bridge.errors import RejectedError
from bridge.storage.feed import FedEvent, FeedHead, feed_head, feed_page
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
            # first how far it goes: what comes between the two statements is no gap then
            head = feed_head(connection, partner_id)
            events = feed_page(connection, partner_id, after=after, limit=limit)
        _require_no_gap(head, events, after)
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
            epoch=head.epoch,
        )


def _require_no_gap(head: FeedHead, events: Sequence[FedEvent], after: int) -> None:
    """410 if the event after `after` has been there and is not any more: the feed itself has no gaps."""
    if head.jumped_from <= after < head.jumped_to:
        after = head.jumped_to
    next_known = events[0].sequence if events else head.last_sequence + 1
    if after < head.last_sequence and next_known > after + 1:
        detail = f"Events up to {next_known - 1} are older than they are kept. Go on after={next_known - 1}."
        raise RejectedError("feed-expired", 410, detail)
