"""requests' sessions whose every request is bounded as a whole, for libraries that know nothing of a `call`.

The body is read within the same time, also where the caller asked for a stream.
"""

from typing import Any

import requests
from urllib3.util.retry import Retry

from bridge.web.deadlines import Deadlines
from bridge.web.transport import BoundedAdapter


def bounded_session(total_seconds: float, *, retry: Retry | None = None) -> requests.Session:
    """Return a session whose requests end after `total_seconds`, repetitions included.

    A pause of `retry` is its own backoff, whatever Retry-After says; the last one may end a little later.
    """
    return bound(requests.Session(), total_seconds, retry=retry)


def bound(session: requests.Session, total_seconds: float, *, retry: Retry | None = None) -> requests.Session:
    """The same for a session that a library has made. Behind a proxy only each wait is bounded."""
    adapter = _SelfBoundAdapter(total_seconds, retry)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class _SelfBoundAdapter(BoundedAdapter):
    """Begins a call by itself for each request."""

    def __init__(self, total_seconds: float, retry: Retry | None) -> None:
        self._own_deadlines = Deadlines(total_seconds)
        super().__init__(self._own_deadlines, max_hosts=1, max_connections=1)
        if retry is not None:
            # the other side's Retry-After would be slept through, up to hours, whatever the time that is left
            self.max_retries = retry.new(respect_retry_after_header=False)

    def send(self, request: requests.PreparedRequest, *arguments: Any, **options: Any) -> requests.Response:
        """See HTTPAdapter; a request whose time is over raises requests' Timeout."""
        try:
            with self.call() as call:
                try:
                    response = super().send(request, *arguments, **options)
                    _ = response.content
                    # a connection that was shut down ends headers and body as if they were complete
                    call.deadline.check()
                except OSError as error:
                    if call.deadline.has_passed or not isinstance(error, requests.RequestException):
                        raise requests.Timeout(error, request=request) from error
                    raise
                return response
        except requests.RequestException:
            raise
        except OSError as error:  # no thread to watch the time: nothing was sent
            raise requests.ConnectionError(error, request=request) from error

    def close(self) -> None:
        """End the threads too: a process may fork after it has closed its session."""
        super().close()
        self._own_deadlines.close()
