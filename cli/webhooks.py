"""`bridge webhooks`: for partners who build a receiver."""

import base64
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import TypeVar
from urllib.parse import urlsplit

import click
from rich.console import Console
from standardwebhooks import Webhook

from bridge.environment import MAX_PORT
from cli.receiver_check import Deliveries, Finding, check, make_send
from cli.receiver_listen import Gaps, Received, make_server
from cli.screen import as_json, print_json

Made = TypeVar("Made")
PREFIX = "whsec_"
# https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md#signature-scheme
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64

_secret = click.option(
    "--secret",
    envvar="BRIDGE_WEBHOOK_SECRET",
    required=True,
    help="The endpoint's whsec_…; better in BRIDGE_WEBHOOK_SECRET, where no history keeps it.",
)


@click.group()
def webhooks() -> None:
    """Try a webhook receiver before it goes live."""


@webhooks.command("check")
@click.argument("url")
@_secret
@as_json
def check_receiver(url: str, secret: str, as_json: bool) -> None:
    """Send good, bad, old and repeated deliveries to URL and tell what the receiver does right.

    They are of the type webhook.test and carry no payment. Exits with 1 if a probe has not passed.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise click.UsageError("URL is not an http or https address")
    findings = []
    console = Console(markup=False, highlight=False)
    for finding in check(make_send(url), _usable(Deliveries, secret)):
        findings.append(finding)
        if not as_json:
            _print(console, finding)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    if not all(finding.passed for finding in findings):
        raise click.exceptions.Exit(1)


@webhooks.command()
@click.option("--port", type=click.IntRange(1, MAX_PORT), default=9000, show_default=True)
@click.option(
    "--status", type=click.IntRange(200, 599), default=200, show_default=True, help="What to answer."
)
@_secret
def listen(port: int, status: int, secret: str) -> None:
    """Receive deliveries on 127.0.0.1, verify each and print it, until Ctrl-C.

    A delivery whose signature is not good is answered with 401. Events that are missing between two
    deliveries are told: fetch them from GET /v1/events.
    """
    console, gaps, lock = Console(markup=False, highlight=False), Gaps(), threading.Lock()

    def tell(received: Received) -> None:
        with lock:
            verdict = "verified" if received.problem is None else f"REFUSED: {received.problem}"
            place = "" if received.sequence is None else f" #{received.sequence}"
            console.print(f"{received.event_id}{place} {received.event_type}: {verdict}")
            gap = gaps.before(received)
            if gap is not None:
                console.print(
                    f"  events between {gap[0]} and {gap[1]} have not arrived: GET /v1/events?after={gap[0]}"
                )

    try:
        server = make_server(port, _usable(Webhook, secret), status, tell)
    except OSError as error:
        raise click.ClickException(f"port {port} cannot be used: {error.strerror}") from error
    console.print(f"listening on http://127.0.0.1:{port}/, Ctrl-C ends")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


def _print(console: Console, finding: Finding) -> None:
    console.print(f"{'ok  ' if finding.passed else 'FAIL'} {finding.probe}: {finding.observed}")
    if not finding.passed:
        console.print(f"     {finding.advice}")


def _usable(make: Callable[[str], Made], secret: str) -> Made:
    """Return what verifies with the secret. UsageError: what is wrong with it, never what it is."""
    secret = secret.strip()
    if not secret.startswith(PREFIX):
        hint = " (without the v1, before it)" if f",{PREFIX}" in secret else ""
        raise click.UsageError(f"the secret does not begin with {PREFIX}{hint}")
    try:
        size = len(base64.b64decode(secret.removeprefix(PREFIX), validate=True))
    except ValueError as error:
        raise click.UsageError(f"the secret is not {PREFIX} and then base64") from error
    if not MIN_SECRET_BYTES <= size <= MAX_SECRET_BYTES:
        detail = f"has {size} bytes, and one of ours {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES}: is it cut off?"
        raise click.UsageError(f"the secret {detail}")
    return make(secret)
