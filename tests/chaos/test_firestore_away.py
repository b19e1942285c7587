"""Firestore is away for a while and services start cold meanwhile: payments go on from the last good copies.

A plain run takes it away for 15 seconds, `--chaos-full` for a minute.
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
import requests
from partner_run import PartnerRun
from waiting import DEADLINE_SECONDS, wait_until

from devstack.layout import REPOSITORY

pytestmark = [pytest.mark.chaos, pytest.mark.plants_faults]

AWAY_SECONDS = 15.0
AWAY_SECONDS_FULL = 60.0
# the supervisor brings it back; the emulator takes two seconds before it answers
KILL_AGAIN_SECONDS = 0.2
COLD_STARTED = ("gateway", "sap_adapter", "webhooks")


@contextmanager
def kept_away(stack, name):
    """Kill the process as often as it comes back."""
    back = threading.Event()

    def kill():
        killed = None
        while not back.wait(KILL_AGAIN_SECONDS):
            pid = stack.pid(name)
            if pid != killed:
                os.kill(pid, signal.SIGKILL)
                killed = pid

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        back.set()
        thread.join()


def is_ready(stack, name):
    try:
        return requests.get(f"{stack.layout.url(name)}/readyz", timeout=5).status_code == 200
    except requests.RequestException:
        return False


def is_on_record(stack, partner_id):
    """The emulator is empty when it comes back; the stack then writes the demo partners anew."""
    url = f"{stack.layout.url('partners')}/admin/partners/{partner_id}"
    return requests.get(url, headers={"X-Operator": "test"}, timeout=DEADLINE_SECONDS).status_code == 200


def restart_cold(stack, name):
    before = stack.pid(name)
    os.kill(before, signal.SIGKILL)
    wait_until(
        lambda: stack.pid(name) != before and is_ready(stack, name),
        what=f"a cold start of {name}",
    )


def test_payments_are_accepted_posted_and_told_while_firestore_is_away(stack, request):
    full = request.config.getoption("chaos_full", default=False)
    run = PartnerRun.on(stack)
    with kept_away(stack, "firestore"):
        gone = threading.Timer(AWAY_SECONDS_FULL if full else AWAY_SECONDS, lambda: None)
        gone.start()
        for name in COLD_STARTED:
            restart_cold(stack, name)
        run.sender.send("away", 20, meanwhile=lambda: None)
        assert len(run.sender.accepted) == 20
        run.wait_until_drained()
        gone.join()
        run.sender.send("still-away", 10, meanwhile=lambda: None)
        run.wait_until_drained()
    assert list(map(str, run.check())) == []


def test_a_suspended_partner_is_refused_and_what_was_accepted_goes_on(stack):
    wait_until(lambda: is_ready(stack, "partners"), what="Firestore is back")
    token, partner_id = stack.token("second_partner"), stack.document["second_partner"]["id"]
    accepted = stack.pay(token, "before", payment("BEFORE"))
    assert accepted.status_code == 202
    wait_until(lambda: is_on_record(stack, partner_id), what="the partner is back")
    command(stack, "suspend", partner_id)
    wait_until(
        lambda: stack.request("GET", "/v1/payments", token).status_code == 403,
        what="the suspension takes effect",
    )
    refused = stack.pay(token, "after", payment("AFTER"))
    assert refused.status_code == 403
    assert refused.json()["type"].endswith("/problems/partner-suspended")
    told = accepted.json()["id"]
    wait_until(
        lambda: any(
            one["payment_id"] == told and one["type"] == "payment.paid" and one["verified"]
            for one in stack.received()
        ),
        what="what was accepted before is told",
    )
    command(stack, "resume", partner_id)
    wait_until(
        lambda: stack.pay(token, "after", payment("AFTER")).status_code == 202,
        what="the partner may pay again",
    )


def payment(external_id):
    return {
        "external_id": external_id,
        "amount": {"value": "1.00", "currency": "EUR"},
        "capture": "automatic",
    }


def command(stack, name, partner_id):
    """Run `bridge partners <name> <id>` as an operator does."""
    arguments = ["partners", "--url", stack.layout.url("partners"), name, partner_id, "--reason", "a test"]
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
