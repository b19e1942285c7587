"""`python -m devstack.demo`: start the stack, play the scenarios, check the invariants, stop the stack.

Exit code 0 only if every scenario drained and all six invariants hold.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
import requests
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from devstack import lock
from devstack.demo.instructions import Instructions
from devstack.demo.partner_client import GaveUpError
from devstack.demo.planted_fault import document_missing
from devstack.demo.running import own_stack
from devstack.demo.scenario import SCENARIOS, Run, Stage
from devstack.demo.view import View
from devstack.evidence import Before, get_json
from devstack.invariants import Expectations, Violation, check
from devstack.layout import Layout
from devstack.preflight import StartError
from devstack.running_stack import RunningStack

NOT_DRAINED = 3


@click.command()
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=True),
    default=Path(".devstack"),
    show_default=True,
    help="Where the stack keeps its data and logs.",
)
@click.option("--port-offset", type=int, envvar="PORT_OFFSET", default=0, help="Added to every port.")
@click.option(
    "--plant-fault",
    type=click.Choice(["ledger"]),
    help="Take a document out of SAP's ledger before the check: the verdict must turn red.",
)
def main(state_dir: Path, port_offset: int, plant_fault: str | None) -> None:
    """Payments through the whole bridge while SAP is well, overloaded and down."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal without the bars' characters
    view = View(Console())
    layout = Layout(state_dir.absolute(), port_offset)
    started = time.monotonic()
    try:
        if lock.holder(layout.lock_file) is None:
            view.say("starting the local stack")
        with own_stack(layout, on_progress=lambda what: view.say(f"  {what}")):
            view.say(f"ready after {time.monotonic() - started:.0f} s")
            violations = _play(RunningStack.read(layout.stack_file), layout, view, plant_fault)
    except (StartError, GaveUpError, requests.RequestException, SQLAlchemyError) as error:
        click.echo(f"demo: {error}", err=True)
        sys.exit(1)
    view.verdict(violations, seconds=time.monotonic() - started)
    sys.exit(1 if violations else 0)


def _play(stack: RunningStack, layout: Layout, view: View, plant_fault: str | None) -> list[Violation]:
    instructions = Instructions()
    stage = Stage(stack, instructions, view.show)
    stage.clear()
    before = Before.take(stack)
    runs: list[Run] = []
    for letter, scenario in zip("abc", SCENARIOS, strict=True):
        with view.scenario(letter, scenario.title):
            run = stage.play(scenario)
        view.summarise(run)
        runs.append(run)
    expectations = Expectations(
        accepted=[accepted for run in runs for accepted in run.accepted],
        planted=instructions.planted,
        before=before,
    )
    if plant_fault is None:
        return _judged(stack, expectations, runs)
    documents = get_json(stack.sap_mock, "documents")
    if not documents:
        raise GaveUpError("there is no document in SAP's ledger to take out")
    view.say(f"\nplanted fault: document {documents[-1]['number']} is taken out of SAP's ledger")
    with document_missing(layout.data("sap_mock.sqlite"), documents[-1]["reference"]):
        return _judged(stack, expectations, runs)


def _judged(stack: RunningStack, expectations: Expectations, runs: Sequence[Run]) -> list[Violation]:
    late = [
        Violation(NOT_DRAINED, f"the scenario {run.scenario.name!r} did not drain in time")
        for run in runs
        if not run.drained
    ]
    return [*check(stack, expectations), *late]


if __name__ == "__main__":
    main(prog_name="python -m devstack.demo")
