"""Whose address a request counts for: told by the proxies in front of us, never by the caller.

Google's front ends each append the address that called them to `X-Forwarded-For`
(cloud.google.com/load-balancing/docs/https#x-forwarded-for_header); what a caller has written stands before
that. Behind API Gateway the last entry is Google's own, and the one before it the caller
(GoogleCloudPlatform/esp-v2#140).

With a load balancer in front of API Gateway, which keeps its own public address, the number of entries
depends on the way that a request has come. The load balancer therefore sets two headers, whatever the caller
sent (terraform/load-balancer.tf): a key that only it knows, and the caller's address.
"""

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

import structlog
from werkzeug.datastructures import Headers

from bridge.errors import RejectedError

FORWARDED_FOR = "X-Forwarded-For"
EDGE_KEY = "X-Edge-Key"
EDGE_CLIENT_ADDRESS = "X-Edge-Client-Address"
# An IPv6 customer has a whole network of this size.
IPV6_PREFIX_BITS = 64
# Google's front ends, never a caller (cloud.google.com/load-balancing/docs/https#firewall-rules), and the
# IPv6 network that calls ESPv2.
PROXIES = tuple(map(ipaddress.ip_network, ("35.191.0.0/16", "130.211.0.0/22", "2600:1900:2000::/48")))

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CallerAddress:
    """`hops`: entries at the end of X-Forwarded-For that stand for the caller and our own proxies.

    `edge_key`: the load balancer's, None without one.
    """

    hops: int
    edge_key: bytes | None = None

    def of(self, headers: Headers | Mapping[str, str], peer: str | None) -> str:
        """Return the caller's address, of IPv6 its network.

        RejectedError (404) for a request that has come past the load balancer.
        """
        if self.edge_key is not None:
            if not hmac.compare_digest(headers.get(EDGE_KEY, "").encode(), self.edge_key):
                raise RejectedError("not-found", 404, "Tokens are given at the API's own address only.")
            return _normal(headers.get(EDGE_CLIENT_ADDRESS, ""), peer)
        entries = [entry.strip() for entry in headers.get(FORWARDED_FOR, "").split(",") if entry.strip()]
        seen = entries[-self.hops] if 0 < self.hops <= len(entries) else peer or ""
        found = _normal(seen, peer)
        if self.hops and _is_a_proxy(seen):
            # everybody would be counted as one caller
            _log.warning("caller address is a proxy's", hops=self.hops, entries=len(entries))
        return found


def _normal(address: str, peer: str | None) -> str:
    try:
        parsed = ipaddress.ip_address(address or peer or "")
    except ValueError:
        return peer or "unknown"
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, IPV6_PREFIX_BITS), strict=False))
    return str(parsed)


def _is_a_proxy(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed.is_link_local or any(parsed in network for network in PROXIES)
