"""Where a webhook may go: never to private, loopback, link-local, metadata or otherwise special addresses.

The address that was checked is the one that is connected to, so a name that resolves differently a moment
later (DNS rebinding) changes nothing.
"""

import ipaddress
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from bridge.environment import on_cloud_run
from bridge.errors import SettingsError

Resolver = Callable[[str, int], list[str]]

# Global unicast; what is outside is reserved, local, or carries an IPv4 address (NAT64, mapped, compatible).
_IPV6_GLOBAL = ipaddress.IPv6Network("2000::/3")
# Within it, and not to be called: Teredo and IETF protocols, documentation, 6to4.
_IPV6_SPECIAL = tuple(
    ipaddress.IPv6Network(net) for net in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)
# IETF protocols (DS-Lite among them) and the former 6to4 anycast, which Python's table lets through.
_IPV4_SPECIAL = tuple(ipaddress.IPv4Network(net) for net in ("192.0.0.0/24", "192.88.99.0/24"))
# Forms of an IPv4 address that only some parsers take for one: decimal, octal, hexadecimal, shortened.
_NUMERIC_HOST = re.compile(r"(?i)(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*\.?")
MAX_HOST_CHARACTERS = 253


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
    if not parts.hostname or port == 0 or len(parts.hostname) > MAX_HOST_CHARACTERS:
        raise ForbiddenUrlError("no host or no port")
    if parts.username is not None or parts.password is not None:
        raise ForbiddenUrlError("credentials in the URL")
    _require_plain(url, parts.hostname)
    if parts.scheme == "https":
        return
    if parts.scheme != "http" or not (allow_http_loopback and _is_loopback_name(parts.hostname)):
        raise ForbiddenUrlError("not https")


def _require_plain(url: str, host: str) -> None:
    """Refuse what parsers disagree on: characters that mean nothing in a URL, addresses in odd forms."""
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise ForbiddenUrlError("a character that a URL does not have; write international names as xn--…")
    if _NUMERIC_HOST.fullmatch(host) and not _is_dotted_quad(host):
        raise ForbiddenUrlError("an address that is not written as four decimal numbers")
    if "%" in host:
        raise ForbiddenUrlError("an escaped host or a zone")


def _is_dotted_quad(host: str) -> bool:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def resolve(host: str, port: int) -> list[str]:
    """Return the host's addresses by the system's resolver; UnresolvableHostError if there is none."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UnresolvableHostError("the host's name does not resolve") from error
    return [str(address[0]) for *_, address in found]


def check_addresses(addresses: Sequence[str], *, allow_loopback: bool, only_loopback: bool = False) -> None:
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
    if isinstance(ip, ipaddress.IPv6Address):
        if ip not in _IPV6_GLOBAL or any(ip in network for network in _IPV6_SPECIAL):
            return False
    elif any(ip in network for network in _IPV4_SPECIAL):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def http_loopback(environ: Mapping[str, str]) -> bool:
    """Read WEBHOOK_ALLOW_HTTP_LOOPBACK, which the local stack sets and Cloud Run refuses."""
    value = environ.get("WEBHOOK_ALLOW_HTTP_LOOPBACK", "false")
    if value not in ("true", "false"):
        raise SettingsError("WEBHOOK_ALLOW_HTTP_LOOPBACK is neither true nor false")
    if value == "true" and on_cloud_run(environ):
        raise SettingsError("WEBHOOK_ALLOW_HTTP_LOOPBACK is not allowed on Cloud Run")
    return value == "true"


def _is_loopback_name(host: str) -> bool:
    """Whether http may go there; what the name resolves to is checked again when connecting."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
