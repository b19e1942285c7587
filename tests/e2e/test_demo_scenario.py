"""A scenario of the demo, played small on the tests' stack: what it counts is what happened."""

import io

import pytest
from rich.console import Console

from devstack.demo.instructions import Instructions
from devstack.demo.scenario import Scenario, Stage
from devstack.demo.view import View
from devstack.evidence import Before
from devstack.invariants import Expectations, check
from devstack.running_stack import RunningStack

pytestmark = pytest.mark.e2e

SCENARIO = Scenario(
    "small", "SAP is down", payments=10, per_second=20.0, trouble={"mode": "down"}, trouble_seconds=10.0
)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_scenario_is_shown_counted_and_drained(stack, terminal):
    running = RunningStack.read(stack.layout.stack_file)
    output = io.StringIO()
    view = View(Console(file=output, force_terminal=terminal, width=120))
    instructions = Instructions()
    stage = Stage(running, instructions, view.show)
    stage.clear()
    before = Before.take(running)

    with view.scenario("c", SCENARIO.title):
        run = stage.play(SCENARIO)
    view.summarise(run)
    violations = check(
        running, Expectations(accepted=run.accepted, planted=instructions.planted, before=before)
    )
    view.verdict(violations, seconds=run.ended_seconds)

    assert run.drained
    assert len(run.accepted) == run.accepted_in_trouble == 10
    assert run.refusals == []
    assert 0 < run.latency_ms(50) <= run.latency_ms(99)
    backlog = [sample.progress.backlog for sample in run.samples]
    assert max(backlog) == 10
    assert backlog[-1] == 0
    assert {sample.sap for sample in run.samples} == {"down", "up"}
    assert (run.latest.documents, run.latest.webhooks) == (10, 20)
    assert violations == []
    shown = output.getvalue()
    assert "10 of 10 answered 202" in shown
    assert "10 documents for 10 succeeded operations" in shown
    assert "20 of 20 events received and verified" in shown
    assert shown.count("✓") == 6
    assert "ALL HOLD" in shown
    assert ("\x1b[" in shown) == terminal
    if not terminal:
        assert "SAP down        accepted" in shown
