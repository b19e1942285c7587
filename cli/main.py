"""`bridge`: what operators do from a terminal."""

import io
import sys
from pkgutil import resolve_name
from typing import Any

import click

# each is imported when it is asked for: what one command needs must not slow the start of the others
COMMANDS = {
    "dead-letters": "cli.dead_letters:dead_letters",
    "keys": "cli.keys:keys",
    "partners": "cli.partners:partners",
    "payments": "cli.payments:payments",
    "recover": "cli.recover:recover",
    "unplaced": "cli.unplaced:unplaced",
    "sap": "cli.sap:sap",
    "status": "cli.status:status",
    "webhooks": "cli.webhooks:webhooks",
}


class _Commands(click.Group):
    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run the command; characters that the terminal can't show are written as escapes."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        return super().main(*arguments, **options)

    def list_commands(self, _context: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        return resolve_name(COMMANDS[name]) if name in COMMANDS else None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Operate the Partner Payments Bridge."""


if __name__ == "__main__":
    main()
