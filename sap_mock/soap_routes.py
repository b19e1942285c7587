"""POST: the synchronous journal entry service. GET with ?wsdl: what it looks like."""

import threading
import time

from flask import Blueprint, Response, request

from sap_mock.faults import Faults
from sap_mock.front import Front, hold_until_hung_up, html_page, send_later
from sap_mock.manners import Manner
from sap_mock.posting_desk import Memory
from sap_mock.schema import RequestSchema, wsdl
from sap_mock.soap_answer import CONTENT_TYPE, bulk_confirmation, fault
from sap_mock.soap_request import SoapFaultError, read_request
from sap_mock.system import System
from sap_mock.traffic import (
    BrokenError,
    BusyError,
    DroppedConnectionError,
    Ending,
    ThrottledError,
)

# as the ICM's own limit on a request
LONGEST_HOLD_SECONDS = 600.0
SLOW_SECONDS = 3.0
LATE_COMMIT_MS = 2000
RETRY_AFTER_SECONDS = 1
SECOND_ANSWER_SECONDS = 0.2
_ENDINGS = {
    Manner.DROPPED: Ending.DROP_BEFORE_COMMIT,
    Manner.ANSWER_LOST: Ending.COMMIT_THEN_DROP,
    Manner.LATE_COMMIT: Ending.DROP_THEN_COMMIT,
}
PATH = "/sap/bc/srt/scs_ext/sap/journalentrycreaterequestconfi"


def soap_routes(front: Front, system: System) -> Blueprint:
    """Wire the routes; the time in the answers is the desk's."""
    desk = system.desk
    routes = Blueprint("soap", __name__)
    schema = RequestSchema()
    earlier = _EarlierAnswer()

    @routes.post(PATH)
    @front.guarded
    def post_journal_entries(faults: Faults) -> Response:
        if request.mimetype != "text/xml":
            return Response(fault("Content-Type must be text/xml (SOAP 1.1)"), 415, content_type=CONTENT_TYPE)
        try:
            asked = read_request(request.get_data(), schema)
        except SoapFaultError as error:
            return Response(fault(str(error)), 500, content_type=CONTENT_TYPE)
        manner = desk.take_manner(asked)
        if manner is Manner.LOGON_PAGE:
            return html_page(200, "Logon", "Enter your user and password.")
        ending = system.traffic.ending(faults) if manner is None else _ending(manner)
        if ending is Ending.DROP_BEFORE_COMMIT:
            raise DroppedConnectionError
        memory = Memory.of(faults)
        if ending is Ending.DROP_THEN_COMMIT:
            late_by_ms = faults.late_commit_ms if manner is None else LATE_COMMIT_MS
            system.late_commits.schedule(late_by_ms, lambda: desk.post(asked, memory))
            raise DroppedConnectionError
        confirmations = desk.post(asked, memory)
        if ending is Ending.COMMIT_THEN_DROP:
            raise DroppedConnectionError
        return _answer(bulk_confirmation(confirmations, desk.now()), faults, system, earlier)

    @routes.get(PATH)
    def describe() -> Response:
        if "wsdl" not in {name.lower() for name in request.args}:
            return Response("Only POST, or GET with ?wsdl\n", 405, {"Allow": "POST"}, mimetype="text/plain")
        return Response(wsdl(request.base_url), content_type=CONTENT_TYPE)

    return routes


class _EarlierAnswer:
    """Keeps one answer back, to be given to somebody else."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept = b""

    def swap(self, answer: bytes) -> bytes:
        """Keep this answer, and return the one that was kept before; the first time, this one."""
        with self._lock:
            given, self._kept = self._kept or answer, answer
        return given


def _answer(content: bytes, faults: Faults, system: System, earlier: _EarlierAnswer) -> Response:
    """Return the answer, or what the faults make of it."""
    if system.traffic.happens(faults.foreign_confirmation_rate):
        content = earlier.swap(content)
    if system.traffic.happens(faults.second_answer_rate):
        send_later(_raw_answer(content), SECOND_ANSWER_SECONDS)
    return Response(content, content_type=CONTENT_TYPE)


def _raw_answer(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _ending(manner: Manner) -> Ending:
    """Do what a payment has asked for, and return how its call ends; raises what Traffic raises."""
    match manner:
        case Manner.TIMEOUT:
            hold_until_hung_up(LONGEST_HOLD_SECONDS)
            raise DroppedConnectionError
        case Manner.UNAVAILABLE:
            raise BusyError(RETRY_AFTER_SECONDS)
        case Manner.TOO_MANY_CALLS:
            raise ThrottledError(RETRY_AFTER_SECONDS)
        case Manner.ERROR_PAGE:
            raise BrokenError
        case Manner.SLOW:
            time.sleep(SLOW_SECONDS)
            return Ending.ANSWER
        case _:
            return _ENDINGS[manner]
