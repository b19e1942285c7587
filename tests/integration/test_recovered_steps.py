"""Steps made of documents by a recovery: before what was asked for later, never rejected, usable."""

import pytest
from sqlalchemy import text

from bridge.errors import RejectedError
from bridge.partner_mirror import PartnerMirror

pytestmark = pytest.mark.integration


def set_manual(bridge):
    with bridge.engine.begin() as connection:
        connection.execute(text("UPDATE payments SET capture = 'manual'"))


def steps(restorable):
    return [(row.kind, row.amount_minor, row.status) for row in restorable.operations()]


@pytest.mark.parametrize("marked", [True, False])
def test_more_was_refunded_than_was_captured(restorable, bridge, marked):
    """The refund of 50000 stood before the lost one of 100000. `marked`: asked for before it began."""
    first = bridge.accept()
    bridge.step(first)
    restorable.back_up()
    bridge.step(bridge.queue(first, "refund", 100000))
    restorable.restore()
    if marked:
        bridge.queue(first, "refund", 50000)
    assert restorable.begin().status_code == 201
    if not marked:
        bridge.clock.advance(1)
        bridge.queue(first, "refund", 50000)
    assert restorable.job().run()
    restorable.let_all_go_on()
    assert steps(restorable) == [
        ("payment", 125000, "succeeded"), ("refund", 100000, "succeeded"), ("refund", 50000, "rejected")
    ]  # fmt: skip
    assert bridge.row(first).refunded_minor == 100000
    assert len(bridge.sap.booked) == 2


def test_several_lost_steps_keep_their_order_and_what_fits_behind_them_is_posted(restorable, bridge):
    first = bridge.accept()
    bridge.step(first)
    waiting = bridge.queue(first, "refund", 5000)
    restorable.back_up()
    bridge.step(waiting)
    for amount in (10000, 20000):
        bridge.step(bridge.queue(first, "refund", amount))
    restorable.restore()
    restorable.begin()
    bridge.clock.advance(1)
    for amount in (70000, 30000):
        bridge.queue(first, "refund", amount)
    assert restorable.job().run()
    restorable.let_all_go_on()
    assert steps(restorable)[1:] == [
        ("refund", 5000, "succeeded"), ("refund", 10000, "succeeded"), ("refund", 20000, "succeeded"),
        ("refund", 70000, "succeeded"), ("refund", 30000, "rejected"),
    ]  # fmt: skip
    assert bridge.row(first).refunded_minor == 105000


def test_a_step_sent_again_takes_the_lost_one_s_document_and_its_place(restorable, bridge):
    first = bridge.accept()
    bridge.step(first)
    restorable.back_up()
    bridge.step(bridge.queue(first, "refund", 100000))
    restorable.restore()
    restorable.begin()
    bridge.clock.advance(1)
    other, again = bridge.queue(first, "refund", 50000), bridge.queue(first, "refund", 100000)
    assert restorable.job().run()
    restorable.let_all_go_on()
    assert (bridge.row(again).status, bridge.row(again).position) == ("succeeded", 2)
    assert (bridge.row(other).status, bridge.row(other).position) == ("rejected", 3)
    assert len(bridge.sap.booked) == 2


def test_a_reversal_was_posted_although_sap_had_captured(restorable, bridge):
    first = bridge.accept("authorize")
    set_manual(bridge)
    bridge.step(first)
    restorable.back_up()
    bridge.step(bridge.queue(first, "capture", 125000))
    restorable.restore()
    restorable.begin()
    bridge.queue(first, "reverse", 125000)
    assert restorable.job().run()
    restorable.let_all_go_on()
    assert [status for *_, status in steps(restorable)] == ["succeeded", "succeeded", "rejected"]
    assert (bridge.row(first).payment_status, bridge.row(first).captured_minor) == ("paid", 125000)
    assert len(bridge.sap.booked) == 2


def test_a_refund_that_sap_had_paid_was_rejected_with_the_one_before_it(restorable, bridge):
    """The backup's own refund is refused; the lost one behind it is in SAP."""
    first = bridge.accept()
    bridge.step(first)
    before = bridge.queue(first, "refund", 50000)
    restorable.back_up()
    bridge.sap.script.append("refuse:102(F5)")
    bridge.step(before)
    bridge.step(bridge.queue(first, "refund", 60000))
    restorable.restore()
    restorable.recover()
    bridge.sap.script.append("refuse:102(F5)")
    restorable.let_all_go_on()
    assert steps(restorable)[1:] == [("refund", 50000, "rejected"), ("refund", 60000, "succeeded")]
    assert bridge.row(first).refunded_minor == 60000


def test_an_operator_s_reject_takes_along_nothing_that_sap_may_have(restorable, bridge):
    first = bridge.accept()
    bridge.step(first)
    before = bridge.queue(first, "refund", 50000)
    restorable.back_up()
    bridge.sap.script.append("refuse:102(F5)")
    bridge.step(before)
    bridge.step(bridge.queue(first, "refund", 60000))
    restorable.restore()
    restorable.recover()
    assert restorable.stage.act(before, "reject") == "pending"
    restorable.let_all_go_on()
    assert steps(restorable)[1:] == [("refund", 50000, "rejected"), ("refund", 60000, "succeeded")]


@pytest.mark.parametrize(("lost_kind", "new_kind"), [("payment", "authorize"), ("authorize", "payment")])
def test_a_document_of_another_kind_was_given_to_a_payment_sent_again(
    restorable, bridge, lost_kind, new_kind
):
    restorable.back_up()
    lost = bridge.accept(lost_kind)
    external_id = bridge.row(lost).payment_id
    bridge.step(lost)
    restorable.restore()
    restorable.begin()
    again = bridge.accept(new_kind)
    restorable.send_again_as(again, external_id)
    assert restorable.job().run()
    restorable.let_all_go_on()
    row = bridge.row(again)
    assert (row.status, row.parked_reason) == ("parked", "reference-conflict")
    assert len(bridge.sap.booked) == 1
    (document,) = restorable.unplaced()
    assert (document["number"], document["reason"]) == ("1400000001", "sent-again-otherwise")
    assert document["external_id"] == external_id


def test_what_followed_a_payment_that_could_not_be_placed_is_not_given_to_another(restorable, bridge):
    restorable.back_up()
    lost = bridge.accept("authorize")
    set_manual(bridge)
    external_id = bridge.row(lost).payment_id
    bridge.step(lost)
    bridge.step(bridge.queue(lost, "capture", 125000))
    restorable.restore()
    restorable.begin()
    again = bridge.accept("payment")
    restorable.send_again_as(again, external_id)
    assert restorable.job().run()
    restorable.let_all_go_on()
    assert steps(restorable) == [("payment", 125000, "parked")]
    assert [one["reason"] for one in restorable.unplaced()] == ["sent-again-otherwise", "payment-unplaced"]
    assert bridge.row(again).parked_reason == "reference-conflict"


@pytest.mark.parametrize("kind", ["capture", "reverse"])
def test_a_recovered_authorisation_could_be_neither_captured_nor_reversed(restorable, bridge, kind):
    restorable.back_up()
    lost = bridge.accept("authorize")
    bridge.step(lost)
    restorable.restore()
    restorable.recover()
    restorable.let_all_go_on()
    (authorized,) = restorable.operations()
    restorable.operate(authorized.payment_id, kind)
    restorable.let_all_go_on()
    row = restorable.operations()[1]
    assert (row.kind, row.status) == (kind, "succeeded")
    assert row.payment_status == {"capture": "paid", "reverse": "reversed"}[kind]


def test_a_recovered_payment_could_not_be_refunded(restorable, bridge):
    restorable.back_up()
    bridge.step(bridge.accept())
    restorable.restore()
    restorable.recover()
    restorable.let_all_go_on()
    restorable.operate(restorable.operations()[0].payment_id, "refund")
    restorable.let_all_go_on()
    assert restorable.operations()[1].payment_status == "refunded"


def test_what_retention_has_erased_is_still_not_captured(restorable, bridge):
    first = bridge.accept("authorize")
    set_manual(bridge)
    bridge.step(first)
    with pytest.raises(RejectedError) as refused:
        restorable.operate(bridge.row(first).payment_id, "capture")
    assert refused.value.slug == "retention-expired"


def test_what_waited_for_a_held_partner_never_went_on_after_a_restore(restorable, bridge):
    set_posting(bridge, "held")
    operation_id = bridge.accept()
    bridge.step(operation_id)
    assert bridge.row(operation_id).parked_reason == "partner-held"
    restorable.back_up()
    restorable.restore()
    restorable.recover()
    set_posting(bridge, "active")
    restorable.watch(2)
    assert bridge.row(operation_id).status == "unknown"
    restorable.let_all_go_on()
    assert bridge.row(operation_id).status == "succeeded"
    assert len(bridge.sap.sendings) == 1


def test_what_follows_a_scheduled_payment_ends_with_its_cancellation(restorable, bridge):
    """Nobody can have sent any of it before its day: SAP is not asked about the later step, either."""
    first = bridge.accept()
    refund = bridge.queue(first, "refund", 1000)
    with bridge.engine.begin() as connection:
        connection.execute(
            text("UPDATE payments SET status = 'scheduled', requested_execution_date = '2026-12-24'")
        )
        connection.execute(text("UPDATE operations SET status = 'scheduled' WHERE position = 1"))
    restorable.back_up()
    restorable.restore()
    restorable.recover()
    restorable.cancel(bridge.row(first).payment_id)
    assert [bridge.row(step).status for step in (first, refund)] == ["cancelled", "rejected"]


def set_posting(bridge, posting):
    standing = bridge.directory.configuration
    newest = standing.model_copy(update={"posting": posting, "version": standing.version + 1})
    PartnerMirror(bridge.engine).remember(newest, bridge.clock.now())
    bridge.directory.configuration = newest
