"""Captures, reversals and refunds in the adapter: one after the other, each from the state that it finds."""

import pytest
from lxml import etree
from posting_stage import SETTLING_SECONDS, make_bridge
from sqlalchemy import text

from dispatcher.watchdog import Watchdog, WatchdogSettings

pytestmark = pytest.mark.integration

CLEARING = "113100"


@pytest.fixture
def bridge(database):
    engine = database.engine_for("sap_adapter")
    yield make_bridge(database.engine, engine)
    engine.dispose()


def go(bridge, operation_id):
    """Dispatch the operation, whose turn must have come."""
    assert bridge.row(operation_id).not_before is not None, "it waits for the step before it"
    bridge.step(operation_id)
    return bridge.row(operation_id)


def state(row):
    return (row.payment_status, row.captured_minor, row.refunded_minor)


def clearing_account(bridge):
    """What the documents sent leave on the clearing account, in cents."""
    return sum(
        round(float(item.findtext("AmountInTransactionCurrency")) * 100)
        for sent in bridge.sap.sendings
        for item in etree.fromstring(sent.content).iterfind("Item")
        if item.findtext("GLAccount") == CLEARING
    )


def test_authorized_captured_in_part_and_refunded_twice_in_this_order(bridge):
    first = bridge.accept("authorize")
    capture, one, two = (
        bridge.queue(first, kind, cents)
        for kind, cents in (("capture", 100000), ("refund", 30000), ("refund", 70000))
    )
    assert [bridge.row(step).not_before for step in (capture, one, two)] == [None] * 3
    bridge.step(first)
    assert state(bridge.row(first)) == ("authorized", 0, 0)
    assert clearing_account(bridge) == 0, "an authorisation is only noted"
    assert [bridge.row(step).not_before for step in (one, two)] == [None] * 2
    assert state(go(bridge, capture)) == ("paid", 100000, 0)
    assert clearing_account(bridge) == 100000
    assert bridge.row(two).not_before is None
    assert state(go(bridge, one)) == ("partially_refunded", 100000, 30000)
    assert state(go(bridge, two)) == ("refunded", 100000, 100000)
    assert clearing_account(bridge) == 0
    assert [bridge.events(step) for step in (first, capture, one, two)] == [
        ["payment.authorized"], ["payment.paid"], ["payment.refunded"], ["payment.refunded"],
    ]  # fmt: skip


def test_an_authorisation_is_noted_with_an_indicator_beside_the_balance_sheet(bridge):
    bridge.step(bridge.accept("authorize"))
    entry = etree.fromstring(bridge.sap.sendings[0].content)
    assert entry.findtext("Item/GLAccount") == "199100"
    assert entry.findtext("DebtorItem/SpecialGLCode") == "G"


def test_a_reversal_names_the_document_of_the_authorisation_and_touches_nothing_else(bridge):
    first = bridge.accept("authorize")
    reversal = bridge.queue(first, "reverse")
    bridge.step(first)
    row = go(bridge, reversal)
    assert (row.status, row.payment_status) == ("succeeded", "reversed")
    entry = etree.fromstring(bridge.sap.sendings[1].content)
    authorized = bridge.row(first)
    assert entry.findtext("ReversalReason") == "01"
    assert entry.findtext("ReversalReferenceDocument") == (
        authorized.sap_document_number + authorized.sap_company_code + authorized.sap_fiscal_year
    )
    assert entry.find("Item") is None
    assert bridge.events(reversal) == ["payment.reversed"]


def test_a_step_whose_answer_was_lost_lets_the_next_go_once_it_is_found(bridge):
    first = bridge.accept()
    refund = bridge.queue(first, "refund", 1)
    bridge.sap.script.append("commit-then-drop")
    bridge.step(first)
    assert (bridge.row(first).status, bridge.row(refund).not_before) == ("unknown", None)
    bridge.clock.advance(1)
    bridge.step(first)
    bridge.sap.script.append("commit-then-drop")
    assert go(bridge, refund).status == "unknown"
    bridge.clock.advance(1)
    bridge.step(refund)
    assert state(bridge.row(refund)) == ("partially_refunded", 125000, 1)
    assert len(bridge.sap.booked) == 2


def test_a_later_step_takes_the_place_in_its_lane_that_it_was_accepted_for(bridge):
    """It was dated with the end of the step before it, behind the whole backlog of an outage."""
    first = bridge.accept()
    refund = bridge.queue(first, "refund")
    accepted_at = bridge.clock.now()
    bridge.clock.advance(3600)
    bridge.step(first)
    assert bridge.row(refund).not_before == accepted_at


def test_a_refused_capture_takes_what_waits_behind_it_along(bridge):
    first = bridge.accept("authorize")
    capture, refund = bridge.queue(first, "capture"), bridge.queue(first, "refund")
    bridge.step(first)
    bridge.sap.script.append("refuse:102(F5)")
    assert (go(bridge, capture).status, bridge.row(refund).status) == ("rejected", "rejected")
    assert state(bridge.row(first)) == ("authorized", 0, 0)
    assert bridge.events(refund) == ["payment.refund_rejected"]
    reversal = bridge.queue(first, "reverse")
    bridge.step(reversal)
    assert bridge.row(reversal).payment_status == "reversed"


def test_a_parked_step_holds_the_next_ones_back(bridge):
    first = bridge.accept()
    refund = bridge.queue(first, "refund")
    bridge.sap.script.append("refuse:201(F5)")
    bridge.step(first)
    assert (bridge.row(first).status, bridge.row(refund).not_before) == ("parked", None)


def test_a_message_that_came_out_of_turn_makes_no_call_and_waits_again(bridge):
    first = bridge.accept()
    refund = bridge.queue(first, "refund")
    bridge.step(refund)
    row = bridge.row(refund)
    assert (row.status, row.claims_started, row.not_before) == ("accepted", 0, None)
    assert row.outbox_row is not None
    assert bridge.sap.sendings == []
    bridge.step(first)
    assert go(bridge, refund).payment_status == "refunded"


def test_what_the_payment_does_not_allow_any_more_is_rejected_unsent(bridge):
    first = bridge.accept()
    refund = bridge.queue(first, "refund")
    bridge.step(first)
    with bridge.engine.begin() as connection:
        connection.execute(text("UPDATE payments SET status = 'refunded', refunded_minor = captured_minor"))
    row = go(bridge, refund)
    assert (row.status, row.failure_code, row.sent_unresolved) == ("rejected", "overtaken", False)
    assert bridge.events(refund) == ["payment.refund_rejected"]
    assert len(bridge.sap.sendings) == 1
    assert bridge.busy_slots() == 0


def test_a_step_that_nobody_let_go_is_found(bridge, database):
    """The adapter of the release before did not know later steps; nor would it matter why."""
    first = bridge.accept()
    refund, other = bridge.queue(first, "refund", 1), bridge.queue(first, "refund", 1)
    waiting = bridge.queue(bridge.accept(), "refund", 1)
    bridge.step(first)
    with bridge.engine.begin() as connection:
        connection.execute(text("UPDATE outbox SET not_before = NULL WHERE operation_id IS NOT NULL"))
    engine = database.engine_for("dispatcher")
    settings = WatchdogSettings(5.0, 60.0, SETTLING_SECONDS, 900.0)
    Watchdog(engine, bridge.clock, settings, lambda: None).go_round()
    engine.dispose()
    assert bridge.row(refund).not_before == bridge.clock.now()
    assert [bridge.row(step).not_before for step in (other, waiting)] == [None, None]
