"""`kill -9` of each process in the middle of a run of payments: all are paid once, and every webhook arrives.

A plain run of the tests kills those that hold the most. `make chaos-smoke` (`--chaos-full`) takes them all,
and the broker, whose loss takes every message along, in the middle of 500 payments.
"""

import os
import signal

import pytest
from local_stack import PROCESSES
from partner_run import PartnerRun
from waiting import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.plants_faults]

FULL = dict.fromkeys(PROCESSES, 200) | {"pubsub": 500}
QUICK = dict.fromkeys(["dispatcher", "sap_adapter", "postgres", "pubsub"], 30)
DRAIN_SECONDS = 300.0


def pytest_generate_tests(metafunc):
    if "victim" in metafunc.fixturenames:
        # the option is known where this folder's conftest was loaded for the command line
        payments = FULL if metafunc.config.getoption("chaos_full", default=False) else QUICK
        metafunc.parametrize(("victim", "payments"), payments.items(), ids=list(payments))


def test_killed_in_the_middle_nothing_is_lost_doubled_or_left_untold(stack, victim, payments):
    run = PartnerRun.on(stack)
    killed = []

    def kill_in_the_middle():
        if not killed and run.sender.accepted_count >= payments // 3:
            killed.append(stack.pid(victim))
            os.kill(killed[0], signal.SIGKILL)

    run.sender.send(victim, payments, meanwhile=kill_in_the_middle)

    assert killed
    wait_until(lambda: stack.pid(victim) != killed[0], what="its restart")
    assert len(run.sender.accepted) == payments
    run.wait_until_drained(DRAIN_SECONDS)
    assert list(map(str, run.check())) == []
    paid = [client.get(f"/v1/payments/{one.payment_id}")["status"] for client, one in run.each()]
    assert paid == ["paid"] * payments
