"""A partner's document as operators see and send it: without what is secret, which stays where it is.

Client secrets' hashes and webhook secrets are never shown. A document that comes back leaves them out, and
the client or endpoint of that id keeps what it has; a new one has to bring its own, and a client that signs
(`public_keys`, which are shown) needs none. `"secret_hash": null` takes a client's secret away.
"""

import copy
import re
from collections.abc import Iterator
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey
from pydantic import ValidationError

from bridge.errors import FieldError, RejectedError
from bridge.mapping_check import first_mistake
from bridge.partner import ClientKey, EcClientKey, PartnerConfiguration

# PHC string format of argon2id; other hashes, and a secret pasted in clear, are refused
_ARGON2ID = re.compile(r"\$argon2id\$v=\d+\$m=\d+,t=\d+,p=\d+\$[A-Za-z0-9+/]{11,}\$[A-Za-z0-9+/]{20,}")
# pydantic names the kind of key that it took an item for; the document has no such level
_KINDS = ("RSA", "EC")
# list of the document, what identifies an item in it, its secret members
_SECRETS = (
    ("clients", "client_id", ("secret_hash",)),
    ("webhook_endpoints", "endpoint_id", ("secrets", "keys", "next_key")),
)


def shown(configuration: PartnerConfiguration) -> dict[str, Any]:
    """Return the document without its secrets."""
    document = configuration.model_dump(mode="json")
    for items, _, members in _SECRETS:
        for item in document[items]:
            for member in members:
                del item[member]
    return document


def read(
    body: Any, *, partner_id: str, version: int, base: PartnerConfiguration | None
) -> PartnerConfiguration:
    """Return the document that `body` describes; secrets that it leaves out come from `base`.

    It gets `version`, whatever version it came with: which one it replaces is said by If-Match.
    RejectedError (422) points at each mistake and repeats no value.
    """
    if not isinstance(body, dict):
        raise invalid(FieldError("", "must be an object"))
    if body.get("partner_id", partner_id) != partner_id:
        raise invalid(FieldError("/partner_id", "is not the partner of the path"))
    document = copy.deepcopy(body) | {"partner_id": partner_id, "version": version}
    if base is not None:
        _keep_secrets(document, base.model_dump(mode="json"))
    try:
        configuration = _validated(document, base)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        raise invalid(
            *(FieldError(_pointer(problem["loc"]), str(problem["msg"])) for problem in problems)
        ) from None
    unhashed = [
        FieldError(f"/clients/{index}/secret_hash", "is not an argon2id hash in PHC string format")
        for index, client in enumerate(configuration.clients)
        if client.secret_hash is not None and not _ARGON2ID.fullmatch(client.secret_hash)
    ]
    unusable = [
        FieldError(f"/clients/{index}/public_keys/{number}", "is not a public key: its numbers don't fit")
        for index, client in enumerate(configuration.clients)
        for number, key in enumerate(client.public_keys)
        if not _is_usable(key)
    ]
    unmappable = list(_mapping_mistakes(configuration))
    if unhashed or unusable or unmappable:
        raise invalid(*unhashed, *unusable, *unmappable)
    return configuration


def _validated(document: dict[str, Any], base: PartnerConfiguration | None) -> PartnerConfiguration:
    """Validate strictly, but keep what a newer release has put into the document that this one replaces."""
    standing = base.model_dump(mode="json") if base is not None else {}
    known = PartnerConfiguration.without_unknown(standing).model_dump(mode="json") if standing else {}
    PartnerConfiguration.model_validate(_without_unknown(document, standing, known))
    return PartnerConfiguration.read(document)


def _without_unknown(sent: Any, standing: Any, known: Any) -> Any:
    """Return what was sent without the members that stand there, are not `known` here, and were sent back."""
    if isinstance(sent, dict) and isinstance(standing, dict) and isinstance(known, dict):
        return {
            name: _without_unknown(value, standing.get(name), known.get(name))
            for name, value in sent.items()
            if name in known or name not in standing or standing[name] != value
        }
    if isinstance(sent, list) and isinstance(standing, list) and isinstance(known, list):
        padding = [None] * len(sent)
        rows = zip(sent, [*standing, *padding], [*known, *padding], strict=False)
        return [_without_unknown(*row) for row in rows]
    return sent


def _mapping_mistakes(configuration: PartnerConfiguration) -> Iterator[FieldError]:
    """Try each mapping on sample payments, so that a mistake is found here and not by the first payment."""
    places = {"": configuration.targets}
    for number, change in enumerate(configuration.dated_changes):
        places[f"/dated_changes/{number}"] = change.targets or {}
    for place, targets in places.items():
        for name, target in targets.items():
            for kind, mapping in target.mappings.items():
                mistake = first_mistake(mapping, kind)
                if mistake is not None:
                    pointer = f"{place}/targets/{name}/mappings/{kind}/{mistake.member}"
                    yield FieldError(pointer, mistake.why)


def _keep_secrets(document: dict[str, Any], base: dict[str, Any]) -> None:
    for items, identity, members in _SECRETS:
        kept = {item[identity]: {member: item[member] for member in members} for item in base[items]}
        sent = document.get(items)
        for item in sent if isinstance(sent, list) else []:
            if isinstance(item, dict) and isinstance(item.get(identity), str):
                for member, value in kept.get(item[identity], {}).items():
                    item.setdefault(member, value)


def _is_usable(key: ClientKey) -> bool:
    """Tell whether the JWK is a key, not only shaped like one: a point has to be on its curve."""
    members = key.model_dump(exclude_none=True)
    try:
        imported = ECKey.import_key(members) if isinstance(key, EcClientKey) else RSAKey.import_key(members)
    except (JoseError, ValueError):
        return False
    return imported.public_key is not None


def _pointer(location: tuple[int | str, ...]) -> str:
    """Return a JSON Pointer (RFC 6901)."""
    parts = [str(part) for part in location if part not in _KINDS]
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


def invalid(*errors: FieldError) -> RejectedError:
    """Return the 422 that points at each mistake."""
    return RejectedError("invalid-request", 422, "The document is not acceptable.", errors=errors)
