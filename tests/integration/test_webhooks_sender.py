"""One request to a receiver that may be anything: real sockets, bounded time and bytes, checked addresses."""

import contextlib
import socket
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from stand_ins import Worker
from waiting import wait_until

from bridge.clock import SystemClock
from bridge.web.addresses import UnresolvableHostError
from webhooks.sender import MAX_ANSWER_BYTES, Answer, Sender

pytestmark = pytest.mark.integration

# for receivers that answer, however late on a slow machine; that never do; that do the one, then the other
PATIENT_SECONDS = 30.0
HURRIED_SECONDS = 0.6
TIMEOUT_SECONDS = 3.0
# what a slow machine may add to a bound that holds
SLACK_SECONDS = 10.0


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


class RawServer:
    """A TCP server whose answer is a function of the connection; what it was sent is kept."""

    def __init__(self, answer):
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        self.closing = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._handle, args=(connection,), daemon=True).start()

    def _handle(self, connection):
        with connection, contextlib.suppress(OSError):
            self._answer(connection, self.closing)

    def close(self):
        self.closing.set()
        self._listener.close()


@contextlib.contextmanager
def serving(answer):
    server = RawServer(answer)
    try:
        yield server
    finally:
        server.close()


def read_request(connection):
    """Read up to the end of the body, which is {} in all of these tests; False if there is no more."""
    received = b""
    while not received.endswith(b"{}"):
        more = connection.recv(65_536)
        if not more:
            return False
        received += more
    return True


def says(*parts):
    def answer(connection, _closing):
        read_request(connection)
        for part in parts:
            connection.sendall(part)

    return answer


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
    closing.wait(20)


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
        closing.wait(20)

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
                closing.wait(20)
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


def test_the_timers_threads_end_with_their_requests(sender, receiver):
    before = threading.active_count()
    for _ in range(5):
        sender.post(receiver.url, b"{}", {})
    wait_until(lambda: threading.active_count() <= before + 1)
