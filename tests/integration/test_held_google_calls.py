"""A server that sends its answer in drops held Google's clients for ever: each piece came within its time."""

import threading

import google.auth
import pytest
import requests
from google.auth.exceptions import TransportError
from google.oauth2.credentials import Credentials
from raw_server import serving
from waiting import DEADLINE_SECONDS

from bridge.clock import ManualClock
from bridge.errors import TransientError
from bridge.gcp import http as google_http
from bridge.gcp import identity, kms, metrics
from bridge.web.bounded_session import bounded_session

pytestmark = pytest.mark.integration

TOTAL_SECONDS = 0.5
DROP_EVERY_SECONDS = 0.05
HEADERS = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
BEGINNINGS = {"headers": HEADERS, "body": HEADERS + b"Content-Length: 1000000\r\n\r\n"}
KEY = "projects/p/locations/l/keyRings/r/cryptoKeys/k"


@pytest.fixture(params=BEGINNINGS)
def dripping(request):
    def answer(connection, closing):
        connection.recv(65_536)
        connection.sendall(BEGINNINGS[request.param])
        while not closing.wait(DROP_EVERY_SECONDS):
            connection.sendall(b"x")

    with serving(answer) as server:
        yield server


@pytest.fixture
def url(dripping):
    return f"http://127.0.0.1:{dripping.port}"


def test_a_session_ends_each_request_as_a_whole(url):
    with bounded_session(TOTAL_SECONDS) as session, pytest.raises(requests.Timeout):
        session.get(url, timeout=DEADLINE_SECONDS)


def test_a_closed_session_leaves_no_thread(url):
    before = set(threading.enumerate())
    with bounded_session(TOTAL_SECONDS) as session:
        with pytest.raises(requests.Timeout):
            session.get(url, timeout=DEADLINE_SECONDS)
        started = set(threading.enumerate()) - before
    for thread in started:
        if thread.name.startswith(("deadlines", "name-lookup")):
            thread.join()


def test_a_boot_does_not_wait_for_cloud_kms_for_ever(dripping, monkeypatch):
    monkeypatch.setattr(kms, "TOTAL_SECONDS", TOTAL_SECONDS)
    host = f"127.0.0.1:{dripping.port}"
    held = pytest.raises(TransientError, match="does not answer")
    with kms.cloud_kms(host, backoff_seconds=0.01) as wrapper, held:
        wrapper.unwrap(KEY, b"wrapped", b"bound")


def test_a_boot_did_not_wait_for_as_long_as_cloud_kms_said():
    """urllib3 sleeps through Retry-After, which no deadline ends."""

    def busy(connection, _closing):
        connection.recv(65_536)
        connection.sendall(
            b"HTTP/1.1 503 Busy\r\nRetry-After: 3600\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
        )

    refused = pytest.raises(TransientError, match="answers 503")
    with (
        serving(busy) as server,
        kms.cloud_kms(f"127.0.0.1:{server.port}", backoff_seconds=0.01) as wrapper,
        refused,
    ):
        wrapper.unwrap(KEY, b"wrapped", b"bound")


def test_certificates_that_never_arrive_do_not_hold_every_push(url, monkeypatch):
    monkeypatch.setattr(identity, "CERTIFICATES_TIMEOUT_SECONDS", TOTAL_SECONDS)
    certificates = identity.google_certificates(ManualClock(None))
    for _ in range(2):
        with pytest.raises(TransportError):
            certificates(url)


def test_metrics_go_on_with_the_next_export(url, monkeypatch):
    monkeypatch.setattr(metrics, "EXPORT_TIMEOUT_SECONDS", TOTAL_SECONDS)
    with metrics._session(url) as session, pytest.raises(requests.Timeout):
        session.post(url, b"figures", timeout=DEADLINE_SECONDS)


def test_a_token_that_never_arrives_ends_the_request(url, monkeypatch):
    monkeypatch.setattr(google_http, "TOKEN_SECONDS", TOTAL_SECONDS)
    credentials = Credentials(None, refresh_token="r", token_uri=url, client_id="c", client_secret="s")
    monkeypatch.setattr(google.auth, "default", lambda **_: (credentials, "project"))
    with google_http.google_session("scope", TOTAL_SECONDS) as session, pytest.raises(TransportError):
        session.get("http://127.0.0.1:1/", timeout=DEADLINE_SECONDS)
