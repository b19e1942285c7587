"""What had ended is brought back by a document of SAP: it meets what has taken its place meanwhile."""

from dataclasses import replace

import pytest
from sqlalchemy import text

pytestmark = pytest.mark.integration

PLACE = "/admin/unplaced-documents/s4-main/1000/2026"


@pytest.fixture
def ended(restorable, bridge):
    """An authorisation and its capture: SAP has booked both, and they were ended before that was known."""
    first = bridge.accept("authorize")
    with bridge.engine.begin() as connection:
        connection.execute(text("UPDATE payments SET capture = 'manual'"))
    capture = bridge.queue(first, "capture")
    restorable.back_up()
    bridge.step(first)
    bridge.step(capture)
    restorable.restore()
    # the restore was not noticed
    restorable.cancel(bridge.row(first).payment_id)
    restorable.recover()
    assert [one["reason"] for one in restorable.unplaced()] == ["booked-though-ended"] * 2
    return first, capture


def accept_document(restorable, number):
    return restorable.stage.post(f"{PLACE}/{number}/accept")


def test_two_steps_of_a_payment_were_brought_back_at_once(restorable, bridge, ended):
    """The later one was unknown already when the first was to be: 500, and neither could be accepted."""
    assert accept_document(restorable, 1400000002).json == {"changed": True}
    assert accept_document(restorable, 1400000001).json == {"changed": True}
    restorable.let_all_go_on()
    assert [row.status for row in restorable.operations()] == ["succeeded", "succeeded"]
    assert bridge.row(ended[0]).payment_status == "paid"
    assert restorable.unplaced() == []
    assert len(bridge.sap.sendings) == 2


def test_a_step_was_brought_back_while_a_later_one_was_with_sap(restorable, bridge, ended):
    assert accept_document(restorable, 1400000002).status_code == 200
    refused, find = [], bridge.sap.find

    def accepted_meanwhile(company_code, reference):
        refused.append(accept_document(restorable, 1400000001))
        return find(company_code, reference)

    bridge.sap.find = accepted_meanwhile
    bridge.step(ended[1])
    assert [(one.status_code, "step-with-sap" in one.json["detail"]) for one in refused] == [(409, True)]
    bridge.sap.find = find
    # it came before the authorisation, so that it fits no payment: an operator accepts both
    assert bridge.row(ended[1]).parked_reason == "invalid-state"
    assert accept_document(restorable, 1400000001).status_code == 200
    restorable.let_all_go_on()
    assert restorable.stage.act(ended[1], "accept") == "accepted"
    assert bridge.row(ended[0]).payment_status == "paid"


def test_a_step_was_brought_back_although_its_external_id_was_in_use(restorable, bridge, ended):
    other = bridge.accept("authorize")
    restorable.send_again_as(other, bridge.row(ended[0]).payment_id)
    refused = accept_document(restorable, 1400000001)
    assert (refused.status_code, "external-id-taken" in refused.json["detail"]) == (409, True)
    assert len(restorable.unplaced()) == 2
    restorable.cancel(bridge.row(other).payment_id)
    assert accept_document(restorable, 1400000001).status_code == 200


def test_a_document_was_accepted_on_an_ended_payment_whose_external_id_was_in_use(restorable, bridge):
    first = bridge.accept()
    bridge.step(first)
    refund = bridge.queue(first, "refund", 100000)
    bridge.sap.script.append("commit-then-drop")
    bridge.step(refund)
    with bridge.engine.begin() as connection:
        connection.execute(text("UPDATE payments SET status = 'rejected', captured_minor = 0"))
    restorable.let_all_go_on()
    assert bridge.row(refund).parked_reason == "invalid-state"
    other = bridge.accept()
    restorable.send_again_as(other, bridge.row(first).payment_id)
    refused = restorable.stage.post(f"/admin/payments/{refund}/accept")
    assert (refused.status_code, "disown" in refused.json["detail"]) == (409, True)
    assert bridge.row(refund).found_documents == "1000/2026/1400000002"
    assert restorable.stage.act(other, "reject") == "rejected"
    assert restorable.stage.act(refund, "accept") == "accepted"
    assert (bridge.row(refund).payment_status, bridge.row(refund).refunded_minor) == ("refunded", 100000)


def test_a_document_brings_back_what_an_order_ended_and_is_off_the_list(restorable, bridge, ended):
    for number in (1400000001, 1400000002):
        assert accept_document(restorable, number).status_code == 200
    restorable.let_all_go_on()
    # a second recovery finds both documents again, with their operations
    restorable.back_up()
    restorable.restore()
    restorable.recover()
    assert restorable.unplaced() == []


def test_a_lost_refund_was_given_to_another_payment_with_the_external_id(restorable, bridge):
    """The document of its own payment was on the list: the partner had sent that again as another kind."""
    restorable.back_up()
    lost = bridge.accept()
    external_id = bridge.row(lost).payment_id
    bridge.step(lost)
    bridge.step(bridge.queue(lost, "refund", 1000))
    restorable.restore()
    restorable.begin()
    again = bridge.accept("authorize")
    restorable.send_again_as(again, external_id)
    assert restorable.job().run()
    assert [one["reason"] for one in restorable.unplaced()] == ["sent-again-otherwise", "payment-unplaced"]
    # the payment is not parked any more: SAP is asked before the order is carried out
    assert restorable.stage.act(again, "reject") == "pending"
    refused = accept_document(restorable, 1400000002)
    assert (refused.status_code, "payment-unplaced" in refused.json["detail"]) == (409, True)
    restorable.let_all_go_on()
    for number in (1400000001, 1400000002):
        assert accept_document(restorable, number).status_code == 200
    restorable.let_all_go_on()
    (payment,) = restorable.rows("SELECT status, refunded_minor FROM payments WHERE status <> 'rejected'")
    assert tuple(payment) == ("partially_refunded", 1000)


def test_the_second_document_of_an_operation_left_the_list_as_if_it_were_placed(restorable, bridge):
    """SAP had booked an ended operation twice; accepting the other document as well was answered with 500."""
    operation_id = bridge.accept()
    restorable.back_up()
    bridge.step(operation_id)
    posted = bridge.sap.posted[0]
    twin = replace(posted.found, document=replace(posted.found.document, number="1400000002"))
    bridge.sap.posted.append(replace(posted, found=twin))
    restorable.restore()
    restorable.cancel(bridge.row(operation_id).payment_id)
    restorable.recover()
    assert accept_document(restorable, 1400000001).json == {"changed": True}
    restorable.let_all_go_on()
    assert bridge.row(operation_id).sap_document_number == "1400000001"
    refused = accept_document(restorable, 1400000002)
    assert (refused.status_code, "second-document" in refused.json["detail"]) == (409, True)
    assert [one["number"] for one in restorable.unplaced()] == ["1400000002"]
