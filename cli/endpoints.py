"""`bridge partners endpoints`: a partner's webhook endpoints, by the public API with the partner's client.

Only who has the partner's credentials registers where it is told, and sees the secret: no operator has to.
"""

import time
from typing import Any
from urllib.parse import urlsplit

import click

from cli.api import ApiError, what_went_wrong
from cli.http import call, json_of
from cli.local_stack import local_url
from cli.screen import as_json, as_shell, print_json, print_shell, print_table

LOCAL_URL = local_url("envoy")
TIMEOUT_SECONDS = 30.0
SCOPES = "webhooks:read webhooks:write"
ENDPOINTS = "/v1/webhook-endpoints"
DELIVERIES = "/v1/webhook-deliveries"
# An attempt takes 15 s at most; the rest is for a bridge that has much to do.
ATTEMPT_SECONDS = 60.0
LOOK_EVERY_SECONDS = 0.5
TEST_PAUSE_SECONDS = 1.0
MAX_WAIT_SECONDS = 3600


class PublicApi:
    """The public API with a token of the partner's client."""

    def __init__(self, base_url: str, client_id: str, client_secret: str) -> None:
        self._base_url = base_url.rstrip("/")
        self._credentials = (client_id, client_secret)
        self._token = ""

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return the answer's JSON; ApiError for anything but a 2xx."""
        if not self._token:
            form = {"grant_type": "client_credentials", "scope": SCOPES}
            asked = self._request("POST", "/oauth2/token", auth=self._credentials, data=form)
            self._token = asked["access_token"]
        headers = {"Authorization": f"Bearer {self._token}"}
        return self._request(method, path, json=body, headers=headers)

    def _request(self, method: str, path: str, **options: Any) -> Any:
        answer = call(method, self._base_url, path, timeout=TIMEOUT_SECONDS, **options)
        if not answer.ok or answer.is_redirect:
            raise ApiError(what_went_wrong(answer), answer.status_code)
        return json_of(answer)


@click.group()
@click.option(
    "--api", "base_url", envvar="BRIDGE_API_URL", default=LOCAL_URL, show_default="the local stack's"
)
@click.option("--client-id", envvar="BRIDGE_CLIENT_ID", required=True, help="Or BRIDGE_CLIENT_ID.")
@click.option(
    "--client-secret",
    envvar="BRIDGE_CLIENT_SECRET",
    required=True,
    help="Better in BRIDGE_CLIENT_SECRET, where no history keeps it.",
)
@click.pass_context
def endpoints(context: click.Context, base_url: str, client_id: str, client_secret: str) -> None:
    """A partner's webhook endpoints, with the partner's own client."""
    if urlsplit(base_url).scheme not in ("http", "https"):
        raise click.UsageError("--api is not an http or https address")
    context.obj = PublicApi(base_url, client_id, client_secret)


@endpoints.command("list")
@as_json
@click.pass_obj
def list_endpoints(api: PublicApi, as_json: bool) -> None:
    """Show the endpoints and how they stand."""
    found = api.call("GET", ENDPOINTS)["data"]
    if as_json:
        print_json(found)
    else:
        columns = ("id", "status", "disabled_reason", "failing_since", "url")
        print_table(columns, ([each[column] for column in columns] for each in found))


@endpoints.command()
@click.argument("url")
@click.option("--event-type", "event_types", multiple=True, help="May be repeated; all types if left out.")
@click.option("--description")
@as_shell
@click.pass_obj
def add(
    api: PublicApi, url: str, event_types: tuple[str, ...], description: str | None, as_shell: bool
) -> None:
    """Register URL and print the endpoint as JSON, with its secret: this once."""
    wanted: dict[str, Any] = {"url": url}
    if event_types:
        wanted["event_types"] = list(event_types)
    if description is not None:
        wanted["description"] = description
    made = api.call("POST", ENDPOINTS, wanted)
    if as_shell:
        print_shell({"BRIDGE_WEBHOOK_ENDPOINT": made["id"], "BRIDGE_WEBHOOK_SECRET": made["secret"]})
    else:
        print_json(made)


@endpoints.command()
@click.argument("endpoint_id")
@click.option(
    "--wait",
    "wait_seconds",
    type=click.IntRange(0, MAX_WAIT_SECONDS),
    default=0,
    show_default=True,
    help="Seconds to go on for until a test is taken: the receiver may still be starting.",
)
@click.pass_obj
def test(api: PublicApi, endpoint_id: str, wait_seconds: int) -> None:
    """Have a delivery of the type webhook.test sent to the endpoint, and tell how it went.

    A test is attempted once. Exits with 1 if none was taken.
    """
    give_up_at = time.monotonic() + wait_seconds
    while not _is_taken(api, api.call("POST", f"{ENDPOINTS}/{endpoint_id}/test")["id"]):
        if time.monotonic() >= give_up_at:
            raise click.exceptions.Exit(1)
        time.sleep(TEST_PAUSE_SECONDS)


@endpoints.command()
@click.argument("endpoint_id")
@click.pass_obj
def enable(api: PublicApi, endpoint_id: str) -> None:
    """Send to the endpoint again; what was held comes now."""
    click.echo(f"{_change(api, endpoint_id, 'enabled')} is enabled")


@endpoints.command()
@click.argument("endpoint_id")
@click.pass_obj
def disable(api: PublicApi, endpoint_id: str) -> None:
    """Hold the endpoint's events until it is enabled."""
    click.echo(f"{_change(api, endpoint_id, 'disabled')} is disabled")


@endpoints.command()
@click.argument("endpoint_id")
@click.pass_obj
def delete(api: PublicApi, endpoint_id: str) -> None:
    """End the endpoint, for good."""
    api.call("DELETE", f"{ENDPOINTS}/{endpoint_id}")
    click.echo(f"{endpoint_id} is deleted")


@endpoints.command()
@click.argument("endpoint_id")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@as_json
@click.pass_obj
def deliveries(api: PublicApi, endpoint_id: str, limit: int, as_json: bool) -> None:
    """Show the endpoint's newest deliveries."""
    found = api.call("GET", f"{ENDPOINTS}/{endpoint_id}/deliveries?limit={limit}")["data"]
    if as_json:
        print_json(found)
    else:
        columns = ("id", "sequence", "event_type", "status", "attempt_count", "next_attempt_at")
        print_table(columns, ([each[column] for column in columns] for each in found))


def _change(api: PublicApi, endpoint_id: str, status: str) -> str:
    return str(api.call("PATCH", f"{ENDPOINTS}/{endpoint_id}", {"status": status})["id"])


def _is_taken(api: PublicApi, delivery_id: str) -> bool:
    """Follow a test to its end, print what its attempt came to; return whether it was a 2xx."""
    give_up_at = time.monotonic() + ATTEMPT_SECONDS
    while (delivery := api.call("GET", f"{DELIVERIES}/{delivery_id}"))["status"] == "pending":
        if time.monotonic() >= give_up_at:
            raise ApiError(f"{delivery_id} has not been attempted for {ATTEMPT_SECONDS:.0f} s")
        time.sleep(LOOK_EVERY_SECONDS)
    taken = bool(delivery["status"] == "delivered")
    for attempt in delivery["attempts"]:
        came_to = attempt["response_status"] or attempt["error_class"]
        verdict = "taken" if taken else "not taken"
        click.echo(f"{delivery_id}: {verdict}, {came_to} after {attempt['duration_ms']} ms")
    return taken
