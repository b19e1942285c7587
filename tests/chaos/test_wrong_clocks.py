"""Services whose wall clocks are wrong or jump: all is paid and told meanwhile, and nothing is parked.

A plain run sets all of them wrong at once, each in another way. `make wrong-clocks` (`--chaos-full`) takes
each service alone, 90 s and 10 min ahead and behind, and jumping, with 80 payments each.
"""

import pytest
from local_stack import private_stack
from partner_run import PartnerRun
from sqlalchemy import text
from waiting import wait_until
from wrong_clocks import SKEWED, jumping_clocks, wrong_clocks

from devstack.evidence import open_database

pytestmark = [pytest.mark.chaos, pytest.mark.plants_faults, pytest.mark.timeout(900)]

SERVICES = ("gateway", "dispatcher", "sap_adapter", "webhooks")
JUMPING = "jumping"
SHIFTS_SECONDS = (90.0, -90.0, 600.0, -600.0, JUMPING)
APART = {
    "gateway": 600.0, "dispatcher": 90.0, "sap_adapter": -90.0, "webhooks": -600.0, "backoffice": 90.0
}  # fmt: skip
THE_OTHER_WAY_ROUND = {name: -seconds for name, seconds in APART.items()}
QUICK = {
    "apart": APART,
    "apart-the-other-way-round": THE_OTHER_WAY_ROUND,
    "all-jumping": dict.fromkeys(SERVICES, JUMPING),
}
FULL = {f"{name} {shift}": {name: shift} for name in SERVICES for shift in SHIFTS_SECONDS}
QUICK_PAYMENTS, FULL_PAYMENTS = 16, 80
# of a call that may take 10 s, under a lease of 12 s
SAP_LATENCY_MS = 4000
DRAIN_SECONDS = 400.0
PARKED = text("SELECT count(*) FROM operations WHERE status = 'parked' OR delayed_at IS NOT NULL")
FASTEST_POSTING = text("SELECT min(last_latency_ms) FROM sap_slots WHERE last_outcome = 'posted'")
# A row goes just after its message has arrived; a measurement of the read lag takes a permit now and then.
LEFT_BEHIND = text("""
    SELECT (SELECT count(*) FROM outbox)
         + (SELECT count(*) FROM sap_slots WHERE operation_id IS NOT NULL AND operation_id <> 'read-lag')
""")


def pytest_generate_tests(metafunc):
    if "clocks" in metafunc.fixturenames:
        full = metafunc.config.getoption("chaos_full", default=False)
        cases = FULL if full else QUICK
        payments = FULL_PAYMENTS if full else QUICK_PAYMENTS
        metafunc.parametrize(("clocks", "payments"), [(one, payments) for one in cases.values()], ids=cases)


@pytest.fixture(scope="module")
def stack():
    with private_stack(SKEWED) as running:
        yield running


def set_wrong(stack, clocks):
    if JUMPING in clocks.values():
        return jumping_clocks(stack, list(clocks))
    return wrong_clocks(stack, clocks)


def count(run, statement):
    with open_database(run.running).connect() as connection:
        return connection.execute(statement).scalar_one()


def test_with_wrong_clocks_all_is_paid_and_told_and_nothing_parked(stack, clocks, payments):
    run = PartnerRun.on(stack)
    stack.sap("PUT", "/_control/faults", json={"latency_ms": SAP_LATENCY_MS})
    try:
        with set_wrong(stack, clocks):
            run.sender.send("wrong-clocks", payments)
            assert len(run.sender.accepted) == payments
            run.wait_until_drained(DRAIN_SECONDS)
    finally:
        stack.sap("PUT", "/_control/faults", json={})
    run.assert_each_is_booked_once(payments)
    assert count(run, PARKED) == 0
    assert count(run, FASTEST_POSTING) >= SAP_LATENCY_MS
    wait_until(lambda: count(run, LEFT_BEHIND) == 0, what="no outbox row and no permit is left behind")
