"""When a request has arrived: at its last byte, however the bytes come."""

import pytest
from gunicorn import http
from gunicorn.config import Config
from gunicorn.http.errors import NoMoreData, ParseException
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.web.arrival import MAX_BODY_BYTES, MAX_HEAD_BYTES, Arrival
from bridge.web.incoming import Incoming

pytestmark = pytest.mark.unit

LENGTH = b"POST / HTTP/1.1\r\nHost: x\r\ncontent-LENGTH : 11\r\n\r\nhello world"
CHUNKED = (
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;name=value\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
)
# the data look like the end of the body
TRICKY = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nA\r\n123\r\n0\r\n\r\n\r\n0\r\n\r\n"
TRAILERS = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nA: b\r\nC: d\r\n\r\n"
# zeros before a number mean nothing, however many
ZEROS = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"0" * 40 + b"5\r\n\r\nhello"
REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    LENGTH,
    CHUNKED,
    TRICKY,
    TRAILERS,
    ZEROS,
]


@given(st.sampled_from(REQUESTS), st.lists(st.integers(0, 200)))
def test_a_request_is_whole_at_its_last_byte_however_it_is_cut(request_bytes, cuts):
    places = sorted({min(cut, len(request_bytes) - 1) for cut in cuts} | {0, len(request_bytes) - 1})
    arrival = Arrival()
    for begin, end in zip([0, *places], [*places, len(request_bytes)], strict=True):
        assert not arrival.is_whole
        arrival.add(request_bytes[begin:end])
    assert (arrival.is_whole, arrival.is_cut) == (True, False)
    assert arrival.received == request_bytes


@pytest.mark.parametrize("request_bytes", REQUESTS)
def test_what_follows_a_request_does_not_matter(request_bytes):
    arrival = Arrival()
    arrival.add(request_bytes + b"GET / HT")
    assert (arrival.is_whole, arrival.is_cut) == (True, False)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1),
        b"POST / HTTP/1.1\r\nContent-Length: " + b"1" * 19 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: " + b"1" * 5000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % (MAX_BODY_BYTES + 1),
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfive\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 300,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * MAX_HEAD_BYTES,
    ],
)
def test_what_nobody_takes_is_not_waited_for(request_bytes):
    arrival = Arrival()
    arrival.add(request_bytes)
    assert (arrival.is_whole, arrival.is_cut) == (True, True)


def test_a_head_without_an_end_is_oversized():
    arrival = Arrival()
    arrival.add(b"GET / HTTP/1.1\r\nA: " + b"b" * MAX_HEAD_BYTES)
    assert (arrival.is_whole, arrival.is_oversized) == (False, True)


@pytest.mark.parametrize(("version", "expects"), [(b"1.1", True), (b"1.0", False)])
def test_it_tells_whether_the_sender_waits_for_100_continue(version, expects):
    arrival = Arrival()
    arrival.add(b"POST / HTTP/%b\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n" % version)
    assert (arrival.expects_continue, arrival.has_head, arrival.is_whole) == (expects, True, False)


def test_line_ends_before_a_request_are_not_the_beginning_of_one():
    arrival = Arrival()
    for data in (b"\r\n", b"\r", b"\n", b"\r\n" + LENGTH):
        assert not arrival.received
        arrival.add(data)
    assert (arrival.is_whole, arrival.received) == (True, LENGTH)


HEADERS = st.sampled_from(
    [
        b"Host: x",
        b"Content-Length: 3",
        b"content-length:11",
        b"Content-Length: 0",
        b"Content-Length: +3",
        b"Content-Length: -1",
        b"Content-Length: 3, 3",
        b"Content-Length : 3",
        b"Content-Length:\x0b3",
        b"Transfer-Encoding: chunked",
        b"transfer-encoding:  CHUNKED\t",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding:",
        b"X-Folded: a\r\n Transfer-Encoding: chunked",
        b"X-Folded: a\r\n\tContent-Length: 3",
        b"Content-Length:\r\n 3",
        b"X: \nContent-Length: 3",
    ]
)
LINES = st.sampled_from(
    [b"POST / HTTP/1.1", b"GET / HTTP/1.1", b"POST / HTTP/1.0", b"POST /", b"\nPOST / HTTP/1.1"]
)
BODIES = st.sampled_from(
    [
        b"",
        b"abc",
        b"hello world",
        b"3\r\nabc\r\n0\r\n\r\n",
        b"03;a=b\r\nabc\r\n00\r\nA: b\r\n\r\n",
        b"3 \r\nabc\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"0\r\n\r\n",
    ]
)
BEHIND = b"z" * 64


def bytes_taken(sent):
    """How many bytes gunicorn's parser takes for one request; None if it refuses it."""
    incoming = Incoming()
    incoming.feed(sent)
    parser = http.get_parser(Config(), incoming, ("127.0.0.1", 1))
    try:
        next(parser).body.read()
    except (ParseException, NoMoreData, StopIteration):
        return None
    return len(sent) - len(parser.unreader.take_buffered()) - len(incoming.take_rest())


@given(LINES, st.lists(HEADERS, max_size=3), BODIES)
@example(b"POST / HTTP/1.1", [b"Content-Length: 3"], b"abc")
@example(b"POST / HTTP/1.1", [b"Transfer-Encoding: chunked"], b"3\r\nabc\r\n0\r\n\r\n")
def test_a_request_has_arrived_exactly_when_the_parser_has_all_of_it(line, headers, body):
    """Later, a good request would end in 408; earlier, half a body would be taken for a whole one."""
    sent = b"\r\n".join([line, *headers, b"", b""]) + body
    taken = bytes_taken(sent + BEHIND)
    if taken is None or taken > len(sent):
        return
    arrival = Arrival()
    arrival.add(sent[: taken - 1])
    assert not arrival.is_whole
    arrival.add(sent[taken - 1 : taken])
    assert arrival.is_whole
