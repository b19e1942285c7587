"""The control side of the mock, which no SAP has: faults, counts, the ledger, balances, reset. No login."""

from collections.abc import Sequence

from flask import Blueprint, Response, jsonify, request

from sap_mock.balances import balances
from sap_mock.faults import Faults, FaultsError
from sap_mock.system import System, stats_of


def control_routes(systems: Sequence[System]) -> Blueprint:
    """Wire the routes; what they are asked is asked of all the systems."""
    routes = Blueprint("control", __name__)
    _add_faults(routes, systems)
    _add_readings(routes, systems)

    @routes.post("/_control/reset")
    def reset() -> Response:
        for system in systems:
            system.reset()
        return Response(status=204)

    @routes.get("/livez")
    def livez() -> Response:
        return jsonify(status="ok")

    return routes


def _add_faults(routes: Blueprint, systems: Sequence[System]) -> None:
    @routes.put("/_control/faults")
    def put_faults() -> Response:
        """Replace all faults; 400 with every mistake named when the body is not what it should be."""
        try:
            faults = Faults.parse(request.get_json(force=True, silent=True))
        except FaultsError as error:
            answer = jsonify(error=str(error))
            answer.status_code = 400
            return answer
        for system in systems:
            system.traffic.set_faults(faults)
        return jsonify(faults.as_json())

    @routes.get("/_control/faults")
    def get_faults() -> Response:
        """Answer with the first system's: they are the others' too unless those were given their own."""
        return jsonify(systems[0].traffic.faults.as_json())


def _add_readings(routes: Blueprint, systems: Sequence[System]) -> None:
    @routes.get("/_control/stats")
    def get_stats() -> Response:
        return jsonify(stats_of(systems))

    @routes.get("/_control/documents")
    def get_documents() -> Response:
        reference = request.args.get("reference") or None  # all documents
        return jsonify([found for system in systems for found in system.ledger.summaries(reference)])

    @routes.get("/_control/balances")
    def get_balances() -> Response:
        """Sum what is booked; `reference` and `text` (an item's) choose, each given as often as needed."""
        chosen = {"reference": request.args.getlist("reference"), "text": request.args.getlist("text")}
        return jsonify([found for system in systems for found in balances(system.ledger, **chosen)])
