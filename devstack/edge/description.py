"""Reads the API Gateway's description (OpenAPI 2.0 with Google's extensions) into what the edge needs of it.

https://docs.cloud.google.com/api-gateway/docs/oasv2-extensions. What the file could say but the edge would
not do is an error: it must not be found out in production.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import yaml

from devstack.preflight import StartError

METHODS = ("get", "put", "post", "delete", "options", "head", "patch")
DEFAULT_DEADLINE_SECONDS = 15.0
_VARIABLE = re.compile(r"\$\{([a-z_]+)\}")
_TEMPLATED_PATH = re.compile(r"(/([A-Za-z0-9._~-]+|\{[a-z_]+\}))+")


class DescriptionError(StartError):
    """The description says something that the edge can't do."""


@dataclass(frozen=True, slots=True)
class Address:
    """A plain HTTP server on the loopback interface, and a path on it ("" or with its slash)."""

    host: str
    port: int
    path: str

    @classmethod
    def of(cls, url: str, what: str) -> "Address":
        """DescriptionError for anything that would leave this machine."""
        parts = urlsplit(url)
        try:
            is_local = ipaddress.ip_address(parts.hostname or "").is_loopback
            port = parts.port
        except ValueError:
            is_local, port = False, None
        if parts.scheme != "http" or not is_local or port is None or parts.query or parts.fragment:
            raise DescriptionError(f"{what}: {url} is not http on a loopback address with a port")
        return cls(str(parts.hostname), port, parts.path)


@dataclass(frozen=True, slots=True)
class Provider:
    """Whose tokens are taken, and where they may stand."""

    name: str
    issuer: str
    audiences: tuple[str, ...]
    jwks: Address
    header: str
    value_prefix: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `provider` is the name of whose token it asks for; None: no token."""

    operation_id: str
    method: str
    path: str
    backend: Address
    deadline_seconds: float
    provider: str | None


@dataclass(frozen=True, slots=True)
class Description:
    operations: tuple[Operation, ...]
    providers: Mapping[str, Provider]


def fill_in(template: str, values: Mapping[str, str]) -> str:
    """Replace `${name}` as Terraform's templatefile does; DescriptionError for a name without a value."""

    def value_of(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in values:
            raise DescriptionError(f"the variable {name} has no value")
        return values[name]

    return _VARIABLE.sub(value_of, template)


def read_description(text: str) -> Description:
    """Read the filled-in file; DescriptionError says what in it is wrong or not supported."""
    document = yaml.safe_load(text)
    if not isinstance(document, dict) or document.get("swagger") != "2.0":
        raise DescriptionError("not an OpenAPI 2.0 document")
    if document.get("basePath", "/") != "/" or document.get("x-google-allow", "configured") != "configured":
        raise DescriptionError("basePath and x-google-allow are not supported")
    providers = {
        name: _provider(name, definition)
        for name, definition in document.get("securityDefinitions", {}).items()
    }
    operations = tuple(
        _operation(document, providers, path, method, item[method])
        for path, item in document["paths"].items()
        for method in METHODS
        if method in item
    )
    identifiers = [operation.operation_id for operation in operations]
    if len(set(identifiers)) < len(identifiers):
        raise DescriptionError("an operationId stands twice")
    return Description(operations, providers)


def _provider(name: str, definition: Mapping[str, Any]) -> Provider:
    locations = definition.get("x-google-jwt-locations", [])
    if len(locations) != 1 or "header" not in locations[0]:
        raise DescriptionError(f"{name}: x-google-jwt-locations does not name one header")
    return Provider(
        name=name,
        issuer=definition["x-google-issuer"],
        audiences=tuple(part.strip() for part in definition["x-google-audiences"].split(",")),
        jwks=Address.of(definition["x-google-jwks_uri"], "x-google-jwks_uri"),
        header=locations[0]["header"],
        value_prefix=locations[0].get("value_prefix", ""),
    )


def _operation(
    document: Mapping[str, Any],
    providers: Mapping[str, Provider],
    path: str,
    method: str,
    item: Mapping[str, Any],
) -> Operation:
    where = f"{method.upper()} {path}"
    if not _TEMPLATED_PATH.fullmatch(path):
        raise DescriptionError(f"{where}: a parameter is one whole segment, nothing else is supported")
    backend = item.get("x-google-backend", document.get("x-google-backend"))
    if backend is None:
        raise DescriptionError(f"{where}: no x-google-backend")
    # On an operation the default is another one, so it has to be said.
    translation = backend.get("path_translation")
    address = Address.of(backend["address"], f"{where}: x-google-backend")
    if translation != "APPEND_PATH_TO_ADDRESS" or address.path:
        raise DescriptionError(f"{where}: only APPEND_PATH_TO_ADDRESS to an address without a path")
    if backend.get("disable_auth") or not backend.get("jwt_audience"):
        raise DescriptionError(f"{where}: the gateway is not called without an identity token")
    return Operation(
        operation_id=item["operationId"],
        method=method.upper(),
        path=path,
        backend=address,
        deadline_seconds=float(backend.get("deadline", DEFAULT_DEADLINE_SECONDS)),
        provider=_required_provider(where, item.get("security", document.get("security", [])), providers),
    )


def _required_provider(
    where: str, security: list[Mapping[str, list[str]]], providers: Mapping[str, Provider]
) -> str | None:
    if not security:
        return None
    names = [name for requirement in security for name in requirement]
    if len(security) != 1 or len(names) != 1 or names[0] not in providers:
        raise DescriptionError(f"{where}: security does not name exactly one of the definitions")
    return names[0]
