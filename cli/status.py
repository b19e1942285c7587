"""`bridge status`: the live state of the bridge on one screen."""

import time
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cli.api import Api
from cli.backoffice import backoffice_url, duration
from cli.screen import as_json, print_json

MAX_INTERVAL_SECONDS = 60.0
LANE_COLUMNS = (
    "lane",
    "state",
    "window",
    "cap",
    "calls",
    "settling",
    "backlog",
    "oldest",
    "per s",
    "drained in",
)


@click.command()
@backoffice_url
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C; shows rates too.")
@click.option(
    "--interval",
    "interval_seconds",
    type=click.FloatRange(0.5, MAX_INTERVAL_SECONDS),
    default=2.0,
    show_default=True,
    help="Seconds between two looks of --watch.",
)
@as_json
def status(url: str, watch: bool, interval_seconds: float, as_json: bool) -> None:
    """Show lanes, rates, what waits and for how long, what is parked, dead letters."""
    api = Api(url)
    if as_json:
        print_json(api.get("/admin/status").body)
        return
    state = api.get("/admin/status").body
    if not watch:
        Console(highlight=False).print(screen(state, {}))
        return
    with Live(screen(state, {}), screen=True, auto_refresh=False) as live:
        while True:
            started = time.monotonic()
            try:
                time.sleep(interval_seconds)
                latest = api.get("/admin/status").body
            except KeyboardInterrupt:
                return
            live.update(screen(latest, rates(state, latest, time.monotonic() - started)), refresh=True)
            state = latest


def rates(before: dict[str, Any], after: dict[str, Any], seconds: float) -> dict[str, float]:
    """Return what was written per second between two looks; a counter that began anew counts from 0."""
    grown = {
        name: after["written"][name] - before["written"][name] if name in before["written"] else 0
        for name in after["written"]
    }
    return {name: max(number, 0) / seconds for name, number in grown.items()}


def screen(state: dict[str, Any], per_second: dict[str, float]) -> Group:
    """Return one screen: the lanes, then everything that waits elsewhere; what needs somebody is red."""
    lanes = Table(*LANE_COLUMNS, box=None, pad_edge=False)
    for lane in state["lanes"]:
        lanes.add_row(*_lane(lane), style=None if lane["state"] == "open" else "bold yellow")
    figures = Table("", "count", "oldest", box=None, pad_edge=False)
    for name, figure, is_alarming in _figures(state):
        is_red = is_alarming and figure["count"] > 0
        age = figure.get("oldest_age_seconds")
        figures.add_row(
            name, str(figure["count"]), duration(age) if age else "", style="bold red" if is_red else None
        )
    parts: list[Any] = [
        Text(f"partner payments bridge, {state['at']}", style="bold"),
        Text(),
        lanes,
        Text(),
        figures,
    ]
    if per_second:
        said = ", ".join(f"{name.replace('_', ' ')} {rate:.1f}/s" for name, rate in per_second.items())
        parts += [Text(), Text(said)]
    return Group(*parts)


def _lane(lane: dict[str, Any]) -> list[str]:
    rate = lane["answers_per_second"]
    return [
        lane["sap_system"],
        lane["state"],
        *(str(lane[name]) for name in ("window", "hard_cap", "calls", "settling", "backlog")),
        duration(lane["oldest_age_seconds"]),
        "" if rate is None else f"{rate:.1f}",
        duration(lane["drain_seconds"]),
    ]


def _figures(state: dict[str, Any]) -> list[tuple[str, dict[str, Any], bool]]:
    """Return name, figure, and whether anything above zero needs somebody."""
    return [
        ("operations unknown", state["operations"]["unknown"], False),
        ("operations parked", state["operations"]["parked"], True),
        ("events to sequence", state["feed"]["unsequenced"], False),
        ("events to publish", state["feed"]["unpublished"], False),
        ("webhook attempts overdue", state["webhooks"]["overdue"], True),
        ("webhooks held", state["webhooks"]["held"], False),
        ("endpoints disabled by failures", state["webhooks"]["disabled_endpoints"], True),
        ("dead letters open", state["dead_letters"], True),
    ]
