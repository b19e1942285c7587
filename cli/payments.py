"""`bridge payments`: what waits, why, and the ways on."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click

from cli.api import Api
from cli.backoffice import backoffice_url, connected, duration
from cli.options import reason
from cli.screen import as_json, print_json, print_table

STATUSES = ("scheduled", "accepted", "processing", "unknown", "parked")
PAGE = 500
MAX_LISTED = 100_000

_target = click.argument("target", metavar="ID")


@click.group()
@backoffice_url
@click.pass_context
def payments(context: click.Context, url: str) -> None:
    """Payments and their operations. ID is a payment's (its first unfinished operation is meant) or an
    operation's.
    """
    connected(context, url)


@payments.command("list")
@click.option("--status", multiple=True, type=click.Choice(STATUSES), help="May be given more than once.")
@click.option("--delayed", is_flag=True, help="Those that the partner was told are late.")
@click.option("--older-than", "older_than", type=click.IntRange(1), metavar="SECONDS")
@click.option("--partner", "partner_id")
@click.option("--sap-system")
@click.option("--limit", type=click.IntRange(1, MAX_LISTED), default=100, show_default=True)
@as_json
@click.pass_obj
def list_payments(
    api: Api,
    status: tuple[str, ...],
    delayed: bool,
    older_than: int | None,
    partner_id: str | None,
    sap_system: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show operations that have not ended, oldest first."""
    wanted = {
        "status": list(status) or None,
        "delayed": "true" if delayed else None,
        "older_than_seconds": older_than,
        "partner_id": partner_id,
        "sap_system": sap_system,
    }
    found = list(_waiting(api, wanted, limit))
    if as_json:
        print_json(found)
        return
    print_table(
        ("operation", "payment", "external_id", "kind", "status", "why", "amount", "sap system", "waits"),
        (
            (
                each["id"], each["payment_id"], each["external_id"], each["kind"], each["status"], _why(each),
                _money(each["amount"]), each["sap_system"], duration(_age_seconds(each["created_at"])),
            )
            for each in found
        ),
    )  # fmt: skip


@payments.command()
@_target
@as_json
@click.pass_obj
def show(api: Api, target: str, as_json: bool) -> None:
    """Show a payment, its operations, its events and what operators did."""
    payment = api.get(f"/admin/payments/{target}").body
    if as_json:
        print_json(payment)
        return
    click.echo(
        f"{payment['id']}  {payment['status']}  {_money(payment['amount'])}\n"
        f"partner {payment['partner_id']}, external id {payment['external_id']}, "
        f"{payment['sap_system']}/{payment['company_code']}\n"
    )
    print_table(
        ("operation", "kind", "status", "why", "amount", "document", "attempts", "generation", "not before"),
        (
            (
                each["id"], each["kind"], each["status"], _why(each), _money(each["amount"]),
                each["sap_document"] and each["sap_document"]["number"],
                each["attempts"], each["generation"], each["not_before"],
            )
            for each in payment["operations"]
        ),
    )  # fmt: skip
    click.echo()
    print_table(
        ("when", "event", "operation"),
        ((each["timestamp"], each["type"], each["operation_id"]) for each in payment["events"]),
    )
    if payment["audit"]:
        click.echo()
        print_table(
            ("when", "who", "what", "why"),
            (
                (each["created_at"], each["actor"], each["action"], each["reason"])
                for each in payment["audit"]
            ),
        )


@payments.command()
@_target
@reason
@as_json
@click.pass_obj
def park(api: Api, target: str, reason: str, as_json: bool) -> None:
    """Stop an operation until it is redriven or rejected."""
    _tell(api.send("POST", f"/admin/payments/{target}/park", reason=reason).body, as_json=as_json)


@payments.command()
@_target
@click.option(
    "--remap", is_flag=True, help="Render the SAP document anew, from the partner's mapping as it is."
)
@reason
@as_json
@click.pass_obj
def redrive(api: Api, target: str, remap: bool, reason: str, as_json: bool) -> None:
    """Let a parked operation go on. Repeating it changes nothing.

    If SAP may have it, SAP is asked before anything is sent.
    """
    body = {"remap": remap}
    _tell(api.send("POST", f"/admin/payments/{target}/redrive", body, reason=reason).body, as_json=as_json)


@payments.command()
@_target
@reason
@as_json
@click.pass_obj
def reject(api: Api, target: str, reason: str, as_json: bool) -> None:
    """End an operation as refused, and tell the partner.

    If SAP may have it, SAP is asked first: what it has is recorded, and only what it has not is rejected.
    """
    _tell(api.send("POST", f"/admin/payments/{target}/reject", reason=reason).body, as_json=as_json)


@payments.command()
@_target
@click.option("--document", metavar="COMPANY/YEAR/NUMBER", help="Which one, if SAP has several.")
@reason
@as_json
@click.pass_obj
def accept(api: Api, target: str, document: str | None, reason: str, as_json: bool) -> None:
    """Say that a document in SAP is the operation's, although the payment did not allow it.

    The payment is then as SAP has booked it, and the partner is told.
    """
    path, sent = f"/admin/payments/{target}/accept", {"document": document}
    _tell(api.send("POST", path, sent, reason=reason).body, as_json=as_json)


@payments.command()
@_target
@reason
@as_json
@click.pass_obj
def disown(api: Api, target: str, reason: str, as_json: bool) -> None:
    """Say that the documents in SAP are not the operation's: it ends as refused, whatever SAP lists."""
    _tell(api.send("POST", f"/admin/payments/{target}/disown", reason=reason).body, as_json=as_json)


def _waiting(api: Api, wanted: dict[str, Any], limit: int) -> Iterator[dict[str, Any]]:
    cursor: str | None = None
    while limit > 0:
        page = api.get("/admin/operations", **wanted, cursor=cursor, limit=min(limit, PAGE)).body
        yield from page["data"]
        limit -= len(page["data"])
        cursor = page["next_cursor"]
        if cursor is None:
            return


def _tell(changed: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(changed)
        return
    operation, outcome = changed["operation"], changed["outcome"]
    text = f"{operation['id']}: {outcome}, now {operation['status']}"
    if outcome == "pending":
        text += "; SAP is asked first, `bridge payments show` tells what came of it"
    click.echo(text)


def _why(operation: dict[str, Any]) -> str:
    """Return what an operator has to know of it at a glance."""
    failure = operation["failure"]
    parts = (
        operation["parked_reason"],
        ", ".join(operation["found_documents"]),
        failure and failure["code"],
        "SAP is asked" if operation["sent_unresolved"] and operation["status"] != "processing" else None,
        operation["operator_decision"] and f"then: {operation['operator_decision']}",
    )
    return ", ".join(part for part in parts if part)


def _money(amount: dict[str, str]) -> str:
    return f"{amount['value']} {amount['currency']}"


def _age_seconds(moment: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
