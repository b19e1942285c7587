"""`bridge unplaced`: documents in SAP that a recovery could give no operation."""

import click

from cli.api import Api
from cli.backoffice import backoffice_url, connected
from cli.options import reason
from cli.screen import as_json, print_json, print_table

COLUMNS = ("sap_system", "company_code", "fiscal_year", "number", "amount", "kind", "external_id", "reason")

_document = click.argument("document", metavar="SAP_SYSTEM/COMPANY/YEAR/NUMBER")


@click.group()
@backoffice_url
@click.pass_context
def unplaced(context: click.Context, url: str) -> None:
    """Documents in SAP that a recovery could give no operation. They are booked."""
    connected(context, url)


@unplaced.command("list")
@as_json
@click.pass_obj
def list_unplaced(api: Api, as_json: bool) -> None:
    """Show the documents that wait for a decision."""
    found = api.get("/admin/unplaced-documents").body["data"]
    if as_json:
        print_json(found)
        return
    shown = ({**one, "amount": _amount(one["amount"])} for one in found)
    print_table(COLUMNS, ([one[column] for column in COLUMNS] for one in shown))


def _amount(amount: dict[str, str] | None) -> str | None:
    """None: the document can't be read."""
    return None if amount is None else f"{amount['value']} {amount['currency']}"


@unplaced.command()
@_document
@reason
@click.pass_obj
def accept(api: Api, document: str, reason: str) -> None:
    """Give the document its operation, when what stood in its way is gone. SAP is asked about it first."""
    _settle(api, document, "accept", reason)


@unplaced.command()
@_document
@reason
@click.pass_obj
def dismiss(api: Api, document: str, reason: str) -> None:
    """Take the document off the list: it is not ours, or was dealt with in SAP."""
    _settle(api, document, "dismiss", reason)


def _settle(api: Api, document: str, action: str, reason: str) -> None:
    if document.count("/") != 3:
        raise click.UsageError("name the document as SAP_SYSTEM/COMPANY/YEAR/NUMBER, as `list` shows it")
    changed = api.send("POST", f"/admin/unplaced-documents/{document}/{action}", reason=reason).body[
        "changed"
    ]
    click.echo(f"{document}: {'settled' if changed else 'unchanged'}")
