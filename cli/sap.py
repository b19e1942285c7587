"""`bridge sap`: the lanes to the SAP systems."""

from typing import Any

import click

from cli.api import Api
from cli.backoffice import backoffice_url, connected, duration
from cli.options import reason
from cli.screen import as_json, print_json, print_table

_sap_system = click.argument("sap_system")


@click.group()
@backoffice_url
@click.pass_context
def sap(context: click.Context, url: str) -> None:
    """The lanes to the SAP systems: how they stand, and how much goes to SAP at once."""
    connected(context, url)


@sap.command()
@as_json
@click.pass_obj
def status(api: Api, as_json: bool) -> None:
    """Show every lane: its state, window, backlog, age, rate and when it will be drained."""
    lanes = api.get("/admin/lanes").body["data"]
    if as_json:
        print_json(lanes)
        return
    print_table(
        (
            "sap system",
            "state",
            "window",
            "cap",
            "calls",
            "settling",
            "backlog",
            "oldest",
            "per s",
            "drained in",
        ),
        (_row(lane) for lane in lanes),
    )


@sap.command()
@_sap_system
@reason
@as_json
@click.pass_obj
def hold(api: Api, sap_system: str, reason: str, as_json: bool) -> None:
    """Dispatch nothing to the SAP system until it is released. Payments are accepted and wait."""
    _change(api, "POST", f"{sap_system}/hold", None, reason, as_json=as_json)


@sap.command()
@_sap_system
@reason
@as_json
@click.pass_obj
def release(api: Api, sap_system: str, reason: str, as_json: bool) -> None:
    """Let a held lane go on."""
    _change(api, "POST", f"{sap_system}/release", None, reason, as_json=as_json)


@sap.command("set-cap")
@_sap_system
@click.argument("calls", type=click.IntRange(1))
@reason
@as_json
@click.pass_obj
def set_cap(api: Api, sap_system: str, calls: int, reason: str, as_json: bool) -> None:
    """Set the most CALLS that SAP may have at once; the window stays below it."""
    _change(api, "PUT", f"{sap_system}/cap", {"hard_cap": calls}, reason, as_json=as_json)


def _change(api: Api, method: str, path: str, body: Any, reason: str, *, as_json: bool) -> None:
    changed = api.send(method, f"/admin/lanes/{path}", body, reason=reason).body
    if as_json:
        print_json(changed)
        return
    lane = changed["lane"]
    unchanged = "" if changed["changed"] else " (unchanged)"
    click.echo(
        f"{lane['sap_system']}: {lane['state']}, window {lane['window']} of {lane['hard_cap']}{unchanged}"
    )


def _row(lane: dict[str, Any]) -> tuple[object, ...]:
    rate = lane["answers_per_second"]
    return (
        lane["sap_system"], lane["state"], lane["window"], lane["hard_cap"], lane["calls"], lane["settling"],
        lane["backlog"], duration(lane["oldest_age_seconds"]), rate and f"{rate:.1f}",
        duration(lane["drain_seconds"]) if lane["backlog"] else None,
    )  # fmt: skip
