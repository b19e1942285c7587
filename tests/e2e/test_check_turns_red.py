"""Faults planted in a real stack: the check of the invariants finds each of them."""

import subprocess
import sys

import pytest
from local_stack import stopped
from partner_run import PartnerRun
from sqlalchemy import text
from waiting import DEADLINE_SECONDS

from devstack.demo.planted_fault import document_missing
from devstack.evidence import open_database
from devstack.layout import REPOSITORY

pytestmark = [pytest.mark.e2e, pytest.mark.plants_faults]

PAYMENTS = 4


@pytest.fixture
def run(stack):
    """A run of a few payments in which all is well."""
    run = PartnerRun.on(stack)
    run.sender.send("red", PAYMENTS)
    run.wait_until_drained()
    assert run.check() == []
    return run


def told(run):
    return [str(violation) for violation in run.check()]


def test_a_document_taken_out_of_saps_ledger_is_told(stack, run):
    reference = stack.sap("GET", "/_control/documents")[-1]["reference"]
    with document_missing(stack.layout.data("sap_mock.sqlite"), reference):
        violations = told(run)
    # and the clearing account lacks what the document had moved
    assert all(violation.startswith("invariant 2: ") for violation in violations)
    assert any(f"is succeeded and has no document {reference} in SAP" in each for each in violations)
    assert run.check() == []


def change(run, statement, **parameters):
    """Change the database behind everybody's back."""
    with open_database(run.running).begin() as connection:
        return connection.execute(text(statement), parameters).rowcount


def test_a_deleted_delivery_is_told(run):
    payment_id = run.sender.accepted[0].payment_id
    of_paid = """(SELECT delivery_id FROM webhooks.deliveries JOIN events USING (event_id)
                  WHERE payment_id = :payment_id AND event_type = 'payment.paid')"""
    assert change(run, f"DELETE FROM webhooks.attempts WHERE delivery_id IN {of_paid}", payment_id=payment_id)
    assert change(
        run, f"DELETE FROM webhooks.deliveries WHERE delivery_id IN {of_paid}", payment_id=payment_id
    )
    assert any(
        line.startswith("invariant 4: the delivery of evt_") and "missing" in line for line in told(run)
    )


def test_a_lost_payment_is_told(run):
    # what a database restored from an old backup would look like, and only to this check
    payment_id = run.sender.accepted[0].payment_id
    assert change(
        run,
        "UPDATE payments SET created_at = created_at - interval '1 day' WHERE payment_id = :payment_id",
        payment_id=payment_id,
    )
    assert any(line.startswith(f"invariant 1: {payment_id}") and "not stored" in line for line in told(run))


def test_a_gap_in_the_feed_is_told(stack, run):
    event = "(SELECT event_id FROM events WHERE payment_id = :payment_id AND event_type = 'payment.accepted')"
    payment_id = run.sender.accepted[0].payment_id
    lend, give_back = (
        f"UPDATE feed SET sequence = sequence {sign} 1000000 WHERE event_id = {event}" for sign in "+-"
    )
    # who reads the feed meanwhile would take what it sees for the truth
    with stopped(stack, "webhooks", "dispatcher"):
        assert change(run, lend, payment_id=payment_id)
        try:
            assert any(line.startswith("invariant 4: the feed of par_") for line in told(run))
        finally:
            change(run, give_back, payment_id=payment_id)


def test_personal_data_in_clear_is_told(run):
    name = run.instructions.debtor_name
    assert change(
        run,
        """INSERT INTO audit (actor, action, subject, reason, created_at)
           VALUES ('test', 'plant', 'audit', :name, '2026-01-01Z')""",
        name=f"called {name}",
    )
    run.running.logs_folder.joinpath("planted.log").write_text(f"refused {run.instructions.debtor_iban}\n")
    try:
        assert [line for line in told(run) if line.startswith("invariant 6: ")] == [
            "invariant 6: 1 rows of public.audit show planted personal data",
            "invariant 6: planted.log shows planted personal data",
        ]
    finally:
        run.running.logs_folder.joinpath("planted.log").unlink()
        change(run, "DELETE FROM audit WHERE actor = 'test'")


def test_the_demo_leaves_a_running_stack_alone(stack):
    before = stack.document
    command = [sys.executable, "-m", "devstack.demo", f"--state-dir={stack.layout.state_folder}"]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS
    )
    assert done.returncode == 1
    (line,) = (done.stdout + done.stderr).splitlines()
    assert "a stack is already running here" in line
    assert stack.document == before
