"""Where a webhook may go: never to private, loopback, link-local, metadata or otherwise special addresses.

The address that was checked is the one that is connected to, so a name that resolves differently a moment
later (DNS rebinding) changes nothing.
"""

import ipaddress
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

Resolver = Callable[[str, int], list[str]]

# These carry an IPv4 address inside an IPv6 one that looks public: 6to4, Teredo, NAT64.
_EMBEDDING = tuple(ipaddress.IPv6Network(net) for net in ("2002::/16", "2001::/32", "64:ff9b::/96"))


class UnresolvableHostError(OSError):
    """The host's name has no address now."""


class ForbiddenAddressError(OSError):
    """The host has an address that webhooks are not sent to. An OSError, as a failed connection is."""


class ForbiddenUrlError(ValueError):
    """The URL's form is not allowed: only https, no credentials, a host."""


def check_url(url: str, *, allow_http_loopback: bool) -> None:
    """Raise ForbiddenUrlError unless the URL may be called at all; with the setting, http to loopback too."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ForbiddenUrlError("not a URL") from error
    if not parts.hostname or port == 0:
        raise ForbiddenUrlError("no host or no port")
    if parts.username is not None or parts.password is not None:
        raise ForbiddenUrlError("credentials in the URL")
    if parts.scheme == "https":
        return
    if parts.scheme != "http" or not (allow_http_loopback and _is_loopback_name(parts.hostname)):
        raise ForbiddenUrlError("not https")


def resolve(host: str, port: int) -> list[str]:
    """Return the host's addresses by the system's resolver; UnresolvableHostError if there is none."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UnresolvableHostError("the host's name does not resolve") from error
    return [str(address[0]) for *_, address in found]


def check_addresses(addresses: list[str], *, allow_loopback: bool, only_loopback: bool = False) -> None:
    """Raise ForbiddenAddressError unless every one of the addresses may be called.

    One bad address spoils the name: which of several is taken must not be the receiver's choice.
    `only_loopback` is for http, which may go nowhere else.
    """
    for address in addresses:
        ip = ipaddress.ip_address(address)
        if ip.is_loopback and allow_loopback:
            continue
        if only_loopback or not _is_public(ip):
            raise ForbiddenAddressError("the host has an address that webhooks are not sent to")


def _is_public(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(ip, ipaddress.IPv6Address) and any(ip in network for network in _EMBEDDING):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def _is_loopback_name(host: str) -> bool:
    """Whether http may go there; what the name resolves to is checked again when connecting."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
