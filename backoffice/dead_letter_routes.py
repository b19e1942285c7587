"""`/admin/dead-letters`: what no subscriber took, and what operators make of it."""

from flask import Blueprint, Response, jsonify, request

from backoffice.dead_letters import DeadLetters
from backoffice.order import (
    DEFAULT_PAGE,
    MAX_PAGE,
    body,
    order_of_request,
    require_operator,
    whole_parameter,
)
from bridge.errors import RejectedError
from bridge.gcp.operators import OperatorAuthenticator
from bridge.storage.dead_letters import DeadLetterStatus
from bridge.web.strict import takes_query

MAX_NUMBER = 10**15 - 1


def register_dead_letters(
    admin: Blueprint, dead_letters: DeadLetters, authenticate: OperatorAuthenticator
) -> None:
    """Add the routes; each change answers the letter as it then is."""

    @admin.get("/dead-letters")
    @takes_query("limit", "before", "status")
    def list_dead_letters() -> Response:
        require_operator(authenticate)
        limit = whole_parameter("limit", default=DEFAULT_PAGE, at_most=MAX_PAGE)
        before = whole_parameter("before", default=MAX_NUMBER, at_most=MAX_NUMBER)
        found = dead_letters.list(_status(), before=before, limit=limit)
        next_before = found[-1]["number"] if len(found) == limit else None
        return jsonify(data=found, next_before=next_before)

    @admin.get("/dead-letters/<int:number>")
    def show_dead_letter(number: int) -> Response:
        require_operator(authenticate)
        return jsonify(dead_letters.show(min(number, MAX_NUMBER)))

    @admin.post("/dead-letters/<int:number>/<any(redrive, discard):action>")
    def close_dead_letter(number: int, action: str) -> Response:
        order = order_of_request(authenticate)
        body(())
        close = dead_letters.redrive if action == "redrive" else dead_letters.discard
        is_changed = close(min(number, MAX_NUMBER), order)
        return jsonify(changed=is_changed, dead_letter=dead_letters.show(min(number, MAX_NUMBER)))


def _status() -> DeadLetterStatus | None:
    status = request.args.get("status")
    if status is None:
        return None
    try:
        return DeadLetterStatus(status)
    except ValueError as error:
        known = ", ".join(DeadLetterStatus)
        raise RejectedError("malformed-request", 400, f"status is none of {known}.") from error
