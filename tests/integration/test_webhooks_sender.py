"""One request to a receiver that may be anything: real sockets, bounded time and bytes, checked addresses."""

import ssl
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from raw_server import read_request, says, serving
from stand_ins import Worker
from waiting import DEADLINE_SECONDS

from bridge.clock import SystemClock
from bridge.web.addresses import UnresolvableHostError
from bridge.web.transport import MAX_INFORMATIONAL_RESPONSES
from webhooks.sender import MAX_ANSWER_BYTES, Answer, Sender

pytestmark = pytest.mark.integration

# for receivers that answer, however late on a slow machine; that never do; that do the one, then the other
PATIENT_SECONDS = DEADLINE_SECONDS
HURRIED_SECONDS = 0.6
TIMEOUT_SECONDS = 3.0
# what a slow machine may add to a bound that holds
SLACK_SECONDS = DEADLINE_SECONDS
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
BROKEN = b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n"


def make_sender(
    *, timeout_seconds=PATIENT_SECONDS, resolver=lambda _host, _port: ["127.0.0.1"], allow_http_loopback=True
):
    return Sender(
        SystemClock(),
        timeout_seconds=timeout_seconds,
        allow_http_loopback=allow_http_loopback,
        max_connections=4,
        resolver=resolver,
    )


@pytest.fixture
def sender():
    made = make_sender()
    yield made
    made.close()


@pytest.fixture
def hurried():
    made = make_sender(timeout_seconds=HURRIED_SECONDS)
    yield made
    made.close()


@pytest.fixture
def receiver():
    made = Worker()
    yield made
    made.close()


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_every_2xx_is_a_success(sender, receiver, status):
    receiver.statuses[:] = [status]
    receiver.answer_headers["Retry-After"] = "7"
    assert sender.post(receiver.url, b"{}", {}) == Answer(status, None)


@pytest.mark.parametrize("status", [300, 301, 302, 307, 308, 400, 404, 410, 429, 500, 503])
def test_everything_else_is_a_failure_and_no_redirect_is_followed(sender, receiver, status):
    receiver.statuses[:] = [status]
    receiver.answer_headers |= {"Location": f"{receiver.url}/elsewhere", "Retry-After": "7"}
    assert sender.post(receiver.url, b"{}", {}) == Answer(status, "http-status", 7.0)
    assert len(receiver.requests) == 1


def post(sender, port, scheme="http"):
    return sender.post(f"{scheme}://127.0.0.1:{port}/", b"{}", {})


def timed_post(sender, port, scheme="http"):
    started = time.monotonic()
    answer = post(sender, port, scheme)
    assert time.monotonic() - started < TIMEOUT_SECONDS + SLACK_SECONDS
    return answer


def hang(_connection, closing):
    closing.wait(DEADLINE_SECONDS)


def trickle_headers(connection, closing):
    read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not closing.wait(0.05):
        connection.sendall(b"x")


def trickle_continues(connection, closing):
    read_request(connection)
    while not closing.wait(0.05):
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


def trickle_body(connection, closing):
    read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
    while not closing.wait(0.05):
        connection.sendall(b"x")


@pytest.mark.parametrize("answer", [hang, trickle_headers, trickle_continues])
def test_a_receiver_that_hangs_or_trickles_is_a_timeout(hurried, answer):
    with serving(answer) as server:
        result = timed_post(hurried, server.port)
    assert (result.status, result.error_class) == (None, "timeout")


def test_a_tls_handshake_that_hangs_is_a_timeout(hurried):
    with serving(hang) as server:
        assert timed_post(hurried, server.port, "https").error_class == "timeout"


def test_a_status_that_has_come_counts_even_if_the_body_never_ends():
    sender = make_sender(timeout_seconds=TIMEOUT_SECONDS)
    with serving(trickle_body) as server:
        result = timed_post(sender, server.port)
    assert (result.status, result.error_class) == (200, None)


def test_an_endless_body_is_not_read_to_its_end(sender):
    sent = []

    def endless(connection, _closing):
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            sent.append(connection.send(b"x" * 65_536))

    with serving(endless) as server:
        assert post(sender, server.port).status == 200
        assert sum(sent) < 200 * MAX_ANSWER_BYTES


@pytest.mark.parametrize(
    ("parts", "error_class"),
    [
        ((b"SSH-2.0-OpenSSH_9.6\r\n",), "connection-failed"),
        ((b"",), "connection-failed"),
        ((b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000,), "connection-failed"),
        ((b"HTTP/1.1 999999 Huh\r\n\r\n",), "connection-failed"),
    ],
)
def test_what_is_no_http_answer_is_a_failure(sender, parts, error_class):
    with serving(says(*parts)) as server:
        result = post(sender, server.port)
    assert (result.status, result.error_class) == (None, error_class)


def test_a_server_without_tls_is_a_failure(sender):
    def speak_first(connection, closing):
        connection.sendall(b"220 mail.example ESMTP\r\n")
        closing.wait(DEADLINE_SECONDS)

    with serving(speak_first) as server:
        assert post(sender, server.port, "https").error_class == "tls-failed"


def self_signed(folder):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    pem = serialization.Encoding.PEM
    unencrypted = serialization.NoEncryption()
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, unencrypted) + certificate.public_bytes(pem)
    )
    return path


def test_a_certificate_that_nobody_vouches_for_gets_no_request(sender, tmp_path, monkeypatch):
    certificate = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    requests = []

    def speak_tls(connection, _closing):
        with context.wrap_socket(connection, server_side=True) as secure:
            requests.append(secure.recv(65_536))

    # an environment that names the receiver's own certificate as good is not listened to
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with serving(speak_tls) as server:
        assert post(sender, server.port, "https").error_class == "tls-failed"
    assert not any(requests)


def test_https_is_spoken_to_a_certificate_that_is_good(sender, tmp_path):
    certificate = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def speak_tls(connection, _closing):
        with context.wrap_socket(connection, server_side=True) as secure:
            while read_request(secure):
                secure.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    sender._verify = str(certificate)
    with serving(speak_tls) as server:
        assert [post(sender, server.port, "https").status for _ in range(3)] == [204] * 3
        assert server.connections == 1


def test_connections_are_used_again_and_every_request_has_its_own_time():
    sender = make_sender(timeout_seconds=TIMEOUT_SECONDS)
    requests = []

    def keep_alive(connection, closing):
        while read_request(connection):
            requests.append(1)
            if len(requests) == 3:
                closing.wait(DEADLINE_SECONDS)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with serving(keep_alive) as server:
        assert [timed_post(sender, server.port).status for _ in range(2)] == [200, 200]
        assert server.connections == 1
        assert timed_post(sender, server.port).error_class == "timeout"
        assert server.connections == 1


@pytest.mark.parametrize("addresses", [["10.0.0.1"], ["127.0.0.1", "169.254.169.254"]])
def test_a_name_with_a_forbidden_address_is_never_connected_to(receiver, addresses):
    sender = make_sender(resolver=lambda _host, _port: addresses)
    port = receiver.url.rpartition(":")[2]
    answer = sender.post(f"https://partner.example:{port}/", b"{}", {})
    assert (answer.status, answer.error_class) == (None, "forbidden-address")
    assert receiver.requests == []


def test_loopback_is_refused_without_the_setting(receiver):
    sender = make_sender(allow_http_loopback=False)
    port = receiver.url.rpartition(":")[2]
    assert sender.post(f"https://partner.example:{port}/", b"{}", {}).error_class == "forbidden-address"
    assert sender.post(receiver.url, b"{}", {}).error_class == "forbidden-url"
    assert receiver.requests == []


def test_the_address_that_was_checked_is_the_one_that_is_called(receiver):
    # a name server that gives a good address first and another one to whoever asks again
    answers = [["127.0.0.1"], ["10.0.0.1"]]
    asked = []

    def rebind(host, _port):
        asked.append(host)
        return answers.pop(0)

    sender = make_sender(resolver=rebind)
    port = receiver.url.rpartition(":")[2]
    assert sender.post(f"http://localhost:{port}/", b"{}", {}).status == 200
    assert asked == ["localhost"]
    assert receiver.requests[0].headers["Host"] == f"localhost:{port}"


def test_a_name_that_does_not_resolve_is_a_failure():
    def resolver(_host, _port):
        raise UnresolvableHostError("no")

    answer = make_sender(resolver=resolver).post("https://partner.example/", b"{}", {})
    assert answer.error_class == "unresolvable-host"


def test_a_second_address_is_tried_when_the_first_does_not_answer(receiver):
    sender = make_sender(resolver=lambda _host, _port: ["127.0.0.2", "127.0.0.1"])
    port = receiver.url.rpartition(":")[2]
    assert sender.post(f"http://localhost:{port}/", b"{}", {}).status == 200


def test_a_proxy_of_the_environment_is_not_used(receiver, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    sender = make_sender()
    assert sender.post(receiver.url, b"{}", {}).status == 200


def test_only_our_own_headers_are_sent(sender, receiver):
    sender.post(receiver.url, b"{}", {"Content-Type": "application/json", "webhook-id": "evt_1"})
    names = {name.lower() for name in receiver.requests[0].headers}
    assert names == {"host", "content-type", "content-length", "webhook-id", "accept-encoding", "user-agent"}


def test_a_receivers_cookie_was_sent_to_every_partner_on_the_same_host(sender, receiver):
    receiver.answer_headers["Set-Cookie"] = "who=partner-a; Path=/"
    sender.post(f"{receiver.url}/a", b"{}", {})
    sender.post(f"{receiver.url}/b", b"{}", {})
    assert "cookie" not in {name.lower() for name in receiver.requests[1].headers}


def answers_in_turn(*answers):
    """Each request, on whatever connection, gets the next of the answers; None hangs up."""
    left = list(answers)

    def answer(connection, _closing):
        while read_request(connection):
            say = left.pop(0)
            if say is None:
                return
            connection.sendall(say)

    return answer


@pytest.mark.parametrize("early", ["100 Continue", "102 Processing", "103 Early Hints"])
def test_an_informational_response_was_taken_for_the_answer(sender, early):
    before = f"HTTP/1.1 {early}\r\nLink: </a.css>; rel=preload\r\n\r\n".encode()
    with serving(answers_in_turn(before + OK, before * 3 + BROKEN)) as server:
        assert [post(sender, server.port).status for _ in range(2)] == [200, 500]


def test_the_answer_after_an_early_hint_was_the_next_webhooks_answer(sender):
    """The second was recorded as delivered with the first one's 200, and its receiver had refused it."""
    requests = []

    def answer(connection, closing):
        while read_request(connection):
            requests.append(1)
            if len(requests) > 1:
                connection.sendall(BROKEN)
                continue
            connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            # as late as it can be: the sender waits, or has gone on with another request
            closing.wait(0.5)
            connection.sendall(OK)

    with serving(answer) as server:
        assert [post(sender, server.port).status for _ in range(2)] == [200, 500]


def test_informational_responses_without_end_are_a_failure(sender):
    many = b"HTTP/1.1 102 Processing\r\n\r\n" * (MAX_INFORMATIONAL_RESPONSES + 2)
    with serving(answers_in_turn(many + OK)) as server:
        assert post(sender, server.port).error_class == "connection-failed"


@pytest.mark.parametrize("surplus", [OK, b"x", b"HTTP/1.1 200 OK\r\n"])
@pytest.mark.parametrize("first", [OK, NO_CONTENT, CHUNKED])
def test_what_stood_behind_an_answer_was_dropped_and_its_connection_used_again(sender, first, surplus):
    with serving(answers_in_turn(first + surplus, BROKEN)) as server:
        assert post(sender, server.port).is_success
        assert post(sender, server.port).status == 500
        assert server.connections == 2


@pytest.mark.parametrize("first", [OK, NO_CONTENT, CHUNKED])
def test_a_connection_with_nothing_behind_the_answer_is_used_again(sender, first):
    with serving(answers_in_turn(first, first, BROKEN)) as server:
        assert [post(sender, server.port).is_success for _ in range(3)] == [True, True, False]
        assert server.connections == 1


def test_a_kept_connection_that_the_receiver_was_closing_counted_as_a_failed_attempt(sender):
    with serving(answers_in_turn(OK, None, OK)) as server:
        assert [post(sender, server.port).status for _ in range(2)] == [200, 200]
        assert server.connections == 2


def test_a_receiver_that_always_hangs_up_is_asked_once(sender):
    with serving(answers_in_turn(None, None)) as server:
        assert post(sender, server.port).error_class == "connection-failed"
        assert server.connections == 1


def test_a_name_server_that_hangs_escaped_the_attempts_time():
    over = threading.Event()

    def hanging(host, _port):
        if host == "hangs.example":
            over.wait(PATIENT_SECONDS)
        return ["127.0.0.1"]

    sender = make_sender(timeout_seconds=HURRIED_SECONDS, resolver=hanging)
    try:
        started = time.monotonic()
        for _ in range(5):  # more than there are threads for lookups
            assert sender.post("https://hangs.example/", b"{}", {}).error_class == "timeout"
        assert time.monotonic() - started < 5 * HURRIED_SECONDS + SLACK_SECONDS
        with serving(answers_in_turn(OK)) as server:
            assert sender.post(f"http://localhost:{server.port}/", b"{}", {}).status == 200
    finally:
        over.set()
        sender.close()


OUT_OF_DESCRIPTORS = """
import os, resource
from bridge.clock import SystemClock
from bridge.errors import TransientError
from webhooks.sender import Sender
sender = Sender(SystemClock(), timeout_seconds=10.0, allow_http_loopback=True, max_connections=2)
last = os.dup(0)
before = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (last + 1, before[1]))
for url in ("http://127.0.0.1:{port}/", "http://localhost:{port}/", "https://partner.invalid/"):
    try:
        print(sender.post(url, b"{{}}", {{}}))
    except TransientError:
        print("transient")
resource.setrlimit(resource.RLIMIT_NOFILE, before)
print(sender.post("http://127.0.0.1:{port}/", b"{{}}", {{}}).status)
"""


def test_a_process_without_descriptors_blamed_the_receiver():
    with serving(answers_in_turn(OK)) as server:
        done = subprocess.run(
            [sys.executable, "-c", OUT_OF_DESCRIPTORS.format(port=server.port)],
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
    assert done.stdout.split() == ["transient"] * 3 + ["200"], done.stdout + done.stderr
