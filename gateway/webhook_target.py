"""Whether webhooks may go to a URL, judged when it is registered (and again at every attempt)."""

from urllib.parse import urlsplit

from bridge.errors import FieldError, RejectedError, TransientError
from bridge.web.addresses import (
    ForbiddenAddressError,
    ForbiddenUrlError,
    Resolver,
    UnresolvableHostError,
    check_addresses,
    check_url,
)
from bridge.web.name_lookup import LookupTimeoutError, NameLookup
from gateway.payment_request import invalid_request

# A name server that does not answer must not keep the gateway's threads.
RESOLVE_TIMEOUT_SECONDS = 3.0
RESOLVING_THREADS = 4
HTTPS_PORT = 443


class WebhookTarget:
    """Thread-safe. `allow_http_loopback`: for the local stack."""

    def __init__(self, resolver: Resolver, *, allow_http_loopback: bool) -> None:
        self._lookup = NameLookup(resolver, threads=RESOLVING_THREADS)
        self._allow_http_loopback = allow_http_loopback

    def require(self, url: str) -> None:
        """422 unless webhooks may be sent there; TransientError if the host's name can't be looked up now."""
        try:
            check_url(url, allow_http_loopback=self._allow_http_loopback)
            parts = urlsplit(url)
            addresses = self._lookup.addresses(
                parts.hostname or "", parts.port or HTTPS_PORT, RESOLVE_TIMEOUT_SECONDS
            )
            check_addresses(
                addresses, allow_loopback=self._allow_http_loopback, only_loopback=parts.scheme == "http"
            )
        except ForbiddenUrlError as error:
            raise _refused(f"can't be used: {error}") from error
        except UnresolvableHostError as error:
            raise _refused("has a host that does not resolve") from error
        except LookupTimeoutError as error:
            raise _refused("has a host that does not resolve in time") from error
        except ForbiddenAddressError as error:
            raise _refused("has a host whose address is not public") from error
        except OSError as error:
            raise TransientError("no name can be looked up now") from error


def _refused(detail: str) -> RejectedError:
    return invalid_request([FieldError("/url", detail)])
