"""Whether webhooks may go to a URL, judged when it is registered (and again at every attempt)."""

from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from urllib.parse import urlsplit

from bridge.errors import FieldError, RejectedError
from bridge.web.addresses import (
    ForbiddenAddressError,
    ForbiddenUrlError,
    Resolver,
    UnresolvableHostError,
    check_addresses,
    check_url,
)
from gateway.payment_request import invalid_request

# A name server that does not answer must not keep the gateway's threads.
RESOLVE_TIMEOUT_SECONDS = 3.0
RESOLVING_THREADS = 4
HTTPS_PORT = 443


class WebhookTarget:
    """Thread-safe. `allow_http_loopback`: for the local stack."""

    def __init__(self, resolver: Resolver, *, allow_http_loopback: bool) -> None:
        self._resolver = resolver
        self._allow_http_loopback = allow_http_loopback
        self._pool = ThreadPoolExecutor(RESOLVING_THREADS, thread_name_prefix="resolver")

    def require(self, url: str) -> None:
        """422 unless webhooks may be sent there."""
        try:
            check_url(url, allow_http_loopback=self._allow_http_loopback)
            parts = urlsplit(url)
            addresses = self._resolve(parts.hostname or "", parts.port or HTTPS_PORT)
            check_addresses(
                addresses, allow_loopback=self._allow_http_loopback, only_loopback=parts.scheme == "http"
            )
        except ForbiddenUrlError as error:
            raise _refused(f"can't be used: {error}") from error
        except UnresolvableHostError as error:
            raise _refused("has a host that does not resolve") from error
        except ForbiddenAddressError as error:
            raise _refused("has a host whose address is not public") from error

    def _resolve(self, host: str, port: int) -> list[str]:
        asked = self._pool.submit(self._resolver, host, port)
        try:
            addresses = asked.result(RESOLVE_TIMEOUT_SECONDS)
        except FutureTimeoutError as error:
            asked.cancel()
            raise UnresolvableHostError("the host's name does not resolve in time") from error
        if not addresses:
            raise UnresolvableHostError("the host's name has no address")
        return addresses


def _refused(detail: str) -> RejectedError:
    return invalid_request([FieldError("/url", detail)])
