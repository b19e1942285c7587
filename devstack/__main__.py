"""`python -m devstack up|down|status|run`: the whole bridge on one machine."""

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from devstack import control
from devstack.layout import Layout
from devstack.preflight import StartError
from devstack.run import run_stack

state_dir = click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=True),
    default=Path(".devstack"),
    show_default=True,
    help="Where the stack keeps its data, keys, logs and stack.json.",
)
port_offset = click.option(
    "--port-offset",
    type=int,
    envvar="PORT_OFFSET",
    default=0,
    show_default=True,
    help="Added to every port; or PORT_OFFSET.",
)


@click.group()
def main() -> None:
    """Run the whole bridge on this machine."""


@main.command()
@state_dir
@port_offset
def up(state_dir: Path, port_offset: int) -> None:
    """Start the stack in the background and wait until all is ready."""
    layout = Layout(state_dir.absolute(), port_offset)
    _or_exit(lambda: control.start_in_background(layout, on_progress=_show_progress))
    click.echo(control.describe(layout))


@main.command()
@state_dir
def down(state_dir: Path) -> None:
    """Stop the stack; its data stays."""
    pid = _or_exit(lambda: control.stop(Layout(state_dir.absolute())))
    click.echo("no stack is running" if pid is None else f"the stack (supervisor pid {pid}) is down")


@main.command()
@state_dir
def reset(state_dir: Path) -> None:
    """Stop the stack and remove its data, keys and logs: the next start begins with nothing."""
    removed = _or_exit(lambda: control.remove(Layout(state_dir.absolute())))
    click.echo(f"removed {', '.join(map(str, removed))}" if removed else "there is nothing to remove")


@main.command()
@state_dir
def status(state_dir: Path) -> None:
    """Tell what runs; exit code 3 if nothing does."""
    layout = Layout(state_dir.absolute())
    lines = control.status(layout)
    if lines is None:
        click.echo("no stack is running")
        sys.exit(3)
    click.echo("\n".join(lines))


@main.command()
@state_dir
@port_offset
@click.option("--report-to", type=int, default=None, hidden=True, help="File descriptor that `up` reads.")
def run(state_dir: Path, port_offset: int, report_to: int | None) -> None:
    """Run the stack in the foreground until Ctrl-C."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    layout = Layout(state_dir.absolute(), port_offset)
    report = _reporter(report_to)
    try:
        run_stack(
            layout,
            on_ready=lambda: report({"ready": True}),
            on_progress=lambda line: report({"progress": line}),
        )
    except StartError as error:
        report({"failed": str(error)})
        click.echo(f"devstack: {error}", err=True)
        sys.exit(1)


def _show_progress(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody reads on: no reason to give up
        click.echo(f"  {line}")


def _reporter(descriptor: int | None) -> Callable[[dict[str, Any]], None]:
    """Tell `up` how it goes; somebody in the foreground reads the log on stderr instead."""
    if descriptor is None:
        return lambda _message: None
    os.set_inheritable(descriptor, False)

    def report(message: dict[str, Any]) -> None:
        try:
            os.write(descriptor, json.dumps(message).encode() + b"\n")
            if "ready" in message:
                os.close(descriptor)
        except OSError:
            logging.getLogger("devstack").info("nobody waits for the start any more")

    return report


def _or_exit(action: Callable[[], Any]) -> Any:
    try:
        return action()
    except StartError as error:
        click.echo(f"devstack: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="python -m devstack")
