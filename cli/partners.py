"""`bridge partners`: bring a partner in, change it, take its access away."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click

from bridge.ids import new_id
from cli.api import Api
from cli.clients import clients
from cli.documents import read_document
from cli.endpoints import endpoints
from cli.local_stack import local_url
from cli.mapping import mapping
from cli.options import partner_id_argument, reason
from cli.screen import as_json, print_json, print_table

LOCAL_URL = local_url("partners")

_from = click.option("--from", "effective_from", help="A date and time with its offset; now if left out.")


@click.group()
@click.option("--url", envvar="BRIDGE_PARTNERS_URL", default=LOCAL_URL, show_default="the local stack's")
@click.pass_context
def partners(context: click.Context, url: str) -> None:
    """Partners and their configuration."""
    context.obj = Api(url)


partners.add_command(clients)
partners.add_command(endpoints)
partners.add_command(mapping)


@partners.command("list")
@as_json
@click.pass_obj
def list_partners(api: Api, as_json: bool) -> None:
    """Show all partners."""
    found = list(_all(api))
    if as_json:
        print_json(found)
    else:
        columns = ("partner_id", "name", "status", "version")
        print_table(columns, ([partner[column] for column in columns] for partner in found))


@partners.command()
@partner_id_argument
@click.pass_obj
def show(api: Api, partner_id: str) -> None:
    """Print the partner's document as JSON, without its secrets."""
    print_json(api.get(f"/admin/partners/{partner_id}").body)


@partners.command()
@click.pass_obj
def schema(api: Api) -> None:
    """Print the JSON Schema of a partner's document."""
    print_json(api.get("/admin/partner-schema").body)


@partners.command("explain-route")
@partner_id_argument
@click.argument("amount")
@click.argument("currency")
@as_json
@click.pass_obj
def explain_route(api: Api, partner_id: str, amount: str, currency: str, as_json: bool) -> None:
    """Say where a payment of AMOUNT (1250.00) in CURRENCY (EUR) would be posted, and which rule says so.

    A payment that was accepted earlier stays where it was routed to then.
    """
    found = api.get(f"/admin/partners/{partner_id}/route", amount=amount, currency=currency.upper()).body
    if as_json:
        print_json(found)
        return
    by = f"rule {found['rule']}" if found["rule"] else "the default: no rule matches"
    click.echo(
        f"{found['target']}: SAP system {found['sap_system']}, company code {found['company_code']}, by {by}"
    )
    click.echo(f"operations mapped there: {', '.join(found['mapped_kinds']) or 'none'}")
    if found["considered"]:
        print_table(
            ("rule", "matches", "because"),
            ((one["rule"], "yes" if one["matches"] else "no", one["because"]) for one in found["considered"]),
        )


@partners.command()
@click.argument("document", type=click.File("rb"), default="-")
@click.option("--name", help="In place of the document's name.")
@reason
@click.pass_obj
def create(api: Api, document: Any, name: str | None, reason: str) -> None:
    """Make a partner of a DOCUMENT (a JSON file, or - for standard input) and print its id.

    The document is as `show` prints it; `partner_id`, `version`, `status` and `clients` may be left out.
    Access comes with `bridge partners clients add`.
    """
    body = {"status": "active", "clients": [], **read_document(document), **({"name": name} if name else {})}
    partner_id = body.get("partner_id") or new_id("par", datetime.now(UTC))
    # the id is ours, so that a creation whose answer was lost is not made twice
    made = api.send(
        "PUT", f"/admin/partners/{partner_id}", body, reason=reason, headers={"If-None-Match": "*"}
    )
    click.echo(made.body["partner_id"])


@partners.command()
@partner_id_argument
@click.argument("document", type=click.File("rb"), default="-")
@reason
@click.pass_obj
def update(api: Api, partner_id: str, document: Any, reason: str) -> None:
    """Replace the partner's document by an edited one (a JSON file, or - for standard input).

    It is the one that `show` has printed, edited: its `version` says what it replaces, and a change that
    somebody else has made since is not overwritten.
    """
    body = read_document(document)
    version = body.get("version")
    if not isinstance(version, int):
        raise click.ClickException("the document has no version: edit what `bridge partners show` prints")
    changed = api.send(
        "PUT", f"/admin/partners/{partner_id}", body, reason=reason, headers={"If-Match": f'"{version}"'}
    )
    click.echo(f"{partner_id} is at version {changed.version}")


@partners.command()
@partner_id_argument
@_from
@reason
@click.pass_obj
def suspend(api: Api, partner_id: str, effective_from: str | None, reason: str) -> None:
    """Refuse the partner's requests. What was accepted goes on and is told."""
    _change_status(api, partner_id, "suspended", effective_from, reason)


@partners.command()
@partner_id_argument
@_from
@reason
@click.pass_obj
def resume(api: Api, partner_id: str, effective_from: str | None, reason: str) -> None:
    """Take the partner's requests again."""
    _change_status(api, partner_id, "active", effective_from, reason)


@partners.command()
@partner_id_argument
@reason
@click.pass_obj
def hold(api: Api, partner_id: str, reason: str) -> None:
    """Accept the partner's payments and post none of them, until `release`. What SAP has already goes on."""
    _change_posting(api, partner_id, "held", reason)


@partners.command()
@partner_id_argument
@reason
@click.pass_obj
def release(api: Api, partner_id: str, reason: str) -> None:
    """Post the partner's payments again; what was held goes on by itself."""
    _change_posting(api, partner_id, "active", reason)


def _change_posting(api: Api, partner_id: str, posting: str, reason: str) -> None:
    path = f"/admin/partners/{partner_id}/posting"
    changed = api.send("PUT", path, {"posting": posting}, reason=reason)
    click.echo(f"postings of {partner_id} are {posting}, at version {changed.version}")


def _change_status(api: Api, partner_id: str, status: str, effective_from: str | None, reason: str) -> None:
    wanted = {"status": status, "effective_from": effective_from}
    changed = api.send("PUT", f"/admin/partners/{partner_id}/status", wanted, reason=reason)
    since = f" from {effective_from} on" if effective_from else ""
    click.echo(f"{partner_id} is {status}{since}, at version {changed.version}")


def _all(api: Api) -> Iterator[dict[str, Any]]:
    after = None
    while True:
        page = api.get("/admin/partners", after=after).body
        yield from page["data"]
        after = page["next_after"]
        if after is None:
            return
