"""`bridge`: what operators do from a terminal."""

import click

from cli.keys import keys
from cli.partners import partners
from cli.webhooks import webhooks


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Operate the Partner Payments Bridge."""


main.add_command(keys)
main.add_command(partners)
main.add_command(webhooks)

if __name__ == "__main__":
    main()
