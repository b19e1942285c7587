"""Peers that send or read slowly, or stay for nothing, keep nobody from being served."""

import contextlib
import http.client
import socket
import subprocess
import sys
import threading

import psutil
import pytest
from serve_echo import LARGE_BYTES
from stand_ins import REPOSITORY, accepts_connections, free_port
from waiting import DEADLINE_SECONDS, wait_until

from bridge.web.worker import MAX_HELD_BYTES

pytestmark = pytest.mark.integration

THREADS = 4
HEAD = b"POST /echo HTTP/1.1\r\nHost: x\r\n"
BEGINNINGS = {
    "nothing": b"",
    "half a head": HEAD,
    "half a body": HEAD + b"Content-Length: 100\r\n\r\nhalf",
    "half a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n10\r\nhalf",
    "what would be refused": HEAD + b"Content-Length: 99999999\r\n\r\nhalf",
    "a request and half of the next": b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" + HEAD,
}


def command(port, descriptors=None):
    """Start the server, with a limit of open files that it can't raise."""
    script = str(REPOSITORY / "tests" / "serve_echo.py")
    limited = ["sh", "-c", f'ulimit -n {descriptors} && exec "$@"', "sh"] if descriptors else []
    return [*limited, sys.executable, script, str(port), str(THREADS)]


class Server:
    def __init__(self, folder, descriptors=None):
        self.port = free_port()
        self.log = folder / "echo.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command(self.port, descriptors), cwd=REPOSITORY, stdout=log, stderr=log
            )
        wait_until(lambda: accepts_connections(self.port), what="the server")

    def stop(self):
        self._process.terminate()
        assert self._process.wait(DEADLINE_SECONDS) == 0, self.log.read_text()

    def worker(self):
        arbiter = psutil.Process(self._process.pid)
        (worker,) = wait_until(arbiter.children, what="the worker")
        return worker

    def connect(self, data=b""):
        peer = socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_SECONDS)
        peer.sendall(data)
        return peer

    def call(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_SECONDS)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()


@pytest.fixture
def server(tmp_path):
    made = Server(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def peers():
    with contextlib.ExitStack() as stack:
        yield stack


def require_service(server):
    for number in range(2 * THREADS):
        assert server.call("GET", "/livez")[0] == 200
        body = b"%d" % number * 10_000
        assert server.call("POST", "/echo", body) == (200, body)


def answer_from(peer):
    answer = http.client.HTTPResponse(peer)
    answer.begin()
    return answer.status, answer.read()


@pytest.mark.parametrize("count", [16, 100, 1000])
@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_slow_senders_stop_nobody(server, peers, beginning, count):
    """Sixteen half-sent requests without credentials kept everybody from the gateway while they stayed."""
    for _ in range(count):
        peers.enter_context(server.connect(BEGINNINGS[beginning]))
    require_service(server)


def test_more_connections_than_there_may_be_make_place_for_new_ones(server, peers):
    for _ in range(3000):
        peers.enter_context(server.connect(BEGINNINGS["half a body"]))
    require_service(server)


def test_who_does_not_read_the_answer_stops_nobody(server, peers):
    for _ in range(8 * THREADS):
        peer = peers.enter_context(server.connect())
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    require_service(server)


def test_who_ends_the_connection_late_stops_nobody(server, peers):
    """After `Connection: close` gunicorn's main loop waited two seconds for each peer to close it, too."""
    for _ in range(50):
        peer = peers.enter_context(server.connect(HEAD + b"Connection: close\r\nContent-Length: 0\r\n\r\n"))
        assert peer.recv(12) == b"HTTP/1.1 200"
    require_service(server)


def test_a_request_that_does_not_come_in_time_is_told_so(server, peers):
    peer = peers.enter_context(server.connect(BEGINNINGS["half a head"]))
    answer = http.client.HTTPResponse(peer)
    answer.begin()
    assert (answer.status, answer.headers["Content-Type"]) == (408, "application/problem+json")
    assert b"/problems/request-timeout" in answer.read()
    assert peer.recv(1) == b""


def test_a_sender_that_waits_for_100_continue_is_told_to_go_on(server, peers):
    head = HEAD + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    peer = peers.enter_context(server.connect(head))
    assert peer.recv(1024) == b"HTTP/1.1 100 Continue\r\n\r\n"
    peer.sendall(b"hello")
    assert answer_from(peer) == (200, b"hello")


def test_a_line_end_behind_a_body_begins_no_request(server, peers):
    """It was answered 408 after 10 s, as if half a request had come (RFC 9112 section 2.2)."""
    one = HEAD + b"Content-Length: 2\r\n\r\n%02d\r\n"
    peer = peers.enter_context(server.connect(one % 1))
    assert answer_from(peer) == (200, b"01")
    peer.sendall(one % 2)
    assert answer_from(peer) == (200, b"02")
    peer.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        assert peer.recv(1) == b""


def test_requests_sent_ahead_of_their_turn_are_answered_in_order(server, peers):
    one = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n%02d"
    peer = peers.enter_context(server.connect(b"".join(one % number for number in range(20))))
    seen = b""
    while seen.count(b"HTTP/1.1 200") < 20 or not seen.endswith(b"19"):
        data = peer.recv(65536)
        assert data, seen
        seen += data
    bodies = [part.partition(b"\r\n\r\n")[2] for part in seen.split(b"HTTP/1.1 200")[1:]]
    assert bodies == [b"%02d" % number for number in range(20)]


def test_a_large_answer_arrives_whole(server):
    assert server.call("GET", "/large") == (200, b"x" * LARGE_BYTES)


def test_what_can_t_be_read_is_answered_with_a_problem(server, peers):
    for request, status in (
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 200_000 + b"\r\n\r\n", 431),
        (HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
    ):
        peer = peers.enter_context(server.connect(request))
        answer = http.client.HTTPResponse(peer)
        answer.begin()
        assert (answer.status, answer.headers["Content-Type"]) == (status, "application/problem+json")
        assert answer.read()


def everything_from(peer):
    """Read until the server has closed the connection."""
    return b"".join(iter(lambda: peer.recv(65_536), b""))


def test_a_body_that_can_t_be_read_to_its_end_is_the_sender_s_mistake(server, peers):
    """It was 500 and an unexpected error in the log, which anybody could cause."""
    for chunks in (b"five\r\n", b"1\r\nabc0\r\n\r\n", b"1;=\r\na\r\n0\r\n\r\n"):
        peer = peers.enter_context(server.connect(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks))
        answer = everything_from(peer)
        assert answer.startswith(b"HTTP/1.1 400 "), (chunks, answer)
        assert answer.count(b"HTTP/1.1 ") == 1, answer


def test_a_bad_body_that_no_route_reads_gets_no_second_answer(server, peers):
    """It came after the first one, as if it were the answer to the next request."""
    head = b"GET /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = everything_from(peers.enter_context(server.connect(head + b"1\r\nabc0\r\n\r\n")))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 ") == 1, answer


def test_a_body_in_tiny_chunks_takes_no_time(server):
    """What was left of it was copied for each chunk: one request kept a thread and the interpreter's lock."""
    chunks = 500_000
    with contextlib.closing(server.connect(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")) as peer:
        peer.sendall(b"1\r\nx\r\n" * chunks + b"0\r\n\r\n")
        answer = http.client.HTTPResponse(peer)
        answer.begin()
        assert (answer.status, answer.read()) == (200, b"x" * chunks)


def test_heads_that_wait_for_100_continue_count_as_memory(server, peers):
    """Nothing of them was counted, so that they could fill the memory of the process."""
    head = HEAD + b"A: " + b"a" * 120_000 + b"\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    first = peers.enter_context(server.connect(head))
    assert first.recv(1024) == b"HTTP/1.1 100 Continue\r\n\r\n"
    for _ in range(MAX_HELD_BYTES // len(head) + 1):
        peers.enter_context(server.connect(head))
    with contextlib.suppress(ConnectionError):
        assert first.recv(1) == b""


def test_connections_beyond_the_descriptors_end_neither_the_worker_nor_what_runs(tmp_path, peers):
    """At the limit `accept` failed, the worker ended, and every request in flight with it."""
    server = Server(tmp_path, descriptors=96)
    worker = server.worker()
    answers = []
    running = threading.Thread(target=lambda: answers.append(server.call("GET", "/wait")))
    running.start()
    for _ in range(300):
        peers.enter_context(server.connect(BEGINNINGS["half a head"]))
    require_service(server)
    # now there are fewer than at the start: the server could not know
    worker.rlimit(psutil.RLIMIT_NOFILE, (worker.num_fds(), 96))
    for _ in range(10):
        with contextlib.suppress(OSError):
            peers.enter_context(server.connect(BEGINNINGS["half a head"]))
    require_service(server)
    server.call("POST", "/end")
    running.join(DEADLINE_SECONDS)
    assert [status for status, _ in answers] == [200]
    assert server.worker() == worker
    server.stop()


def test_too_few_descriptors_for_the_threads_are_one_line(tmp_path):
    ended = subprocess.run(
        command(free_port(), 36),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr == "echo: the limit of open files (ulimit -n) is too low for 4 threads\n"
