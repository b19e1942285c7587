"""The control side of the mock, which no SAP has: faults, counts, the ledger, reset. No login."""

from flask import Blueprint, Response, jsonify, request

from sap_mock.faults import Faults, FaultsError
from sap_mock.late_commits import LateCommits
from sap_mock.ledger import Ledger
from sap_mock.traffic import Traffic


def control_routes(traffic: Traffic, ledger: Ledger, late_commits: LateCommits) -> Blueprint:
    routes = Blueprint("control", __name__)

    @routes.put("/_control/faults")
    def put_faults() -> Response:
        """Replace all faults; 400 with every mistake named when the body is not what it should be."""
        try:
            faults = Faults.parse(request.get_json(force=True, silent=True))
        except FaultsError as error:
            answer = jsonify(error=str(error))
            answer.status_code = 400
            return answer
        traffic.set_faults(faults)
        return jsonify(faults.as_json())

    @routes.get("/_control/faults")
    def get_faults() -> Response:
        return jsonify(traffic.faults.as_json())

    @routes.get("/_control/stats")
    def get_stats() -> Response:
        documents, duplicates = ledger.counts()
        return jsonify({"documents": documents, **traffic.stats(), "duplicates": duplicates})

    @routes.get("/_control/documents")
    def get_documents() -> Response:
        return jsonify(ledger.summaries(request.args.get("reference")))

    @routes.post("/_control/reset")
    def reset() -> Response:
        """Forget documents, stored responses, late commits, counts and faults."""
        late_commits.forget()
        ledger.clear()
        traffic.reset()
        return Response(status=204)

    @routes.get("/livez")
    def livez() -> Response:
        return jsonify(status="ok")

    return routes
