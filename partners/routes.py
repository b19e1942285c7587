"""The private admin API below `/admin`: partners' documents, and the changes made most often.

A version is an ETag (RFC 9110 section 8.8.3): `PUT` takes `If-Match: "3"`, or `If-None-Match: *` for a
partner that is not there yet. Every change says why in the header `X-Reason` (bridge.web.reasons).
"""

import re
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Flask, Response, jsonify, request

from bridge.errors import RejectedError
from bridge.gcp.operators import OperatorAuthenticator
from bridge.partner import PARTNER_ID_PATTERN, PartnerConfiguration
from bridge.web.reasons import read_reason
from bridge.web.strict import takes_query
from partners import documents
from partners.change import Change, Partners, Wish
from partners.clients import add_client, revoke_client
from partners.explain_route import explain_route
from partners.status import change_posting_of, change_status_of

MAX_BODY_BYTES = 256 * 1024
MAX_PAGE_PARTNERS = 100

_ETAG = re.compile(r'"([1-9][0-9]{0,17})"')


def register_routes(app: Flask, partners: Partners, authenticate: OperatorAuthenticator) -> None:
    """Add the routes; each of them names its operator first."""
    admin = Blueprint("admin", __name__, url_prefix="/admin")

    def operator() -> str:
        return authenticate(request.headers)  # type: ignore[arg-type]  # werkzeug's headers have get, in any case

    _register_documents(admin, partners, operator)
    _register_amendments(admin, partners, operator)
    app.register_blueprint(admin)


def _register_documents(admin: Blueprint, partners: Partners, operator: Callable[[], str]) -> None:
    @admin.get("/partners")
    @takes_query("after")
    def page() -> Response:
        operator()
        found = partners.page(request.args.get("after", ""), MAX_PAGE_PARTNERS)
        return _private(
            {
                "data": [_summary(partner_id, configuration) for partner_id, configuration in found],
                "next_after": found[-1][0] if len(found) == MAX_PAGE_PARTNERS else None,
            }
        )

    @admin.get("/partners/<partner_id>")
    def show(partner_id: str) -> Response:
        operator()
        return _render(partners.show(_known_form(partner_id)))

    @admin.put("/partners/<partner_id>")
    def change(partner_id: str) -> Response:
        named = operator()
        expected_version = _expected_version()
        wanted = Change(_known_form(partner_id), named, read_reason(), _body(), expected_version)
        response = _render(partners.change(wanted))
        response.status_code = 201 if expected_version is None else 200
        return response

    @admin.get("/partners/<partner_id>/route")
    @takes_query("amount", "currency")
    def explain(partner_id: str) -> Response:
        operator()
        found = partners.show(_known_form(partner_id))
        amount, currency = request.args.get("amount", ""), request.args.get("currency", "")
        return _private(explain_route(found, amount, currency))

    @admin.get("/partner-schema")
    def schema() -> Response:
        """JSON Schema (2020-12) of a document as `PUT` takes it, from the model that validates it."""
        operator()
        return _private(PartnerConfiguration.model_json_schema())


def _register_amendments(admin: Blueprint, partners: Partners, operator: Callable[[], str]) -> None:
    def wish(partner_id: str) -> Wish:
        return Wish(_known_form(partner_id), operator(), read_reason())

    @admin.put("/partners/<partner_id>/status")
    def change_status(partner_id: str) -> Response:
        wished = wish(partner_id)
        return _render(change_status_of(partners, wished, _object()))

    @admin.put("/partners/<partner_id>/posting")
    def change_posting(partner_id: str) -> Response:
        return _render(change_posting_of(partners, wish(partner_id), _object()))

    @admin.post("/partners/<partner_id>/clients")
    def new_client(partner_id: str) -> Response:
        added = add_client(partners, wish(partner_id), _object())
        shown = added.client.model_dump(mode="json", exclude={"secret_hash"})
        response = _private({**shown, "client_secret": added.client_secret})
        response.status_code = 201
        return response

    @admin.post("/partners/<partner_id>/clients/<client_id>/revocation")
    def revoke(partner_id: str, client_id: str) -> Response:
        return _render(revoke_client(partners, wish(partner_id), client_id))


def _render(configuration: PartnerConfiguration) -> Response:
    response = _private(documents.shown(configuration))
    response.set_etag(str(configuration.version))
    return response


def _private(document: Any) -> Response:
    response = jsonify(document)
    response.headers["Cache-Control"] = "no-store"
    return response


def _summary(partner_id: str, configuration: PartnerConfiguration | None) -> dict[str, Any]:
    """Return what a list shows of a partner; one whose document is damaged has an id only."""
    if configuration is None:
        return {"partner_id": partner_id, "name": None, "status": "damaged", "version": None}
    shown = configuration.model_dump(mode="json")
    return {name: shown[name] for name in ("partner_id", "name", "status", "version")}


def _known_form(partner_id: str) -> str:
    if not PARTNER_ID_PATTERN.fullmatch(partner_id):
        raise RejectedError("not-found", 404, "There is no such partner.")
    return partner_id


def _expected_version() -> int | None:
    matches, none_matches = request.headers.get("If-Match"), request.headers.get("If-None-Match")
    if matches is None and none_matches == "*":
        return None
    if matches is None or none_matches is not None:
        detail = "Send If-Match with the version as an ETag, or If-None-Match: * for a new partner."
        raise RejectedError("precondition-required", 428, detail)
    etag = _ETAG.fullmatch(matches)
    if etag is None:
        raise RejectedError("malformed-request", 400, 'If-Match is not one version in quotes, as in "3".')
    return int(etag[1])


def _body() -> Any:
    request.max_content_length = MAX_BODY_BYTES
    return request.get_json()


def _object() -> dict[str, Any]:
    body = _body()
    if not isinstance(body, dict):
        raise RejectedError("malformed-request", 400, "The body has to be a JSON object.")
    return body
