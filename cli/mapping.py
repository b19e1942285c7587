"""`bridge partners mapping`: how a partner's payments become journal entries."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click

from bridge.payment import OperationKind
from cli.api import Api
from cli.documents import read_document
from cli.screen import as_json, print_json


@click.group()
def mapping() -> None:
    """How a partner's payments become journal entries."""


@mapping.command("try")
@click.argument("payment", type=click.File("rb"), default="-")
@click.option("--partner", "partner_id", help="Whose stored document is tried.")
@click.option("--document", type=click.File("rb"), help="A document that is not stored yet, in its place.")
@click.option(
    "--kind",
    type=click.Choice([str(kind) for kind in OperationKind]),
    help="Another step than the payment's first.",
)
@click.option("--at", "at", help="The document as it is from then on: a date and time with its offset.")
@as_json
@click.pass_obj
def try_mapping(
    api: Api,
    payment: Any,
    partner_id: str | None,
    document: Any,
    kind: str | None,
    at: str | None,
    as_json: bool,
) -> None:
    """Print the journal entry that PAYMENT would become, and where it would be posted.

    PAYMENT is the body of `POST /v1/payments` (a JSON file, or - for standard input). It is neither sent nor
    stored. Mistakes in it, or in the document, are told with a pointer to the member.
    """
    from cli import mapping_trial  # noqa: PLC0415 - renders and validates: much to import for one command

    if (partner_id is None) == (document is None):
        raise click.UsageError("give either --partner or --document")
    body = api.get(f"/admin/partners/{partner_id}").body if partner_id else read_document(document)
    wanted = OperationKind(kind) if kind else None
    try:
        trial = mapping_trial.try_mapping(body, read_document(payment), wanted, _moment(at))
    except mapping_trial.TrialError as error:
        lines = [f"the {error.what} gives no journal entry"]
        lines += [f"  {mistake.pointer or '/'} {mistake.detail}" for mistake in error.errors]
        raise click.ClickException("\n".join(lines)) from error
    if as_json:
        print_json(asdict(trial))
        return
    by = f"rule {trial.rule}" if trial.rule else "the default"
    click.echo(
        f"{trial.kind} at {trial.target}: SAP system {trial.sap_system}, company code {trial.company_code}, "
        f"by {by}"
    )
    click.echo(trial.entry)


def _moment(value: str | None) -> datetime:
    if value is None:
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise click.UsageError("--at is not a date and time") from error
    if moment.tzinfo is None:
        raise click.UsageError("--at has no offset, as +01:00 or Z")
    return moment
