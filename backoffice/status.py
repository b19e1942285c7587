"""`/admin/status`: the live state of the bridge in one answer."""

from typing import Any

from flask import Blueprint, Response, jsonify
from sqlalchemy import Engine

from backoffice.lanes import Lanes
from backoffice.order import require_operator
from bridge.clock import Clock, rfc3339
from bridge.gcp.operators import OperatorAuthenticator
from bridge.storage.state_figures import Waiting, state_figures, totals, unknown_by_lane
from bridge.storage.transactions import snapshot


def register_status(
    admin: Blueprint,
    engine: Engine,
    clock: Clock,
    lanes: Lanes,
    authenticate: OperatorAuthenticator,
    *,
    settling_seconds: float,
) -> None:
    """Add the route."""

    @admin.get("/status")
    def status() -> Response:
        require_operator(authenticate)
        now = clock.now()

        def waiting(figure: Waiting) -> dict[str, Any]:
            return {"count": figure.count, "oldest_age_seconds": figure.age_seconds(now)}

        with snapshot(engine) as connection:
            state, written = state_figures(connection, now), totals(connection)
            unknown = unknown_by_lane(connection, now, settling_seconds=settling_seconds)
        in_lanes = Waiting(
            sum(lane.count for lane in unknown.values()),
            min((lane.since for lane in unknown.values() if lane.since), default=None),
        )
        return jsonify(
            at=rfc3339(now),
            lanes=lanes.status(),
            operations={"unknown": waiting(in_lanes), "parked": waiting(state.parked)},
            feed={"unsequenced": waiting(state.unsequenced), "unpublished": waiting(state.unpublished)},
            webhooks={
                "overdue": waiting(state.overdue),
                "held": {"count": state.held_deliveries},
                "disabled_endpoints": {"count": state.disabled_endpoints},
            },
            dead_letters=waiting(state.dead_letters),
            written={
                "payments": written.payments,
                "events": written.events,
                "webhook_attempts": written.webhook_attempts,
            },
        )
