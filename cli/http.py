"""How the commands speak HTTP: to services of this machine past any proxy, and every failure in one line."""

import ipaddress
from typing import Any
from urllib.parse import urlsplit

import click
import requests


class NoAnswerError(click.ClickException):
    """Nobody answered."""


def call(method: str, base_url: str, path: str, **options: Any) -> requests.Response:
    """Return whatever is answered, redirects too. NoAnswerError says why there is no answer."""
    if not is_address(base_url):
        raise NoAnswerError(f"{base_url} is not an http or https address")
    try:
        with requests.Session() as session:
            # HTTP_PROXY and the like are for other machines
            session.trust_env = not is_local(base_url)
            return session.request(method, base_url.rstrip("/") + path, allow_redirects=False, **options)
    except (requests.RequestException, UnicodeError) as error:
        raise NoAnswerError(f"{base_url} does not answer ({type(error).__name__})") from error


def json_of(answer: requests.Response) -> Any:
    """Return the answer's JSON, None for an empty one. NoAnswerError for what is no JSON."""
    try:
        return answer.json() if answer.content else None
    except ValueError as error:
        raise NoAnswerError(f"{answer.url} answered {answer.status_code} without JSON") from error


def is_address(url: str) -> bool:
    """Whether the text is the address of a host by http or https."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:  # half an IPv6 address
        return False


def is_local(url: str) -> bool:
    """Tell whether the address is this machine's."""
    if not is_address(url):
        return False
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
