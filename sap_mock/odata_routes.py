"""The read side: OData V2 service API_OPLACCTGDOCITEMCUBE_SRV, JSON only."""

import re
import time
from collections.abc import Sequence
from importlib import resources
from uuid import uuid4

from flask import Blueprint, Response, jsonify, request

from sap_mock.faults import Faults
from sap_mock.front import Front
from sap_mock.ledger import Ledger
from sap_mock.odata_filter import Condition, FilterError, parse_filter
from sap_mock.odata_items import KEY, PROPERTIES, Row, find_items

SERVICE = "API_OPLACCTGDOCITEMCUBE_SRV"
ROOT = f"/sap/opu/odata/sap/{SERVICE}"
ENTITY_SET = "A_OperationalAcctgDocItemCube"
MAX_RESULTS = 5000
DATA_SERVICE_VERSION = {"DataServiceVersion": "2.0"}
_KEY_PREDICATE = re.compile(r"(\w+)='((?:[^']|'')*)'")
_WHOLE_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
_OPTIONS = frozenset({"$filter", "$select", "$format", "$top", "$skip", "$orderby", "$inlinecount"})


class QueryError(Exception):
    """What is wrong with the request; answered with `status` and SAP's error body."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def odata_routes(front: Front, ledger: Ledger) -> Blueprint:
    routes = Blueprint("odata", __name__)

    def service_document(faults: Faults) -> Response:  # noqa: ARG001 - every guarded view gets them
        try:
            _require_json()
        except QueryError as error:
            return _error(error)
        return _json({"EntitySets": [ENTITY_SET]})

    def metadata(faults: Faults) -> Response:  # noqa: ARG001 - every guarded view gets them
        text = resources.files("sap_mock").joinpath("metadata.xml").read_bytes()
        return Response(text, 200, DATA_SERVICE_VERSION, content_type="application/xml")

    def resource(faults: Faults, path: str) -> Response:
        try:
            return _resource(ledger, path, faults.read_lag_ms)
        except (QueryError, FilterError) as error:
            return _error(error)

    def not_allowed(faults: Faults, path: str = "") -> Response:  # noqa: ARG001 - as above
        error = QueryError(f"Method {request.method} is not supported: the service is read-only", 405)
        return _error(error, {"Allow": "GET"})

    for rule in (ROOT, f"{ROOT}/"):
        routes.add_url_rule(rule, f"service{rule[-1]}", front.guarded(service_document), strict_slashes=False)
    routes.add_url_rule(f"{ROOT}/$metadata", "metadata", front.guarded(metadata))
    routes.add_url_rule(f"{ROOT}/<path:path>", "resource", front.guarded(resource))
    routes.add_url_rule(
        f"{ROOT}/<path:path>", "write", front.guarded(not_allowed), methods=["POST", "PUT", "PATCH", "DELETE"]
    )
    return routes


def _resource(ledger: Ledger, path: str, read_lag_ms: int) -> Response:
    _require_known_options()
    visible_until_ms = int(time.time() * 1000) - read_lag_ms
    name, parenthesis, predicate = path.partition("(")
    if name == f"{ENTITY_SET}/$count" and not parenthesis:
        found = find_items(ledger, _conditions(), visible_until_ms)
        return Response(str(len(found)), 200, DATA_SERVICE_VERSION, mimetype="text/plain")
    if name != ENTITY_SET:
        raise QueryError(f"Resource not found for the segment '{name}'", 404)
    _require_json()
    if parenthesis and predicate != ")":
        found = find_items(ledger, _key(predicate), visible_until_ms)
        if not found:
            raise QueryError("Resource not found for the key given", 404)
        return _json(_rendered(found[0], _selected()))
    found = find_items(ledger, _conditions(), visible_until_ms)
    skip, top = _number("$skip", 0), _number("$top", MAX_RESULTS)
    selected = _selected()
    found = sorted(found, key=lambda row: [row[name] for name in _ordered_by()])
    page: dict[str, object] = {
        "results": [_rendered(row, selected) for row in found[skip : skip + min(top, MAX_RESULTS)]]
    }
    if request.args.get("$inlinecount") == "allpages":
        page["__count"] = str(len(found))
    return _json(page)


def _require_known_options() -> None:
    for name in request.args:
        if name.startswith("$") and name not in _OPTIONS:
            raise QueryError(f"System query option '{name}' is not supported")
    if request.args.get("$inlinecount", "none") not in {"none", "allpages"}:
        raise QueryError("$inlinecount must be allpages or none")


def _require_json() -> None:
    asked = request.args.get("$format")
    if asked not in {None, "json"} or (
        asked is None and "application/json" not in request.accept_mimetypes.values()
    ):
        raise QueryError("Only JSON is served: ask for it by $format=json or Accept: application/json", 406)


def _conditions() -> tuple[Condition, ...]:
    text = request.args.get("$filter")
    return () if text is None else parse_filter(text, PROPERTIES)


def _key(predicate: str) -> tuple[Condition, ...]:
    """Read `CompanyCode='1000',FiscalYear='2026',…)`: all four key properties, in any order."""
    body = predicate.removesuffix(")")
    pairs = [(name, value.replace("''", "'")) for name, value in _KEY_PREDICATE.findall(body)]
    if not predicate.endswith(")") or sorted(name for name, _ in pairs) != sorted(KEY):
        raise QueryError(f"The key predicate must name {', '.join(KEY)}")
    return tuple(Condition(name, value) for name, value in pairs)


def _selected() -> Sequence[str]:
    text = request.args.get("$select", "*").strip()
    if text == "*":
        return tuple(PROPERTIES)
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in PROPERTIES:
            raise QueryError(f"Property '{name}' in $select is not known")
    return names


def _ordered_by() -> Sequence[str]:
    """Return what `$orderby` names; only ascending order is known."""
    names = [name.strip() for name in request.args.get("$orderby", "").split(",") if name.strip()]
    for name in names:
        if name not in PROPERTIES:
            raise QueryError(f"Property '{name}' in $orderby is not known")
    return names


def _number(option: str, default: int) -> int:
    text = request.args.get(option)
    if text is None:
        return default
    if _WHOLE_NUMBER.fullmatch(text) is None:
        raise QueryError(f"{option} must be a whole number")
    return int(text)


def _rendered(row: Row, selected: Sequence[str]) -> Row:
    predicate = ",".join(f"{name}='{row[name]}'" for name in KEY)
    uri = f"{request.root_url.rstrip('/')}{ROOT}/{ENTITY_SET}({predicate})"
    about = {"id": uri, "uri": uri, "type": f"{SERVICE}.{ENTITY_SET}Type"}
    return {"__metadata": about, **{name: row[name] for name in selected}}


def _json(content: object) -> Response:
    answer = jsonify({"d": content})
    answer.headers.update(DATA_SERVICE_VERSION)
    return answer


def _error(error: QueryError | FilterError, headers: dict[str, str] | None = None) -> Response:
    """Answer in SAP Gateway's error form."""
    status = error.status if isinstance(error, QueryError) else 400
    code = "/IWBEP/CM_TEA/004"
    answer = jsonify(
        error={
            "code": code,
            "message": {"lang": "en", "value": str(error)},
            "innererror": {
                "transactionid": uuid4().hex.upper(),
                "errordetails": [
                    {"code": code, "message": str(error), "propertyref": "", "severity": "error"}
                ],
            },
        }
    )
    answer.status_code = status
    answer.headers.update({**DATA_SERVICE_VERSION, **(headers or {})})
    return answer
