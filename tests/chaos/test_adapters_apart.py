"""Two adapters, the clock of one behind the other's: what one of them lost, neither posts a second time.

SAP loses half of the answers, books as late as the settling time allows, and knows no message again. A plain
run takes a few payments; `make wrong-clocks` (`--chaos-full`) takes 500 for each of the clocks.
"""

import json
import subprocess
from contextlib import contextmanager

import psutil
import pytest
import requests
from local_stack import private_stack
from partner_run import PartnerRun
from waiting import DEADLINE_SECONDS, wait_until
from wrong_clocks import SKEWED, wrong_clocks

from bridge.messages import operations_topic
from devstack.layout import PROJECT_ID, REPOSITORY, SAP_SYSTEMS
from devstack.postgres import free_port
from devstack.services import SAP_SETTLING_TIMES
from devstack.topics import Push, subscription

pytestmark = [pytest.mark.chaos, pytest.mark.plants_faults, pytest.mark.timeout(1500)]

FULL, QUICK = 500, 20
BEHIND_SECONDS = (-5.0, -90.0)
LATE_COMMIT_MS = 3500
FAULTS = {"commit_then_drop_rate": 0.5, "late_commit_ms": LATE_COMMIT_MS, "idempotency_window_s": 0}
SECOND = "second_sap_adapter"
SAP_SYSTEM = next(iter(SAP_SYSTEMS))
DRAIN_SECONDS = 1200.0


def pytest_generate_tests(metafunc):
    if "payments" in metafunc.fixturenames:
        full = metafunc.config.getoption("chaos_full", default=False)
        metafunc.parametrize("payments", [FULL if full else QUICK])


@contextmanager
def second_adapter(stack):
    """Run a copy of the stack's adapter with a subscription of its own; yield its log and metrics port."""
    port, metrics_port = free_port(), free_port()
    environment = psutil.Process(stack.pid("sap_adapter")).environ() | {
        "PORT": str(port),
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(metrics_port),
        "SKEWED_AS": SECOND,
    }
    command = psutil.Process(stack.pid("sap_adapter")).cmdline()
    log = stack.layout.log(SECOND)
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=output, stderr=output)
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/readyz"), what="the second adapter is ready")
        push = Push(operations_topic(SAP_SYSTEM), f"http://127.0.0.1:{port}/pubsub/operations", None)
        resource = f"{stack.layout.url('pubsub')}/v1/projects/{PROJECT_ID}/subscriptions/{SECOND}"
        requests.put(resource, json=subscription(push), timeout=DEADLINE_SECONDS).raise_for_status()
        yield log, metrics_port
    finally:
        process.terminate()
        process.wait(DEADLINE_SECONDS)


def answers(url):
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.RequestException:
        return False


@pytest.fixture(scope="module")
def stack():
    with private_stack(SKEWED) as running:
        yield running


@pytest.fixture(scope="module")
def second(stack):
    with second_adapter(stack) as running:
        yield running


def calls_lost(log):
    lines = (json.loads(line) for line in log.read_bytes().splitlines() if line.startswith(b"{"))
    return sum(line.get("message") == "outcome-unknown" for line in lines)


def test_sap_books_within_the_settling_time_or_this_file_shows_nothing():
    assert 1000 * float(SAP_SETTLING_TIMES["SAP_SETTLING_SECONDS"]) > LATE_COMMIT_MS


@pytest.mark.parametrize("behind_seconds", BEHIND_SECONDS)
def test_what_an_adapter_behind_time_has_lost_is_posted_once(stack, second, behind_seconds, payments):
    log, metrics_port = second
    run = PartnerRun.on(stack)
    lost_before, sent = calls_lost(log), 0
    stack.sap("PUT", "/_control/faults", json=FAULTS)
    try:
        with wrong_clocks(stack, {SECOND: behind_seconds}, {SECOND: metrics_port}):
            while calls_lost(log) == lost_before:  # the first adapter may be quicker with all of a few
                run.sender.send(f"behind-{-behind_seconds:.0f}-{sent}", payments)
                sent += payments
                assert len(run.sender.accepted) == sent
                run.wait_until_drained(DRAIN_SECONDS)
    finally:
        stack.sap("PUT", "/_control/faults", json={})
    run.assert_each_is_booked_once(sent)
