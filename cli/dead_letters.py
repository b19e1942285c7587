"""`bridge dead-letters`: messages that no service took, and what to make of them."""

from typing import Any

import click

from cli.api import Api
from cli.backoffice import backoffice_url, connected
from cli.options import reason
from cli.screen import as_json, print_json, print_table

STATUSES = ("open", "redriven", "discarded", "returned")
MAX_LISTED = 500

_number = click.argument("number", type=click.IntRange(1))


@click.group("dead-letters")
@backoffice_url
@click.pass_context
def dead_letters(context: click.Context, url: str) -> None:
    """Messages that no service took. An open one waits for an operator."""
    connected(context, url)


@dead_letters.command("list")
@click.option("--status", type=click.Choice((*STATUSES, "all")), default="open", show_default=True)
@click.option("--limit", type=click.IntRange(1, MAX_LISTED), default=100, show_default=True)
@as_json
@click.pass_obj
def list_dead_letters(api: Api, status: str, limit: int, as_json: bool) -> None:
    """Show dead letters, newest first."""
    wanted = None if status == "all" else status
    found = api.get("/admin/dead-letters", status=wanted, limit=limit).body["data"]
    if as_json:
        print_json(found)
        return
    columns = ("number", "status", "reason", "subscription", "operation_id", "received_at")
    print_table(columns, ([letter[column] for column in columns] for letter in found))


@dead_letters.command()
@_number
@click.pass_obj
def show(api: Api, number: int) -> None:
    """Print a dead letter as JSON: where it comes from, why, and what it is about."""
    print_json(api.get(f"/admin/dead-letters/{number}").body)


@dead_letters.command()
@_number
@reason
@as_json
@click.pass_obj
def redrive(api: Api, number: int, reason: str, as_json: bool) -> None:
    """Let the operation that the message was about go on. Repeating it changes nothing."""
    _close(api, number, "redrive", reason, as_json=as_json)


@dead_letters.command()
@_number
@reason
@as_json
@click.pass_obj
def discard(api: Api, number: int, reason: str, as_json: bool) -> None:
    """Close a dead letter without doing anything."""
    _close(api, number, "discard", reason, as_json=as_json)


def _close(api: Api, number: int, action: str, reason: str, *, as_json: bool) -> None:
    changed: dict[str, Any] = api.send("POST", f"/admin/dead-letters/{number}/{action}", reason=reason).body
    if as_json:
        print_json(changed)
        return
    unchanged = "" if changed["changed"] else " (unchanged)"
    click.echo(f"dead letter {number}: {changed['dead_letter']['status']}{unchanged}")
