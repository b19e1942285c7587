"""`/admin/recoveries`: after a restore from backup."""

from datetime import datetime

from flask import Blueprint, Response, jsonify

from backoffice.order import body, invalid, order_of_request, require_operator
from backoffice.recover import Recover
from backoffice.unplaced import UnplacedDocuments
from bridge.clock import Clock, read_moment
from bridge.errors import FieldError
from bridge.gcp.operators import OperatorAuthenticator
from bridge.payment import SapDocument


def register_recoveries(
    admin: Blueprint, recover: Recover, clock: Clock, authenticate: OperatorAuthenticator
) -> None:
    """Add the routes."""

    @admin.post("/recoveries")
    def begin() -> Response:
        order = order_of_request(authenticate)
        asked = body({"since", "restart"})
        restart = asked.get("restart", False)
        if not isinstance(restart, bool):
            raise invalid(FieldError("/restart", "must be true or false"))
        begun = recover.begin(_moment(asked.get("since"), clock), order, restart=restart)
        response = jsonify(begun.recovery)
        response.status_code = 201 if begun.is_new else 200
        return response

    @admin.get("/recoveries/latest")
    def latest() -> Response:
        require_operator(authenticate)
        return jsonify(recover.latest())


def register_unplaced_documents(
    admin: Blueprint, documents: UnplacedDocuments, authenticate: OperatorAuthenticator
) -> None:
    """Add the routes on what a recovery could not place."""
    path = "/unplaced-documents/<sap_system>/<company_code>/<fiscal_year>/<number>"

    @admin.get("/unplaced-documents")
    def list_unplaced() -> Response:
        require_operator(authenticate)
        return jsonify(data=documents.list())

    @admin.post(f"{path}/accept")
    def accept_unplaced(sap_system: str, company_code: str, fiscal_year: str, number: str) -> Response:
        order = order_of_request(authenticate)
        body(())
        document = SapDocument(company_code, fiscal_year, number)
        return jsonify(changed=documents.accept(sap_system, document, order))

    @admin.post(f"{path}/dismiss")
    def dismiss_unplaced(sap_system: str, company_code: str, fiscal_year: str, number: str) -> Response:
        order = order_of_request(authenticate)
        body(())
        document = SapDocument(company_code, fiscal_year, number)
        return jsonify(changed=documents.dismiss(sap_system, document, order))


def _moment(value: object, clock: Clock) -> datetime:
    try:
        moment = read_moment(value if isinstance(value, str) else "")
    except ValueError as error:
        detail = "must be a moment with its offset, as 2026-11-20T04:00:00Z"
        raise invalid(FieldError("/since", detail)) from error
    if moment > clock.now():
        raise invalid(FieldError("/since", "lies in the future"))
    return moment
