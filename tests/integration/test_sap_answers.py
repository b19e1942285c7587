"""S/4HANA's connector and servers whose bytes are not what a request asked for, or come when they like."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import pytest
from lxml import etree
from waiting import DEADLINE_SECONDS

from bridge.clock import SystemClock
from bridge.errors import TransientError, UnknownOutcomeError
from bridge.ids import sap_message_uuid
from bridge.payment import SapDocument
from sap_adapter.connector import Posted, Sending
from sap_adapter.s4hana import S4HanaConnector, SapConnection, Timeouts

pytestmark = pytest.mark.integration

PATIENT = Timeouts(10.0, 20.0)
HURRIED = Timeouts(0.5, 1.0)
# what a slow machine may add to a bound that holds
SLACK_SECONDS = DEADLINE_SECONDS
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
NOTHING_FOUND = b'{"d": {"results": []}}'


def sending(operation_id):
    content = b"<JournalEntry><CompanyCode>1000</CompanyCode></JournalEntry>"
    return Sending(operation_id, str(sap_message_uuid(operation_id, 0)), NOW, content)


def confirmation(operation_id, number):
    return f"""<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>
    <n:JournalEntryBulkCreateConfirmation xmlns:n="http://sap.com/xi/SAPSCORE/SFIN"><MessageHeader/>
    <JournalEntryCreateConfirmation><MessageHeader><ReferenceID>{operation_id}</ReferenceID>
    <ReferenceUUID>{sap_message_uuid(operation_id, 0)}</ReferenceUUID></MessageHeader>
    <JournalEntryCreateConfirmation><AccountingDocument>{number}</AccountingDocument>
    <CompanyCode>1000</CompanyCode><FiscalYear>2026</FiscalYear></JournalEntryCreateConfirmation>
    <Log><MaximumLogItemSeverityCode>1</MaximumLogItemSeverityCode></Log></JournalEntryCreateConfirmation>
    </n:JournalEntryBulkCreateConfirmation></s:Body></s:Envelope>""".encode()


def http_answer(body):
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def documents(number):
    item = (
        '{"CompanyCode": "1000", "FiscalYear": "2026", "AccountingDocument": "%s", '
        '"AccountingDocumentItem": "1", "AccountingDocumentType": "DZ", "TransactionCurrency": "EUR", '
        '"AmountInTransactionCurrency": "12.50", "Reference3IDByBusinessPartner": "", '
        '"IsReversal": false, "IsReversed": false}'
    )
    return http_answer(b'{"d": {"results": [' + (item % number).encode() + b"]}}")


class RawServer:
    """Calls `answer(connection, request, turn)` for each request of each connection; counts both."""

    def __init__(self, answer):
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.closing = threading.Event()
        self.connections = 0
        self.turn = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, suppress(OSError):
            while (request := read_request(connection)) is not None:
                self.turn += 1
                self._answer(connection, request, self.turn)

    def close(self):
        self.closing.set()
        self._listener.close()


def read_request(connection):
    """Return the whole request; None once the client has hung up."""
    received = b""
    while True:
        head, end, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if end and len(body) >= (int(length[1]) if length else 0):
            return received
        more = connection.recv(65_536)
        if not more:
            return None
        received += more


@contextmanager
def serving(answer, timeouts=PATIENT):
    server = RawServer(answer)
    try:
        yield server, connector(server.url, timeouts)
    finally:
        server.close()


def connector(url, timeouts):
    connection = SapConnection(url, "sap", "sap-secret")
    return S4HanaConnector(connection, timeouts, max_calls=1, clock=SystemClock())


def operation_of(request):
    return etree.fromstring(request.partition(b"\r\n\r\n")[2]).findtext(".//MessageHeader/ID")


@pytest.mark.parametrize("early", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
def test_an_early_answer_made_the_next_operation_take_this_ones_document(early):
    def answer(connection, request, turn):
        connection.sendall(b"HTTP/1.1 " + early + b"\r\nLink: </a>; rel=preload\r\n\r\n")
        threading.Event().wait(0.2)
        connection.sendall(http_answer(confirmation(operation_of(request), 1400000000 + turn)))

    with serving(answer) as (server, sap):
        first, second = sap.post(sending("op_first")), sap.post(sending("op_second"))
        assert first == Posted(SapDocument("1000", "2026", "1400000001"))
        assert second == Posted(SapDocument("1000", "2026", "1400000002"))
        assert server.connections == 1


def test_a_second_answer_that_comes_late_is_not_the_next_operations():
    """It arrives while the next request is under way, so that nothing is left to see on the connection."""

    def answer(connection, request, turn):
        if turn == 1:
            connection.sendall(http_answer(confirmation(operation_of(request), 1400000001)))
        else:
            connection.sendall(http_answer(confirmation("op_first", 1400000001)))

    with serving(answer) as (_server, sap):
        assert isinstance(sap.post(sending("op_first")), Posted)
        with pytest.raises(UnknownOutcomeError, match="another message"):
            sap.post(sending("op_second"))


def test_unread_bytes_end_the_use_of_a_connection():
    left_over = threading.Event()

    def answer(connection, request, turn):
        connection.sendall(http_answer(confirmation(operation_of(request), 1400000000 + turn)))
        if turn == 1:
            threading.Event().wait(0.2)
            connection.sendall(http_answer(b"left over"))
            left_over.set()

    with serving(answer) as (server, sap):
        sap.post(sending("op_first"))
        assert left_over.wait(SLACK_SECONDS)
        assert isinstance(sap.post(sending("op_second")), Posted)
        assert server.connections == 2


def test_a_question_was_answered_by_what_an_earlier_one_had_left_over():
    """A "none" that belongs to another question has the document posted again."""

    def answer(connection, _request, turn):
        connection.sendall(http_answer(NOTHING_FOUND) if turn == 1 else documents("1400000002"))

    with serving(answer) as (server, sap):
        assert sap.find("1000", "REFERENCE0000001") == []
        assert [found.document.number for found in sap.find("1000", "REFERENCE0000002")] == ["1400000002"]
        assert server.connections == 2


def dripping_head(server):
    def answer(connection, _request, _turn):
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while not server().closing.wait(0.05):
            connection.sendall(b"x")

    return answer


def continuing_for_ever(server):
    def answer(connection, _request, _turn):
        while not server().closing.wait(0.05):
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    return answer


def processing_for_ever(server):
    def answer(connection, _request, _turn):
        while not server().closing.wait(0.05):
            connection.sendall(b"HTTP/1.1 102 Processing\r\n\r\n")

    return answer


@pytest.mark.parametrize("behaviour", [dripping_head, continuing_for_ever, processing_for_ever])
def test_headers_that_never_end_held_a_call_for_ever(behaviour):
    running = []
    with serving(behaviour(lambda: running[0]), HURRIED) as (server, sap):
        running.append(server)
        began = time.monotonic()
        with pytest.raises(UnknownOutcomeError, match="takes too long"):
            sap.post(sending("op_first"))
        with pytest.raises(TransientError, match="takes too long"):
            sap.find("1000", "REFERENCE0000001")
        assert time.monotonic() - began < 2 * HURRIED.call_seconds + SLACK_SECONDS


def test_a_tls_handshake_in_drops_is_bounded_too_and_has_posted_nothing():
    listener, over = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def drip():
        with suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"\x16\x03\x03\x40\x00")  # a TLS record of 16 KiB that never ends
                while not over.wait(0.05):
                    connection.sendall(b"\x02")

    threading.Thread(target=drip, daemon=True).start()
    sap = connector(f"https://127.0.0.1:{listener.getsockname()[1]}", Timeouts(0.5, 1.0))
    began = time.monotonic()
    with pytest.raises(TransientError):
        sap.post(sending("op_first"))
    assert time.monotonic() - began < HURRIED.call_seconds + SLACK_SECONDS
    over.set()
    listener.close()


def test_a_protocol_that_was_switched_unasked_confirms_nothing():
    def answer(connection, _request, _turn):
        connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n")

    with serving(answer) as (_server, sap), pytest.raises(UnknownOutcomeError):
        sap.post(sending("op_first"))


# A process of its own: the faults are planted in everything that runs in it.
WITHOUT_ROOM = """
import resource, threading
from contextlib import contextmanager
from unittest import mock
from test_sap_answers import PATIENT, connector, sending
from sap_adapter.connector import NotCalledError

sap = connector("{url}", PATIENT)

@contextmanager
def no_descriptor():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

def no_thread():
    return mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread"))

def post(operation_id):
    try:
        return type(sap.post(sending(operation_id))).__name__
    except NotCalledError:
        return "NotCalledError"

for fault in ({faults}):  # the first on a new connection, the later ones on the one that is there
    with fault():
        refused = post("op_" + fault.__name__)
    print(fault.__name__, refused, post("op_" + fault.__name__))
"""


@pytest.mark.parametrize("faults", ["no_descriptor, no_descriptor", "no_thread,"])
def test_without_a_descriptor_or_a_thread_nothing_was_posted_and_sap_is_not_to_blame(faults):
    """The thread is the one that watches the call's time."""

    def answer(connection, request, turn):
        connection.sendall(http_answer(confirmation(operation_of(request), 1400000000 + turn)))

    with serving(answer) as (server, _sap):
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_ROOM.format(url=server.url, faults=faults)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        expected = [f"{fault} NotCalledError Posted" for fault in re.findall(r"\w+", faults)]
        assert done.stdout.splitlines() == expected, done.stdout + done.stderr
        assert server.turn == len(expected)
