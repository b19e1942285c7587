"""Where the commands that go to the backoffice find it, and what they share."""

import click

from cli.api import Api
from cli.local_stack import local_url

LOCAL_URL = local_url("backoffice")

backoffice_url = click.option(
    "--url",
    envvar="BRIDGE_BACKOFFICE_URL",
    default=LOCAL_URL,
    show_default="the local stack's",
    help="The backoffice.",
)


def connected(context: click.Context, url: str) -> None:
    """Give the commands of a group their service."""
    context.obj = Api(url)


def duration(seconds: float | None) -> str:
    """Return a time for people: 45 s, 12 min, 3.5 h, 2.0 d."""
    if seconds is None:
        return ""
    for unit_seconds, unit, digits in ((86_400, "d", 1), (3600, "h", 1), (60, "min", 0)):
        if seconds >= unit_seconds:
            return f"{seconds / unit_seconds:.{digits}f} {unit}"
    return f"{seconds:.0f} s"
