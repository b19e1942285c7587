"""One HTTP request to a partner's endpoint: bounded in time and bytes, no redirects, checked addresses.

bridge.web.transport bounds the whole call and reads past informational responses. Of `requests` only the
transport is used: the cookies, redirects, proxies and defaults of its session are all unwanted here, and cost
more than the rest of a request.
"""

import contextlib
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import requests
from requests.structures import CaseInsensitiveDict

from bridge.clock import Clock
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
from bridge.web.transport import BoundedAdapter, Call
from webhooks.retries import read_retry_after

CONNECT_TIMEOUT_SECONDS = 5.0
MAX_ANSWER_BYTES = 64 * 1024
READ_BYTES = 4096
MAX_HOSTS_POOLED = 100


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
        self._resolver = resolver
        self._adapter = BoundedAdapter(
            Deadlines(timeout_seconds),
            max_hosts=MAX_HOSTS_POOLED,
            max_connections=max_connections,
            open_socket=self._open_socket,
        )
        # the public authorities; no environment has a say in it
        self._verify: bool | str = True

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send once; never raises for what the receiver, its name or the network does."""
        try:
            check_url(url, allow_http_loopback=self._allow_http_loopback)
        except ForbiddenUrlError:
            return Answer(None, "forbidden-url")
        try:
            with self._adapter.call() as call:
                try:
                    return self._exchange(url, body, headers, call)
                except (requests.RequestException, OSError, ValueError) as error:
                    return Answer(None, "timeout" if call.deadline.has_passed else _class_of(error))
        except UnwatchedCallError:
            return Answer(None, "connection-failed")

    def close(self) -> None:
        self._adapter.close()

    def _exchange(self, url: str, body: bytes, headers: Mapping[str, str], call: Call) -> Answer:
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
        self, host: str, port: int, *, is_plain: bool, connect_seconds: float, deadline: Deadline
    ) -> socket.socket:
        """Connect to one of the host's addresses, all of which have been checked."""
        addresses = self._resolver(host, port)
        check_addresses(addresses, allow_loopback=self._allow_http_loopback, only_loopback=is_plain)
        failure: OSError = UnresolvableHostError("the host's name has no address")
        for address in addresses:
            deadline.check()
            try:
                return socket.create_connection((address, port), timeout=connect_seconds)
            except OSError as error:
                failure = error
        raise failure


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


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what it wraps: requests and urllib3 hand the cause on in several ways."""
    seen: set[int] = set()
    pending = [error]
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        inner = (current.__cause__, current.__context__, getattr(current, "reason", None), *current.args)
        pending.extend(cause for cause in inner if isinstance(cause, BaseException))


def _class_of(error: BaseException) -> str:
    """Say in one word what went wrong; no text of the error, which may quote the receiver."""
    causes = list(_causes(error))
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
        if any(isinstance(cause, kind) for cause in causes):
            return name
    return "connection-failed" if isinstance(error, requests.ConnectionError) else "unreadable-answer"
