"""`bridge partners clients`: the OAuth2 clients by which a partner gets its tokens."""

from pathlib import Path
from typing import Any

import click

from cli.api import Api
from cli.documents import read_document
from cli.options import partner_id_argument, reason
from cli.screen import as_json, as_shell, print_json, print_shell, print_table


@click.group()
def clients() -> None:
    """A partner's OAuth2 clients. To rotate a secret, add a client and revoke the old one."""


@clients.command("list")
@partner_id_argument
@as_json
@click.pass_obj
def list_clients(api: Api, partner_id: str, as_json: bool) -> None:
    """Show the partner's clients."""
    found = api.get(f"/admin/partners/{partner_id}").body["clients"]
    if as_json:
        print_json(found)
    else:
        print_table(
            ("client_id", "status", "keys", "scopes"),
            (
                (each["client_id"], each["status"], len(each["public_keys"]), " ".join(each["scopes"]))
                for each in found
            ),
        )


@clients.command("add")
@partner_id_argument
@click.option("--client-id", help="Letters, digits, . _ and -; made up if left out.")
@click.option("--scope", "scopes", multiple=True, help="May be repeated; all scopes if left out.")
@click.option(
    "--public-keys",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A JWK set: the client signs (private_key_jwt) and has no secret.",
)
@reason
@as_shell
@click.pass_obj
def add_client(
    api: Api,
    partner_id: str,
    client_id: str | None,
    scopes: tuple[str, ...],
    public_keys: Path | None,
    reason: str,
    as_shell: bool,
) -> None:
    """Add a client and print it as JSON, with its secret: this once."""
    wanted: dict[str, Any] = {}
    if client_id:
        wanted["client_id"] = client_id
    if scopes:
        wanted["scopes"] = list(scopes)
    if public_keys:
        with public_keys.open("rb") as file:
            wanted["public_keys"] = read_document(file).get("keys")
    made = api.send("POST", f"/admin/partners/{partner_id}/clients", wanted, reason=reason).body
    if as_shell and made["client_secret"] is not None:
        print_shell({"BRIDGE_CLIENT_ID": made["client_id"], "BRIDGE_CLIENT_SECRET": made["client_secret"]})
    else:
        print_json(made)


@clients.command("revoke")
@partner_id_argument
@click.argument("client_id")
@reason
@click.pass_obj
def revoke_client(api: Api, partner_id: str, client_id: str, reason: str) -> None:
    """Take the client's access away, for good. Its tokens are refused within 30 seconds."""
    api.send("POST", f"/admin/partners/{partner_id}/clients/{client_id}/revocation", reason=reason)
    click.echo(f"{client_id} is revoked")
