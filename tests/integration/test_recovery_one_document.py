"""One document that a recovery can't deal with stops only itself, and stays in sight."""

import threading
from dataclasses import replace

import pytest
from fakes.accepted import insert_accepted
from sqlalchemy import text
from waiting import DEADLINE_SECONDS, wait_until

from bridge.payment import SapDocument
from sap_adapter.connector import UnreadableDocument

pytestmark = pytest.mark.integration


@pytest.fixture
def lost(restorable, bridge):
    """Three payments that SAP has booked, in a database that does not know them; their external ids."""
    restorable.back_up()
    operations = [bridge.accept() for _ in range(3)]
    for operation_id in operations:
        bridge.step(operation_id)
    external_ids = [bridge.row(operation_id).payment_id for operation_id in operations]
    restorable.restore()
    return external_ids


def paid(restorable):
    return {
        row.external_id for row in restorable.rows("SELECT external_id FROM payments WHERE status = 'paid'")
    }


def test_a_document_that_can_not_be_read_stopped_the_recovery_for_ever(restorable, bridge, lost):
    class Unreadable:
        def documents_since(self, day, offset):
            page = bridge.sap.documents_since(day, offset)
            if offset > 0:
                return page
            document = SapDocument("1000", "2026", "1400000777")
            return replace(page, unreadable=(UnreadableDocument(document, ""),))

    restorable.begin()
    assert restorable.job(Unreadable()).run()
    restorable.let_all_go_on()
    assert paid(restorable) == set(lost)
    (unplaced,) = restorable.unplaced()
    assert (unplaced["number"], unplaced["reason"], unplaced["amount"]) == ("1400000777", "unreadable", None)
    (lane,) = restorable.latest()["recovery"]["lanes"]
    assert (lane["documents_read"], lane["documents_unplaced"]) == (4, 1)
    place = "/admin/unplaced-documents/s4-main/1000/2026/1400000777"
    assert restorable.stage.post(f"{place}/accept").status_code == 409
    assert restorable.stage.post(f"{place}/dismiss").json == {"changed": True}


def test_a_document_whose_reference_was_changed_by_hand_ended_the_job(restorable, bridge, lost):
    bridge.sap.posted[1] = replace(bridge.sap.posted[1], reference="changed by hand")
    restorable.recover()
    restorable.let_all_go_on()
    assert paid(restorable) == {lost[0], lost[2]}
    assert [(one["number"], one["reason"]) for one in restorable.unplaced()] == [
        ("1400000002", "no-valid-step")
    ]


def test_a_payment_was_posted_beside_the_document_whose_reference_was_changed_by_hand(
    restorable, bridge, lost
):
    """The list did not say whose it is, although the document does."""
    bridge.sap.posted[1] = replace(bridge.sap.posted[1], reference="changed by hand")
    restorable.recover()
    again = bridge.accept()
    restorable.send_again_as(again, lost[1])
    restorable.let_all_go_on()
    bridge.step(again)
    assert (bridge.row(again).status, bridge.row(again).parked_reason) == ("parked", "reference-conflict")
    place = "/admin/unplaced-documents/s4-main/1000/2026/1400000002"
    refused = restorable.stage.post(f"{place}/accept")
    assert (refused.status_code, "no-valid-step" in refused.json["detail"]) == (409, True)
    assert restorable.stage.post(f"{place}/dismiss").json == {"changed": True}
    assert restorable.stage.act(again, "redrive") == "redriven"
    restorable.let_all_go_on()
    assert bridge.row(again).status == "succeeded"


def test_a_payment_that_was_sent_again_at_the_same_moment_ended_the_job(restorable, bridge, lost):
    restorable.begin()
    with bridge.engine.begin() as accepting:
        again = insert_accepted(accepting, bridge.clock.now())
        accepting.execute(text("UPDATE payments SET external_id = :id"), {"id": lost[0]})
        job = threading.Thread(target=restorable.job().run)
        job.start()
        wait_until(lambda: waits_for_a_lock(restorable), what="the job at the external id")
    job.join(DEADLINE_SECONDS)
    restorable.let_all_go_on()
    assert paid(restorable) == set(lost)
    assert (bridge.row(again).status, bridge.row(again).sap_document_number) == ("succeeded", "1400000001")


def waits_for_a_lock(restorable):
    return restorable.rows(
        "SELECT 1 FROM pg_stat_activity WHERE application_name = 'recovery' AND wait_event_type = 'Lock'"
    )


@pytest.mark.parametrize("settled_as", ["placed", "dismissed"])
def test_a_document_that_was_dealt_with_came_back_on_the_list(restorable, bridge, lost, settled_as):
    """One on the list did not say that it can be placed by now; a dismissed one got an operation."""
    posted = bridge.sap.posted
    posted[0] = replace(posted[0], external_id="")
    restorable.recover()
    assert [one["reason"] for one in restorable.unplaced()] == ["no-external-id"]
    place = "/admin/unplaced-documents/s4-main/1000/2026/1400000001"
    if settled_as == "dismissed":
        assert restorable.stage.post(f"{place}/dismiss").json == {"changed": True}
    posted[0] = replace(posted[0], external_id=lost[0])
    restorable.back_up()
    restorable.restore()
    restorable.recover()
    if settled_as == "placed":
        assert [one["reason"] for one in restorable.unplaced()] == ["found-earlier"]
        assert restorable.stage.post(f"{place}/accept").json == {"changed": True}
    restorable.let_all_go_on()
    assert restorable.unplaced() == []
    assert (lost[0] in paid(restorable)) == (settled_as == "placed")
