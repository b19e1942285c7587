"""One HTTP request to a partner's endpoint: bounded in time and bytes, no redirects, checked addresses.

bridge.web.transport bounds the whole call and reads past informational responses. Of `requests` only the
transport is used: the cookies, redirects, proxies and defaults of its session are all unwanted here, and cost
more than the rest of a request.
"""

import contextlib
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import requests
from requests.structures import CaseInsensitiveDict

from bridge.clock import Clock
from bridge.errors import TransientError
from bridge.web.addresses import (
    ForbiddenAddressError,
    ForbiddenUrlError,
    Resolver,
    UnresolvableHostError,
    check_addresses,
    check_url,
    resolve,
)
from bridge.web.deadlines import Deadline, DeadlinePassedError, Deadlines, UnwatchedCallError
from bridge.web.transport import BoundedAdapter, Call, causes, connect, own_shortage
from webhooks.retries import read_retry_after

CONNECT_TIMEOUT_SECONDS = 5.0
MAX_ANSWER_BYTES = 64 * 1024
READ_BYTES = 4096
MAX_HOSTS_POOLED = 100
_CLOSED = (ConnectionResetError, BrokenPipeError, ConnectionAbortedError)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an attempt came to: `status` where the receiver answered, else the `error_class`.

    An answer that is not 2xx has both. `retry_after_seconds` is the receiver's wish, if it has one. `body` is
    how its body begins, up to MAX_ANSWER_BYTES.
    """

    status: int | None
    error_class: str | None
    retry_after_seconds: float | None = None
    body: bytes = b""

    @property
    def is_success(self) -> bool:
        return self.error_class is None


class Sender:
    """POSTs webhooks over pooled connections. Thread-safe; made after the fork."""

    def __init__(
        self,
        clock: Clock,
        *,
        timeout_seconds: float,
        allow_http_loopback: bool,
        max_connections: int,
        resolver: Resolver = resolve,
    ) -> None:
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._allow_http_loopback = allow_http_loopback
        self._adapter = BoundedAdapter(
            Deadlines(timeout_seconds),
            max_hosts=MAX_HOSTS_POOLED,
            max_connections=max_connections,
            open_socket=self._open_socket,
            resolver=resolver,
        )
        # the public authorities; no environment has a say in it
        self._verify: bool | str = True

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send once; what the receiver, its name or the network does is an Answer.

        TransientError if this process has no descriptor, memory or thread left for it: nothing was sent.
        """
        try:
            check_url(url, allow_http_loopback=self._allow_http_loopback)
        except ForbiddenUrlError:
            return Answer(None, "forbidden-url")
        try:
            with self._adapter.call() as call:
                try:
                    return self._exchange(url, body, headers, call)
                except (requests.RequestException, OSError, ValueError) as error:
                    if not call.may_have_arrived and own_shortage(error) is not None:
                        raise TransientError("no connection can be opened") from error
                    return Answer(None, "timeout" if call.deadline.has_passed else _class_of(error))
        except UnwatchedCallError as error:
            raise TransientError("no thread can be started") from error

    def close(self) -> None:
        self._adapter.close()

    def _exchange(self, url: str, body: bytes, headers: Mapping[str, str], call: Call) -> Answer:
        try:
            return self._send(url, body, headers, call)
        except requests.ConnectionError as error:
            # A kept connection that the receiver was just closing: no failure of its own, and if the request
            # has arrived after all, the receiver knows it by its webhook-id.
            if not call.on_kept_connection or not any(isinstance(each, _CLOSED) for each in causes(error)):
                raise
        return self._send(url, body, headers, call)

    def _send(self, url: str, body: bytes, headers: Mapping[str, str], call: Call) -> Answer:
        request = requests.PreparedRequest()
        request.method = "POST"
        request.prepare_url(url, None)
        request.headers = CaseInsensitiveDict({**headers, "Content-Length": str(len(body))})
        request.body = body
        timeout = (min(CONNECT_TIMEOUT_SECONDS, self._timeout_seconds), self._timeout_seconds)
        with self._adapter.send(
            request, stream=True, timeout=timeout, verify=self._verify, proxies={}
        ) as response:
            call.deadline.check()  # to http.client, headers that were cut off are complete
            answer = _answer_of(response, self._clock.now())
            return replace(answer, body=_read(response))

    def _open_socket(
        self,
        addresses: Sequence[str],
        port: int,
        *,
        is_plain: bool,
        connect_seconds: float,
        deadline: Deadline,
    ) -> socket.socket:
        """Connect to one of the host's addresses, all of which have been checked."""
        check_addresses(addresses, allow_loopback=self._allow_http_loopback, only_loopback=is_plain)
        return connect(addresses, port, is_plain=is_plain, connect_seconds=connect_seconds, deadline=deadline)


def _answer_of(response: requests.Response, now: datetime) -> Answer:
    error_class = None if 200 <= response.status_code < 300 else "http-status"
    wish = read_retry_after(response.headers.get("Retry-After"), now) if error_class else None
    return Answer(response.status_code, error_class, wish)


def _read(response: requests.Response) -> bytes:
    """Read the body, so that the connection can be used again; the status has decided already.

    What has come until the time is over, or until it is too much, is what there is.
    """
    body = bytearray()
    with contextlib.suppress(Exception):
        while piece := response.raw.read1(READ_BYTES, decode_content=False):
            body += piece
            if len(body) > MAX_ANSWER_BYTES:
                response.raw.close()
                break
    return bytes(body)


def _class_of(error: BaseException) -> str:
    """Say in one word what went wrong; no text of the error, which may quote the receiver."""
    found = list(causes(error))
    for kind, name in (
        (ForbiddenAddressError, "forbidden-address"),
        (UnresolvableHostError, "unresolvable-host"),
        (DeadlinePassedError, "timeout"),
        (requests.exceptions.SSLError, "tls-failed"),
        (TimeoutError, "timeout"),
        (requests.Timeout, "timeout"),
        (ConnectionError, "connection-failed"),
        (requests.exceptions.InvalidURL, "forbidden-url"),
    ):
        if any(isinstance(cause, kind) for cause in found):
            return name
    return "connection-failed" if isinstance(error, requests.ConnectionError) else "unreadable-answer"
