"""Options and arguments that several commands take."""

import click

from bridge.reason import MAX_REASON_CHARACTERS, is_reason


def checked_reason(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """Return the reason as it is kept: any text, without space around it."""
    reason = None if value is None else value.strip()
    if reason is not None and not is_reason(reason):
        raise click.BadParameter(
            f"must be 1 to {MAX_REASON_CHARACTERS} characters of UTF-8, without control characters"
        )
    return reason


reason = click.option(
    "--reason", required=True, callback=checked_reason, help="Why; it is kept in the audit trail. No names."
)
partner_id_argument = click.argument("partner_id")
