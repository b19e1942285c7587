"""`bridge`: what operators do from a terminal."""

import click

from cli.dead_letters import dead_letters
from cli.keys import keys
from cli.partners import partners
from cli.payments import payments
from cli.recover import recover
from cli.sap import sap
from cli.status import status
from cli.webhooks import webhooks


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Operate the Partner Payments Bridge."""


for command in (dead_letters, keys, partners, payments, recover, sap, status, webhooks):
    main.add_command(command)

if __name__ == "__main__":
    main()
