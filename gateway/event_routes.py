"""`GET /v1/events`: the partner's gap-free feed (docs/api.md)."""

from dataclasses import dataclass

import structlog
from flask import Flask, Response, jsonify, request
from sqlalchemy import Engine

from bridge.clock import rfc3339
from bridge.errors import RejectedError
from bridge.storage.feed import FeedHead, feed_head, feed_page, up_to_hole
from bridge.web.strict import takes_query
from gateway.authorization import current_partner, requires
from gateway.parameters import limit_parameter, sequence_parameter

DEFAULT_PAGE_EVENTS = 100
MAX_PAGE_EVENTS = 500

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EventRoutes:
    engine: Engine

    def register(self, app: Flask) -> None:
        app.add_url_rule("/v1/events", endpoint="list_events", view_func=self.list)

    @requires("events:read")
    @takes_query("after", "limit")
    def list(self) -> Response:
        after = sequence_parameter(request.args, "after")
        limit = limit_parameter(request.args, default=DEFAULT_PAGE_EVENTS, highest=MAX_PAGE_EVENTS)
        partner_id = current_partner().partner_id
        with self.engine.connect() as connection:
            head = feed_head(connection, partner_id)
            page = feed_page(connection, partner_id, after=after, limit=limit)
            if up_to_hole(page, after=after)[1] is not None:
                # retention may have come between the two statements
                head = feed_head(connection, partner_id)
        _require_kept(head, after)
        events, missing = up_to_hole(page, after=after)
        if missing is not None:
            _log.error("the feed has a hole", partner_id=partner_id, missing_sequence=missing)
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


def _require_kept(head: FeedHead, after: int) -> None:
    """410 if the event after `after` was in the feed and is not kept any more."""
    if after < head.expired_to:
        detail = (
            f"Events up to {head.expired_to} are older than they are kept. Go on after={head.expired_to}."
        )
        raise RejectedError("feed-expired", 410, detail)
