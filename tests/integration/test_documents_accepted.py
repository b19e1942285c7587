"""What SAP has and the books do not allow stays visible, and an operator says whether it is ours."""

from dataclasses import replace

import pytest
from backoffice_stage import OPERATOR
from posting_stage import READ_LAG_SECONDS, SETTLING_SECONDS
from sqlalchemy import text

from bridge.money import Money

pytestmark = pytest.mark.integration

ADMIN = "/admin/unplaced-documents"


@pytest.fixture
def misfit(restorable, bridge):
    """A refund that SAP has booked although the payment had nothing left: it was refunded by hand here."""
    first = bridge.accept()
    bridge.step(first)
    refund = bridge.queue(first, "refund", 100000)
    bridge.sap.script.append("commit-then-drop")
    bridge.step(refund)
    with bridge.engine.begin() as connection:
        connection.execute(text("UPDATE payments SET refunded_minor = 50000, status = 'partially_refunded'"))
    restorable.let_all_go_on()
    return refund


def test_an_outcome_that_did_not_fit_the_payment_ended_as_poison(restorable, bridge, misfit):
    row = bridge.row(misfit)
    assert (row.status, row.parked_reason) == ("parked", "invalid-state")
    assert row.found_documents == "1000/2026/1400000002"
    # asked again it is found again, however often, and an order to reject it lapses with a line in the trail
    for action, outcome in (("redrive", "redriven"), ("reject", "pending")):
        assert restorable.stage.act(misfit, action) == outcome
        restorable.watch(3)
        restorable.let_all_go_on()
        row = bridge.row(misfit)
        assert (row.parked_reason, row.found_documents) == ("invalid-state", "1000/2026/1400000002")
    actions = [(actor, action, reason) for actor, action, _, reason in restorable.stage.audit()]
    assert actions[-1] == ("bridge", "operation.reject lapsed", "invalid-state")


def test_an_operator_accepts_a_document_that_did_not_fit(restorable, bridge, misfit):
    waiting = bridge.queue(misfit, "refund", 1)
    assert restorable.stage.act(misfit, "accept") == "accepted"
    row = bridge.row(misfit)
    assert (row.status, row.sap_document_number, row.sent_unresolved) == ("succeeded", "1400000002", False)
    assert (row.payment_status, row.captured_minor, row.refunded_minor) == ("refunded", 125000, 150000)
    assert bridge.events(misfit)[-1] == "payment.refunded"
    assert restorable.stage.audit()[-1][1:] == ("operation.accept", misfit, "ticket 4711")
    restorable.let_all_go_on()
    assert bridge.row(waiting).failure_code == "overtaken"
    assert restorable.stage.act(misfit, "accept") == "unchanged"


def test_an_operator_disowns_a_document(restorable, bridge, misfit):
    assert restorable.stage.act(misfit, "disown") == "rejected"
    row = bridge.row(misfit)
    assert (row.status, row.failure_code, row.sent_unresolved) == ("rejected", "rejected-by-operator", False)
    assert row.refunded_minor == 50000
    assert restorable.stage.act(misfit, "disown") == "unchanged"


def test_of_several_documents_an_operator_names_one(restorable, bridge):
    operation_id = bridge.accept()
    bridge.sap.script.append("commit-then-drop")
    bridge.step(operation_id)
    bridge.sap.booked.append((bridge.sap.booked[0][0], _another(bridge.sap.booked[0][1])))
    restorable.let_all_go_on()
    path = f"/admin/payments/{operation_id}/accept"
    refused = restorable.stage.post(path)
    assert refused.status_code == 409
    assert "1000/2026/1400000001, 1000/2026/1400000099" in refused.json["detail"]
    assert restorable.stage.post(path, {"document": "1000/2026/1"}).status_code == 409
    assert restorable.stage.act(operation_id, "accept", document="1000/2026/1400000001") == "accepted"
    assert bridge.row(operation_id).payment_status == "paid"


def _another(found):
    document = replace(found.document, number="1400000099")
    return replace(found, document=document, amount=Money(7, "EUR"))


@pytest.mark.parametrize("action", ["accept", "disown"])
def test_only_an_operation_that_is_parked_over_a_document_is_decided(restorable, bridge, action):
    operation_id = bridge.accept()
    assert restorable.stage.post(f"/admin/payments/{operation_id}/{action}").status_code == 409


def test_a_reference_conflict_had_no_way_out(restorable, bridge):
    """An order to reject it was dropped without a word, and the external id stayed taken."""
    restorable.back_up()
    lost = bridge.accept()
    external_id = bridge.row(lost).payment_id
    bridge.step(lost)
    restorable.restore()
    restorable.begin()
    again = bridge.accept()
    restorable.send_again_as(again, external_id, amount_minor=1)
    assert restorable.job().run()
    restorable.let_all_go_on()
    assert bridge.row(again).parked_reason == "reference-conflict"
    # its document has to wait for as long as the other payment has the external id
    place = f"{ADMIN}/s4-main/1000/2026/1400000001"
    refused = restorable.stage.post(f"{place}/accept")
    assert (refused.status_code, "sent-again-otherwise" in refused.json["detail"]) == (409, True)
    assert restorable.stage.act(again, "reject") == "pending"
    restorable.let_all_go_on()
    assert bridge.row(again).status == "rejected"
    assert restorable.stage.post(f"{place}/accept").json == {"changed": True}
    restorable.let_all_go_on()
    (paid,) = restorable.rows("SELECT external_id FROM payments WHERE status = 'paid'")
    assert paid.external_id == external_id
    assert len(bridge.sap.booked) == 1
    assert restorable.unplaced() == []
    assert restorable.stage.post(f"{place}/accept").json == {"changed": False}


def test_a_document_of_an_ended_operation_brings_it_back(restorable, bridge):
    operation_id = bridge.accept()
    restorable.back_up()
    bridge.step(operation_id)
    restorable.restore()
    # the restore was not noticed
    restorable.cancel(bridge.row(operation_id).payment_id)
    restorable.recover()
    listed = restorable.stage.client.get(ADMIN, headers=OPERATOR).json["data"]
    assert [one["reason"] for one in listed] == ["booked-though-ended"]
    place = f"{ADMIN}/s4-main/1000/2026/1400000001"
    assert restorable.stage.post(f"{place}/accept").json == {"changed": True}
    restorable.let_all_go_on()
    assert (bridge.row(operation_id).status, bridge.row(operation_id).payment_status) == ("succeeded", "paid")
    assert len(bridge.sap.booked) == 1


def test_a_document_that_is_not_ours_is_dismissed(restorable, bridge):
    operation_id = bridge.accept()
    restorable.back_up()
    bridge.step(operation_id)
    restorable.restore()
    restorable.cancel(bridge.row(operation_id).payment_id)
    restorable.recover()
    place = f"{ADMIN}/s4-main/1000/2026/1400000001"
    assert restorable.stage.post(f"{place}/dismiss").json == {"changed": True}
    assert restorable.unplaced() == []
    assert restorable.stage.audit()[-1][1:] == (
        "unplaced-document.dismiss", "s4-main/1000/2026/1400000001", "ticket 4711"
    )  # fmt: skip
    assert restorable.stage.post(f"{ADMIN}/s4-main/1000/2026/1/dismiss").status_code == 404


def test_a_document_of_an_ended_operation_had_it_sent_when_sap_did_not_show_it(restorable, bridge):
    """Whoever ended it did not want it: a document that is gone is no reason to post another."""
    operation_id = bridge.accept()
    restorable.back_up()
    bridge.step(operation_id)
    restorable.restore()
    restorable.cancel(bridge.row(operation_id).payment_id)
    restorable.recover()
    assert restorable.stage.post(f"{ADMIN}/s4-main/1000/2026/1400000001/accept").json == {"changed": True}
    bridge.sap.hidden = True
    restorable.let_all_go_on()
    row = bridge.row(operation_id)
    assert (row.status, row.payment_status) == ("rejected", "rejected")
    assert len(bridge.sap.booked) == 1


@pytest.fixture
def unplaced(restorable, bridge):
    """A document of a lost payment whose external id was taken by a payment that was rejected since."""
    restorable.back_up()
    lost = bridge.accept()
    external_id = bridge.row(lost).payment_id
    bridge.step(lost)
    restorable.restore()
    restorable.begin()
    other = bridge.accept("authorize")
    restorable.send_again_as(other, external_id)
    assert restorable.job().run()
    restorable.let_all_go_on()
    restorable.stage.act(other, "reject")
    restorable.let_all_go_on()
    assert [one["reason"] for one in restorable.unplaced()] == ["sent-again-otherwise"]
    return external_id


@pytest.mark.parametrize("settled_by", ["accept", "dismiss"])
def test_a_payment_sent_again_was_posted_beside_the_unplaced_document_of_the_lost_one(
    restorable, bridge, unplaced, settled_by
):
    again = bridge.accept()
    restorable.send_again_as(again, unplaced)
    bridge.step(again)
    row = bridge.row(again)
    assert (row.status, row.parked_reason) == ("parked", "reference-conflict")
    assert bridge.events(again)[-1] == "payment.delayed"
    path = f"{ADMIN}/s4-main/1000/2026/1400000001/{settled_by}"
    assert restorable.stage.post(path).json == {"changed": True}
    if settled_by == "dismiss":
        assert restorable.stage.act(again, "redrive") == "redriven"
    restorable.let_all_go_on()
    number = {"accept": "1400000001", "dismiss": "1400000002"}[settled_by]
    assert (bridge.row(again).status, bridge.row(again).sap_document_number) == ("succeeded", number)


@pytest.mark.parametrize("word", ["ok", "commit-then-drop"])
def test_a_document_was_given_to_a_payment_that_sap_was_just_booking(restorable, bridge, unplaced, word):
    """Its own document was then looked for by nobody: paid twice, and one of them out of sight.

    It was on its way before the document was put on the list.
    """
    again = bridge.accept()
    place = f"{ADMIN}/s4-main/1000/2026/1400000001/accept"
    refused, post = [], bridge.sap.post

    def accepted_meanwhile(sending):
        restorable.send_again_as(again, unplaced)
        refused.append(restorable.stage.post(place))
        return post(sending)

    bridge.sap.post = accepted_meanwhile
    bridge.sap.script.append(word)
    bridge.step(again)
    if bridge.row(again).status == "unknown":
        refused.append(restorable.stage.post(place))
    assert {(one.status_code, "step-with-sap" in one.json["detail"]) for one in refused} == {(409, True)}
    restorable.let_all_go_on()
    row = bridge.row(again)
    assert (row.status, row.sap_document_number) == ("succeeded", "1400000002")
    assert [one["number"] for one in restorable.unplaced()] == ["1400000001"]
    assert "external-id-taken" in restorable.stage.post(place).json["detail"]


def test_a_document_is_given_to_a_payment_that_nobody_has_sent(restorable, bridge, unplaced):
    again = bridge.accept()
    restorable.send_again_as(again, unplaced)
    assert restorable.stage.post(f"{ADMIN}/s4-main/1000/2026/1400000001/accept").json == {"changed": True}
    restorable.let_all_go_on()
    row = bridge.row(again)
    assert (row.status, row.sap_document_number) == ("succeeded", "1400000001")
    assert len(bridge.sap.booked) == 1


def test_a_lost_document_was_given_to_a_refund_that_sap_was_just_booking(restorable, bridge):
    first = bridge.accept()
    bridge.step(first)
    restorable.back_up()
    bridge.step(bridge.queue(first, "refund", 50000))
    restorable.restore()
    posted = bridge.sap.posted
    unknown, posted[-1] = posted[-1], replace(posted[-1], external_id="another")
    restorable.recover()
    assert [one["reason"] for one in restorable.unplaced()] == ["payment-unknown"]
    restorable.let_all_go_on()
    bridge.clock.advance(1)
    refund = bridge.queue(first, "refund", 50000)
    bridge.sap.script.append("commit-then-drop")
    bridge.step(refund)
    with bridge.engine.begin() as connection:
        connection.execute(
            text("UPDATE unplaced_documents SET external_id = :id"), {"id": unknown.external_id}
        )
    place = f"{ADMIN}/s4-main/1000/2026/1400000002/accept"
    assert "step-with-sap" in restorable.stage.post(place).json["detail"]
    restorable.let_all_go_on()
    assert bridge.row(refund).sap_document_number == "1400000003"
    assert restorable.stage.post(place).json == {"changed": True}
    restorable.let_all_go_on()
    assert bridge.row(first).refunded_minor == 100000


@pytest.fixture
def conflict(restorable, bridge):
    """A lost call: SAP has listed somebody else's document, and the operation's own is still to come."""
    operation_id = bridge.accept()
    bridge.sap.script.append("drop")
    bridge.step(operation_id)
    (sent,) = bridge.sap.sendings
    bridge.sap._book(sent)
    reference, own = bridge.sap.booked.pop()
    bridge.sap.booked.append((reference, _another(own)))
    return operation_id, (reference, own)


def test_an_operation_was_disowned_while_sap_was_still_booking_it(restorable, bridge, conflict):
    """SAP listed somebody else's document when it was asked, and the operation's own a little later."""
    operation_id, (reference, own) = conflict
    restorable.let_all_go_on()
    assert bridge.row(operation_id).parked_reason == "reference-conflict"
    path = f"/admin/payments/{operation_id}/disown"
    assert restorable.stage.post(path).status_code == 409
    bridge.sap.booked.append((reference, own))
    bridge.clock.advance(SETTLING_SECONDS)
    refused = restorable.stage.post(path)
    assert (refused.status_code, "redrive" in refused.json["detail"]) == (409, True)
    assert restorable.stage.act(operation_id, "redrive") == "redriven"
    restorable.let_all_go_on()
    assert bridge.row(operation_id).found_documents == "1000/2026/1400000099,1000/2026/1400000001"
    assert restorable.stage.act(operation_id, "accept", document=str(own.document)) == "accepted"


def test_a_slow_question_counted_as_asked_when_its_answer_came(restorable, bridge, conflict, monkeypatch):
    """SAP looked before the call had settled and answered afterwards: its list was taken for final."""
    operation_id, (reference, own) = conflict
    find = bridge.sap.find

    def find_slowly(*question):
        answer = find(*question)
        bridge.clock.advance(SETTLING_SECONDS)
        return answer

    monkeypatch.setattr(bridge.sap, "find", find_slowly)
    restorable.let_all_go_on()
    monkeypatch.undo()
    assert bridge.row(operation_id).parked_reason == "reference-conflict"
    path = f"/admin/payments/{operation_id}/disown"
    assert restorable.stage.post(path).status_code == 409
    bridge.sap.booked.append((reference, own))
    bridge.clock.advance(READ_LAG_SECONDS)
    assert restorable.stage.act(operation_id, "redrive") == "redriven"
    restorable.let_all_go_on()
    assert restorable.stage.act(operation_id, "accept", document=str(own.document)) == "accepted"


def test_an_operation_was_disowned_by_a_list_that_came_out_of_the_backup(restorable, bridge, conflict):
    """The job was started late, and what it changed looked like an answer of SAP after the settling."""
    operation_id, own = conflict
    restorable.let_all_go_on()
    assert bridge.row(operation_id).parked_reason == "reference-conflict"
    restorable.back_up()
    bridge.sap.booked.append(own)
    restorable.restore()
    assert restorable.begin().status_code == 201
    bridge.clock.advance(2 * SETTLING_SECONDS)
    assert restorable.job().run()
    refused = restorable.stage.post(f"/admin/payments/{operation_id}/disown")
    assert (refused.status_code, "redrive" in refused.json["detail"]) == (409, True)
    assert restorable.stage.act(operation_id, "redrive") == "redriven"
    restorable.let_all_go_on()
    assert bridge.row(operation_id).found_documents == "1000/2026/1400000099,1000/2026/1400000001"


def test_an_operation_was_disowned_before_a_read_side_that_lags_had_shown_its_document(
    restorable, bridge, conflict
):
    operation_id, own = conflict
    with bridge.engine.begin() as connection:
        connection.execute(text("UPDATE sap_systems SET read_lag_excess_seconds = 100"))
    bridge.clock.advance((bridge.row(operation_id).settled_at - bridge.clock.now()).total_seconds())
    bridge.step(operation_id)
    assert bridge.row(operation_id).parked_reason == "reference-conflict"
    path = f"/admin/payments/{operation_id}/disown"
    refused = restorable.stage.post(path)
    assert (refused.status_code, "redrive" in refused.json["detail"]) == (409, True)
    bridge.sap.booked.append(own)
    bridge.clock.advance(100 + READ_LAG_SECONDS)
    assert restorable.stage.act(operation_id, "redrive") == "redriven"
    restorable.let_all_go_on()
    assert bridge.row(operation_id).found_documents == "1000/2026/1400000099,1000/2026/1400000001"
    assert restorable.stage.act(operation_id, "disown") == "rejected"


def test_a_document_was_placed_beside_the_step_sent_again_after_a_second_recovery(restorable, bridge):
    """What was asked for since the backup was judged by the backup of the last recovery, not of its own."""
    first = bridge.accept()
    bridge.step(first)
    restorable.back_up()
    bridge.step(bridge.queue(first, "refund", 50000))
    restorable.restore()
    posted = bridge.sap.posted
    posted[-1] = replace(posted[-1], external_id="another")
    restorable.recover()
    restorable.let_all_go_on()
    with bridge.engine.begin() as connection:
        connection.execute(
            text("UPDATE unplaced_documents SET external_id = :id"), {"id": bridge.row(first).payment_id}
        )
    again = bridge.queue(first, "refund", 50000)
    bridge.step(again)
    assert bridge.row(again).parked_reason == "reference-conflict"
    # the second one reads from days later on
    posted.clear()
    bridge.clock.advance(3 * 86400)
    restorable.back_up()
    restorable.restore()
    restorable.recover()
    place = f"{ADMIN}/s4-main/1000/2026/1400000002/accept"
    # it may have been sent itself in the time that was lost
    assert "step-with-sap" in restorable.stage.post(place).json["detail"]
    assert restorable.stage.act(again, "redrive") == "redriven"
    restorable.let_all_go_on()
    assert bridge.row(again).parked_reason == "reference-conflict"
    assert restorable.stage.post(place).json == {"changed": True}
    restorable.let_all_go_on()
    assert (bridge.row(again).status, bridge.row(again).sap_document_number) == ("succeeded", "1400000002")
    assert len(restorable.operations()) == len(bridge.sap.booked) == 2


def test_a_later_recovery_placed_a_document_that_an_earlier_one_had_left_to_an_operator(restorable, bridge):
    """By the later backup nothing was asked for since: it became a step beside the one sent again."""
    first = bridge.accept()
    bridge.step(first)
    restorable.back_up()
    bridge.step(bridge.queue(first, "refund", 50000))
    restorable.restore()
    posted = bridge.sap.posted
    whole = posted[-1]
    posted[-1] = replace(whole, external_id="another")
    restorable.recover()
    restorable.let_all_go_on()
    again = bridge.queue(first, "refund", 50000)
    restorable.back_up()
    restorable.restore()
    posted[-1] = whole
    restorable.recover()
    assert [row.operation_id for row in restorable.operations()][1:] == [again], "no step is made of it"
    assert [one["reason"] for one in restorable.unplaced()] == ["found-earlier"]
    restorable.let_all_go_on()
    assert restorable.stage.act(again, "redrive") == "redriven"
    restorable.let_all_go_on()
    place = f"{ADMIN}/s4-main/1000/2026/1400000002/accept"
    assert restorable.stage.post(place).json == {"changed": True}
    restorable.let_all_go_on()
    assert (bridge.row(again).status, bridge.row(again).sap_document_number) == ("succeeded", "1400000002")
    assert len(restorable.operations()) == len(bridge.sap.booked) == 2
