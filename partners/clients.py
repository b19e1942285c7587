"""The use cases: give a partner an OAuth2 client, take one away."""

import secrets
from dataclasses import dataclass
from typing import Any

from argon2 import PasswordHasher

from bridge.errors import FieldError, RejectedError
from bridge.partner import Client, PartnerConfiguration
from partners.change import Partners, Wish

SECRET_BYTES = 32
CLIENT_ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class AddedClient:
    """`client_secret` is shown this once; None for a client that signs with its own key."""

    client: Client
    client_secret: str | None


def add_client(partners: Partners, wish: Wish, wanted: dict[str, Any]) -> AddedClient:
    """Add a client with a secret of our making, or with the `public_keys` it brings.

    `wanted` may have `client_id`, `scopes`, `public_keys`. RejectedError as Partners.change, and 409
    `client-taken` if the partner has a client of that id.
    """
    unknown = sorted(set(wanted) - {"client_id", "scopes", "public_keys"})
    if unknown:
        errors = tuple(FieldError(f"/{name}", "is not known here") for name in unknown)
        raise RejectedError("invalid-request", 422, "The client is not acceptable.", errors=errors)
    client_id = wanted.get("client_id") or f"client-{secrets.token_hex(CLIENT_ID_BYTES)}"
    secret = None if wanted.get("public_keys") else secrets.token_urlsafe(SECRET_BYTES)
    secret_hash = PasswordHasher().hash(secret) if secret is not None else None

    def add(document: dict[str, Any]) -> None:
        if any(client["client_id"] == client_id for client in document["clients"]):
            raise RejectedError("client-taken", 409, "The partner has a client of that id already.")
        document["clients"].append({**wanted, "client_id": client_id, "secret_hash": secret_hash})

    changed = partners.amend(wish, "partner.add_client", add)
    return AddedClient(changed.clients[-1], secret)


def revoke_client(partners: Partners, wish: Wish, client_id: str) -> PartnerConfiguration:
    """Take the client's access away; its id stays taken. Doing it again changes nothing.

    RejectedError: 404, or as Partners.change.
    """
    standing = next((c for c in partners.show(wish.partner_id).clients if c.client_id == client_id), None)
    if standing is None:
        raise RejectedError("not-found", 404, "The partner has no such client.")
    if standing.status == "revoked":
        return partners.show(wish.partner_id)

    def revoke(document: dict[str, Any]) -> None:
        for client in document["clients"]:
            if client["client_id"] == client_id:
                client["status"] = "revoked"

    return partners.amend(wish, "partner.revoke_client", revoke)
