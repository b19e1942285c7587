"""`/admin/operations`, `/admin/payments`: what waits, one payment, and the ways on."""

import base64
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, Response, jsonify, request
from sqlalchemy import Engine

from backoffice.change_operation import Changed, Operations, Outcome
from backoffice.order import (
    DEFAULT_PAGE,
    MAX_PAGE,
    body,
    invalid,
    not_found,
    order_of_request,
    require_operator,
    whole_parameter,
)
from bridge.clock import Clock, rfc3339
from bridge.errors import FieldError, RejectedError
from bridge.gcp.operators import OperatorAuthenticator
from bridge.payment import FINAL_OPERATION_STATUSES, OperationStatus
from bridge.storage.operator_views import (
    WaitingFilter,
    audit_trail,
    find_target,
    payment_view,
    waiting_operations,
)
from bridge.storage.transactions import snapshot
from bridge.web.strict import malformed, takes_query

WAITING = [str(status) for status in OperationStatus if status not in FINAL_OPERATION_STATUSES]
MAX_AGE_SECONDS = 10 * 366 * 86_400
_START = (datetime(1970, 1, 1, tzinfo=UTC), "")


@dataclass(frozen=True, slots=True)
class _Reading:
    engine: Engine
    clock: Clock

    def waiting(self) -> dict[str, Any]:
        limit = whole_parameter("limit", default=DEFAULT_PAGE, at_most=MAX_PAGE)
        older_than = whole_parameter("older_than_seconds", default=0, at_least=0, at_most=MAX_AGE_SECONDS)
        created_before = self.clock.now() - timedelta(seconds=older_than)
        wanted = WaitingFilter(
            statuses=_statuses(),
            created_before=created_before if older_than else datetime.max.replace(tzinfo=UTC),
            after=_position(),
            delayed=_is_true("delayed"),
            partner_id=request.args.get("partner_id"),
            sap_system=request.args.get("sap_system"),
        )
        with self.engine.connect() as connection:
            operations, more = waiting_operations(connection, wanted, limit=limit)
        return {"data": operations, "next_cursor": _cursor(more) if more else None}

    def payment(self, target: str) -> dict[str, Any]:
        with snapshot(self.engine) as connection:
            found = find_target(connection, target)
            view = payment_view(connection, found.payment_id) if found else None
        if view is None:
            raise not_found("payment or operation")
        return view

    def audit(self) -> dict[str, Any]:
        subject = request.args.get("subject")
        limit = whole_parameter("limit", default=DEFAULT_PAGE, at_most=MAX_PAGE)
        with self.engine.connect() as connection:
            return {"data": audit_trail(connection, [subject] if subject else None, limit=limit)}


def register_payments(
    admin: Blueprint,
    engine: Engine,
    clock: Clock,
    operations: Operations,
    authenticate: OperatorAuthenticator,
) -> None:
    """Add the routes; `target` is a payment's id or an operation's."""
    reading = _Reading(engine, clock)
    _register_decisions_on_documents(admin, reading, operations, authenticate)

    @admin.get("/operations")
    @takes_query(
        "limit", "cursor", "older_than_seconds", "delayed", "partner_id", "sap_system", several=("status",)
    )
    def list_operations() -> Response:
        require_operator(authenticate)
        return jsonify(reading.waiting())

    @admin.get("/payments/<target>")
    def show_payment(target: str) -> Response:
        require_operator(authenticate)
        return jsonify(reading.payment(target))

    @admin.get("/audit")
    @takes_query("limit", "subject")
    def list_audit() -> Response:
        require_operator(authenticate)
        return jsonify(reading.audit())

    @admin.post("/payments/<target>/park")
    def park(target: str) -> Response:
        order = order_of_request(authenticate)
        body(())
        return _changed(reading, operations.park(target, order))

    @admin.post("/payments/<target>/redrive")
    def redrive(target: str) -> Response:
        order = order_of_request(authenticate)
        remap = body({"remap"}).get("remap", False)
        if not isinstance(remap, bool):
            raise invalid(FieldError("/remap", "must be true or false"))
        return _changed(reading, operations.redrive(target, order, remap=remap))

    @admin.post("/payments/<target>/reject")
    def reject(target: str) -> Response:
        order = order_of_request(authenticate)
        body(())
        return _changed(reading, operations.reject(target, order))


def _register_decisions_on_documents(
    admin: Blueprint, reading: _Reading, operations: Operations, authenticate: OperatorAuthenticator
) -> None:
    """Whether a document that SAP has, and that did not fit, is the operation's."""

    @admin.post("/payments/<target>/accept")
    def accept(target: str) -> Response:
        order = order_of_request(authenticate)
        document = body({"document"}).get("document")
        if document is not None and not isinstance(document, str):
            raise invalid(FieldError("/document", "must be company code/fiscal year/number"))
        return _changed(reading, operations.accept(target, document, order))

    @admin.post("/payments/<target>/disown")
    def disown(target: str) -> Response:
        order = order_of_request(authenticate)
        body(())
        return _changed(reading, operations.disown(target, order))


def _changed(reading: _Reading, changed: Changed) -> Response:
    operations = reading.payment(changed.operation_id)["operations"]
    operation = next(one for one in operations if one["id"] == changed.operation_id)
    response = jsonify(outcome=str(changed.outcome), operation=operation)
    response.status_code = 202 if changed.outcome == Outcome.PENDING else 200
    return response


def _is_true(name: str) -> bool:
    value = request.args.get(name, "false")
    if value not in ("true", "false"):
        raise malformed(f"{name} is neither true nor false.")
    return value == "true"


def _statuses() -> list[str]:
    wanted = request.args.getlist("status")
    for status in wanted:
        if status not in WAITING:
            raise RejectedError("malformed-request", 400, f"status is none of {', '.join(WAITING)}.")
    return wanted or WAITING


def _cursor(position: tuple[datetime, str]) -> str:
    return base64.urlsafe_b64encode(f"{position[0].isoformat()} {position[1]}".encode()).decode()


def _position() -> tuple[datetime, str]:
    cursor = request.args.get("cursor")
    if cursor is None:
        return _START
    try:
        created_at, _, operation_id = base64.urlsafe_b64decode(cursor).decode().partition(" ")
        moment = datetime.fromisoformat(created_at)
        rfc3339(moment)
        if moment.tzinfo is None or not operation_id.isascii():
            raise ValueError(cursor)  # noqa: TRY301 - one answer for all that is wrong with it
    except ValueError as error:
        raise RejectedError("malformed-request", 400, "cursor is not one of ours.") from error
    return moment, operation_id
