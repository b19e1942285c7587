"""Where a webhook may go."""

import pytest

from bridge.web.addresses import (
    ForbiddenAddressError,
    ForbiddenUrlError,
    UnresolvableHostError,
    check_addresses,
    check_url,
    resolve,
)

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",  # noqa: S104 - an address to refuse
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.2.1",
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:10.0.0.1",
        "::ffff:127.0.0.1",
        "2001:db8::1",
        "2001::1",
        "2002:7f00:1::",
        "64:ff9b::a9fe:a9fe",
        "fc00::1",
        "fe80::1",
        "fe80::1%eth0",
        "ff0e::1",
    ],
)
def test_special_addresses_are_refused(address):
    with pytest.raises(ForbiddenAddressError):
        check_addresses([address], allow_loopback=False)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.215.14", "2001:4860:4860::8888"])
def test_public_addresses_are_allowed(address):
    check_addresses([address], allow_loopback=False)


def test_one_bad_address_spoils_the_name():
    with pytest.raises(ForbiddenAddressError):
        check_addresses(["8.8.8.8", "10.0.0.1"], allow_loopback=False)


@pytest.mark.parametrize("address", ["10.0.0.1", "169.254.169.254", "0.0.0.0"])  # noqa: S104 - to refuse
def test_the_setting_allows_loopback_only(address):
    check_addresses(["127.0.0.1", "::1"], allow_loopback=True)
    with pytest.raises(ForbiddenAddressError):
        check_addresses([address], allow_loopback=True)


def test_http_goes_nowhere_but_to_loopback_whatever_the_name_resolves_to():
    with pytest.raises(ForbiddenAddressError):
        check_addresses(["8.8.8.8"], allow_loopback=True, only_loopback=True)


@pytest.mark.parametrize(
    "url",
    [
        "http://partner.example/hooks",
        "ftp://partner.example/",
        "file:///etc/passwd",
        "https://",
        "https:///hooks",
        "https://user@partner.example/",
        "https://user:secret@partner.example/",
        "https://@partner.example/",
        "https://partner.example:0/",
        "https://partner.example:99999/",
        "https://[::1/",
        "partner.example/hooks",
        "",
    ],
)
@pytest.mark.parametrize("allow_http_loopback", [True, False])
def test_only_https_without_credentials_is_called(url, allow_http_loopback):
    with pytest.raises(ForbiddenUrlError):
        check_url(url, allow_http_loopback=allow_http_loopback)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8091/x", "http://localhost/x", "http://[::1]:80/x"])
def test_http_to_loopback_needs_the_setting(url):
    check_url(url, allow_http_loopback=True)
    with pytest.raises(ForbiddenUrlError):
        check_url(url, allow_http_loopback=False)


def test_https_with_a_port_and_a_query_is_fine():
    check_url("https://partner.example:8443/hooks?x=1", allow_http_loopback=False)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70 + ".example", ""])
def test_a_name_that_is_none_is_unresolvable(host, monkeypatch):
    if host.endswith(".invalid"):
        # no question leaves the machine: the resolver's answer to such a name is known (RFC 6761)
        monkeypatch.setattr("socket.getaddrinfo", _no_such_name)
    if host:
        with pytest.raises(UnresolvableHostError):
            resolve(host, 443)


def _no_such_name(*_arguments, **_options):
    import socket  # noqa: PLC0415 - used here only

    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_an_address_resolves_to_itself(address):
    assert resolve(address, 443) == [address]
