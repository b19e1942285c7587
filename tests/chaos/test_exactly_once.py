"""Payments through an SAP that loses calls and answers, and an adapter that dies: one document each, or none.

A plain run of the tests takes a few payments; `make exactly-once` (`--chaos-full`) takes 500 of each.
"""

import os
import signal
import threading
from contextlib import contextmanager, suppress

import psutil
import pytest
import requests
from partner_run import PartnerRun
from sqlalchemy import text
from waiting import wait_until

from devstack.evidence import open_database
from devstack.layout import SAP_SYSTEMS
from devstack.services import SAP_SETTLING_TIMES

pytestmark = [pytest.mark.chaos, pytest.mark.plants_faults, pytest.mark.timeout(1500)]

FULL, QUICK = 500, 30
GOOD_BESIDE_POISON = 200
SAP_SYSTEM = next(iter(SAP_SYSTEMS))
LANE = text("SELECT held, call_window, failed_probes FROM sap_systems WHERE sap_system = :lane")
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


@pytest.fixture
def sap(stack):
    yield lambda **faults: stack.sap("PUT", "/_control/faults", json=faults)
    stack.sap("PUT", "/_control/faults", json={})


def test_a_none_is_believed_only_when_sap_must_have_booked_and_shown_it():
    """What makes the tests below sound, and the bridge: the settings of the local stack."""
    settling_ms = 1000 * float(SAP_SETTLING_TIMES["SAP_SETTLING_SECONDS"])
    assert settling_ms > FORGETFUL["late_commit_ms"] + FORGETFUL["read_lag_ms"]


@pytest.mark.parametrize("faults", FAULTS)
def test_lost_calls_and_lost_answers_make_no_second_document_and_lose_none(stack, sap, faults, payments):
    run = PartnerRun.on(stack)
    sap(**FAULTS[faults])
    run.sender.send(faults[:12], payments)
    run.wait_until_drained(DRAIN_SECONDS)
    run.assert_each_is_booked_once(payments)


def test_an_adapter_that_is_killed_every_second_books_each_payment_once(stack, sap, payments):
    run = PartnerRun.on(stack)
    # slow enough to be killed in the middle of a call; SAP goes on with it, and remembers nothing
    sap(latency_ms=50, read_lag_ms=1500, idempotency_window_s=0)
    with killed_every_second(stack, "sap_adapter") as kills:
        run.sender.send("killed", payments)
        # a killed adapter is away for longer than it is there: what is paid meanwhile is little
        wait_until(lambda: len(kills) >= max(3, payments // 40), timeout_seconds=180, what="enough kills")
    run.wait_until_drained(DRAIN_SECONDS)
    run.assert_each_is_booked_once(payments)


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


def test_one_poisonous_payment_is_parked_and_keeps_nobody_else_waiting(stack, payments):
    """It never gets an answer. What others it had beside it is paid at once and then there are none."""
    run = PartnerRun.on(stack)
    client = run.clients[0]
    body = run.instructions.body("SBX-TIMEOUT", 0)
    poison = client.pay(f"{body['external_id']}-key", body).payment["id"]
    good = GOOD_BESIDE_POISON if payments == FULL else payments
    run.sender.send("good", good)

    def is_each_paid():
        return all(one.get(f"/v1/payments/{sent.payment_id}")["status"] == "paid" for one, sent in run.each())

    wait_until(is_each_paid, timeout_seconds=120, poll_seconds=1, what="all good ones paid")
    assert operation_of(client, poison)["status"] in ("processing", "unknown", "accepted")
    if payments == FULL:
        # eight calls of 10 s, each asked about until SAP must have settled
        wait_until(
            lambda: operation_of(client, poison)["status"] == "parked",
            timeout_seconds=400,
            poll_seconds=2,
            what="the poisonous one parked",
        )
    lane = lane_of(run)
    assert (lane.held, lane.failed_probes) == (False, 0)
    assert lane.call_window >= 1


def operation_of(client, payment_id):
    (operation,) = client.get(f"/v1/payments/{payment_id}")["operations"]
    return operation


def lane_of(run):
    with open_database(run.running).connect() as connection:
        return connection.execute(LANE, {"lane": SAP_SYSTEM}).one()
