"""Payments through an SAP that loses calls and answers, and an adapter that dies: one document each, or none.

A plain run of the tests takes a few payments; `make chaos-smoke` (`--chaos-full`) takes 500 of each.
"""

import os
import signal
import threading
from contextlib import contextmanager, suppress

import psutil
import pytest
import requests
from local_stack import private_stack
from partner_run import PartnerRun

from devstack.services import SAP_SETTLING_TIMES

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1500)]

FULL, QUICK = 500, 30
DRAIN_SECONDS = 1200.0
KILL_PAUSE_SECONDS = 1.0
LOST = 0.3
# longer after the call than SAP's own memory of it, and later on the read side than in the books
FORGETFUL = {"read_lag_ms": 1500, "late_commit_ms": 1000, "idempotency_window_s": 0}
FAULTS = {
    "answers-lost": {"commit_then_drop_rate": LOST},
    "calls-lost": {"drop_before_commit_rate": LOST},
    "answers-lost-by-a-forgetful-sap": {"commit_then_drop_rate": LOST, **FORGETFUL},
    "calls-lost-by-a-forgetful-sap": {
        "commit_then_drop_rate": LOST,
        "drop_before_commit_rate": LOST,
        **FORGETFUL,
    },
}


def pytest_generate_tests(metafunc):
    if "payments" in metafunc.fixturenames:
        full = metafunc.config.getoption("chaos_full", default=False)
        metafunc.parametrize("payments", [FULL if full else QUICK])


@pytest.fixture(scope="module")
def stack():
    with private_stack() as running:
        yield running


@pytest.fixture
def sap(stack):
    yield lambda **faults: stack.sap("PUT", "/_control/faults", json=faults)
    stack.sap("PUT", "/_control/faults", json={})


def assert_each_is_booked_once(run, payments):
    """By the database and by SAP's own books."""
    run.wait_until_drained(DRAIN_SECONDS)
    assert list(map(str, run.check())) == []
    paid = [client.get(f"/v1/payments/{one.payment_id}")["status"] for client, one in run.each()]
    assert paid == ["paid"] * payments
    stats = requests.get(f"{run.running.sap_mock}/_control/stats", timeout=10).json()
    assert stats["documents"] - len(run.before.references) == payments
    assert stats["duplicates"] == run.before.duplicates == 0


def test_a_none_is_believed_only_when_sap_must_have_booked_and_shown_it():
    """What makes the tests below sound, and the bridge: the settings of the local stack."""
    settling_ms = 1000 * float(SAP_SETTLING_TIMES["SAP_SETTLING_SECONDS"])
    assert settling_ms > FORGETFUL["late_commit_ms"] + FORGETFUL["read_lag_ms"]


@pytest.mark.parametrize("faults", FAULTS)
def test_lost_calls_and_lost_answers_make_no_second_document_and_lose_none(stack, sap, faults, payments):
    run = PartnerRun.on(stack)
    sap(**FAULTS[faults])
    run.sender.send(faults[:12], payments)
    assert_each_is_booked_once(run, payments)


def test_an_adapter_that_is_killed_every_second_books_each_payment_once(stack, sap, payments):
    run = PartnerRun.on(stack)
    # slow enough to be killed in the middle of a call; SAP goes on with it, and remembers nothing
    sap(latency_ms=100, read_lag_ms=1500, idempotency_window_s=0)
    with killed_every_second(stack, "sap_adapter") as kills:
        run.sender.send("killed", payments, per_second=payments / 15)
    assert len(kills) >= 2
    assert_each_is_booked_once(run, payments)


@contextmanager
def killed_every_second(stack, name):
    """Kill the service with all its processes a second after it has come up, again and again."""
    kills, over = [], threading.Event()

    def kill():
        while not over.wait(KILL_PAUSE_SECONDS):
            with suppress(requests.RequestException, psutil.NoSuchProcess, KeyError):
                requests.get(stack.layout.url(name) + "/readyz", timeout=1).raise_for_status()
                master = psutil.Process(stack.pid(name))
                for process in (master, *master.children(recursive=True)):
                    os.kill(process.pid, signal.SIGKILL)
                kills.append(master.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield kills
    finally:
        over.set()
        killer.join()
