"""POST: the synchronous journal entry service. GET with ?wsdl: what it looks like."""

from flask import Blueprint, Response, request

from sap_mock.faults import Faults
from sap_mock.front import Front
from sap_mock.late_commits import LateCommits
from sap_mock.posting_desk import PostingDesk
from sap_mock.schema import RequestSchema, wsdl
from sap_mock.soap_answer import CONTENT_TYPE, bulk_confirmation, fault
from sap_mock.soap_request import SoapFaultError, read_request
from sap_mock.traffic import DroppedConnectionError, Ending, Traffic

PATH = "/sap/bc/srt/scs_ext/sap/journalentrycreaterequestconfi"


def soap_routes(front: Front, traffic: Traffic, desk: PostingDesk, late_commits: LateCommits) -> Blueprint:
    """Wire the routes; the time in the answers is the desk's."""
    routes = Blueprint("soap", __name__)
    schema = RequestSchema()

    @routes.post(PATH)
    @front.guarded
    def post_journal_entries(faults: Faults) -> Response:
        if request.mimetype != "text/xml":
            return Response(fault("Content-Type must be text/xml (SOAP 1.1)"), 415, content_type=CONTENT_TYPE)
        try:
            asked = read_request(request.get_data(), schema)
        except SoapFaultError as error:
            return Response(fault(str(error)), 500, content_type=CONTENT_TYPE)
        ending = traffic.ending(faults)
        if ending is Ending.DROP_BEFORE_COMMIT:
            raise DroppedConnectionError
        window_seconds = faults.idempotency_window_s
        if ending is Ending.DROP_THEN_COMMIT:
            late_commits.schedule(faults.late_commit_ms, lambda: desk.post(asked, window_seconds))
            raise DroppedConnectionError
        confirmations = desk.post(asked, window_seconds)
        if ending is Ending.COMMIT_THEN_DROP:
            raise DroppedConnectionError
        return Response(bulk_confirmation(confirmations, desk.now()), content_type=CONTENT_TYPE)

    @routes.get(PATH)
    def describe() -> Response:
        if "wsdl" not in {name.lower() for name in request.args}:
            return Response("Only POST, or GET with ?wsdl\n", 405, {"Allow": "POST"}, mimetype="text/plain")
        return Response(wsdl(request.base_url), content_type=CONTENT_TYPE)

    return routes
