"""The private admin API: `GET` and `PUT /admin/partners/{id}`.

A version is an ETag (RFC 9110 section 8.8.3): `PUT` takes `If-Match: "3"`, or `If-None-Match: *` for a
partner that is not there yet, and says why in the header `X-Reason`.
"""

import re
from typing import Any

from flask import Blueprint, Flask, Response, jsonify, request

from bridge.errors import RejectedError
from bridge.gcp.operators import OperatorAuthenticator
from bridge.partner import PARTNER_ID_PATTERN, PartnerConfiguration
from partners import documents
from partners.change import Change, Partners

REASON_HEADER = "X-Reason"
MAX_BODY_BYTES = 256 * 1024

_ETAG = re.compile(r'"([1-9][0-9]{0,17})"')
_REASON = re.compile(r"[ -~]{1,500}")


def register_routes(app: Flask, partners: Partners, authenticate: OperatorAuthenticator) -> None:
    """Add the routes; each of them names its operator first."""
    admin = Blueprint("admin", __name__, url_prefix="/admin")

    @admin.get("/partners/<partner_id>")
    def show(partner_id: str) -> Response:
        authenticate(request.headers)  # type: ignore[arg-type]  # werkzeug's headers have get, in any case
        return _render(partners.show(_known_form(partner_id)))

    @admin.put("/partners/<partner_id>")
    def change(partner_id: str) -> Response:
        operator = authenticate(request.headers)  # type: ignore[arg-type]  # as above
        expected_version = _expected_version()
        wanted = Change(_known_form(partner_id), _body(), expected_version, operator, _reason())
        response = _render(partners.change(wanted))
        response.status_code = 201 if expected_version is None else 200
        return response

    app.register_blueprint(admin)


def _render(configuration: PartnerConfiguration) -> Response:
    response = jsonify(documents.shown(configuration))
    response.set_etag(str(configuration.version))
    response.headers["Cache-Control"] = "no-store"
    return response


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


def _reason() -> str:
    reason = request.headers.get(REASON_HEADER, "").strip()
    if not _REASON.fullmatch(reason):
        detail = f"{REASON_HEADER} has to say why, in 1 to 500 visible ASCII characters and spaces."
        raise RejectedError("reason-required", 400, detail)
    return reason


def _body() -> Any:
    request.max_content_length = MAX_BODY_BYTES
    return request.get_json()
