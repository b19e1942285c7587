"""Options and arguments that several commands take."""

import click

reason = click.option("--reason", required=True, help="Why; it is kept in the audit trail. No names.")
partner_id_argument = click.argument("partner_id")
