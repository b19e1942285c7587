"""A restore from backup on real databases: what SAP had is found, nothing is posted twice, feeds go on."""

from dataclasses import replace
from datetime import timedelta

import pytest
from fakes.accepted import PARTNER_ID, insert_later_step
from restore_stage import SETTLING_SECONDS
from sqlalchemy import text

from bridge.clock import rfc3339
from bridge.errors import TransientError
from bridge.payment import OperationKind
from bridge.storage.feed import feed_head, sequence_events
from bridge.storage.restores import hold_lanes_of_a_restored_database
from sap_adapter.document_mark import document_mark
from sap_adapter.recovery import NotConfiguredError, RecoveryJob

pytestmark = pytest.mark.integration


def test_what_sap_had_is_found_and_what_was_lost_is_made_again(restorable, bridge):
    """Ten accepted, three posted, a backup; four more posted and three accepted and posted after it."""
    accepted = [bridge.accept() for _ in range(10)]
    for operation_id in accepted[:3]:
        bridge.step(operation_id)
    restorable.back_up()
    for operation_id in accepted[3:7]:
        bridge.step(operation_id)
    lost = [bridge.accept() for _ in range(3)]
    external_ids = {bridge.row(operation_id).payment_id for operation_id in lost}
    for operation_id in lost:
        bridge.step(operation_id)
    restorable.restore()
    restorable.recover()
    restorable.let_all_go_on()
    references = restorable.references()
    assert len(references) == len(set(references)) == 13
    assert len(bridge.sap.sendings) == 13
    payments = restorable.rows("SELECT external_id, status, captured_minor FROM payments")
    assert len(payments) == 13
    assert {(row.status, row.captured_minor) for row in payments} == {("paid", 125000)}
    assert external_ids <= {row.external_id for row in payments}
    progress = restorable.latest()["recovery"]
    assert progress["status"] == "finished"
    assert progress["operations_marked"] == 7
    lane = {
        "sap_system": "s4-main", "pass": 2, "documents_read": 10,
        "operations_made": 3, "documents_unplaced": 0, "is_finished": True,
    }  # fmt: skip
    assert progress["lanes"] == [lane]
    assert [action for _, action, *_ in restorable.stage.audit()] == [
        f"recovery.begin since {rfc3339(restorable.since)}", "recovery.finish",
    ]  # fmt: skip


def test_lanes_are_held_until_it_has_run_and_then_released(restorable, bridge):
    operation_id = bridge.accept()
    restorable.back_up()
    bridge.step(operation_id)
    restorable.restore()
    assert restorable.begin().status_code == 201
    assert bridge.lane().held
    bridge.step(operation_id)
    assert len(bridge.sap.sendings) == 1
    assert restorable.stage.post("/admin/lanes/s4-main/release").status_code == 503
    assert restorable.job().run()
    assert not bridge.lane().held
    assert not restorable.job().run()


def test_what_an_operator_holds_stays_held(restorable, bridge):
    restorable.stage.post("/admin/lanes/s4-main/hold")
    restorable.back_up()
    restorable.recover()
    assert bridge.lane().held
    assert restorable.stage.post("/admin/lanes/s4-main/release").status_code == 200


def test_what_an_operator_holds_during_the_recovery_was_released_at_its_end(restorable, bridge):
    """The lane was held already, so that the operator's word changed nothing."""
    restorable.back_up()
    restorable.restore()
    assert restorable.begin().status_code == 201
    for changed in (True, False):
        assert restorable.stage.post("/admin/lanes/s4-main/hold").json["changed"] is changed
    assert restorable.job().run()
    assert (bridge.lane().held, bridge.lane().held_by) == (True, "operator")
    assert restorable.stage.post("/admin/lanes/s4-main/release").status_code == 200
    assert not bridge.lane().held


def test_a_restored_database_is_noticed_by_whoever_connects(restorable, bridge, database):
    operation_id = bridge.accept()
    restorable.back_up()
    with bridge.engine.begin() as connection:
        connection.execute(text("UPDATE database_identity SET system_identifier = 1"))
    engine = database.engine_for("dispatcher")
    hold_lanes_of_a_restored_database(engine)
    engine.connect().close()
    engine.dispose()
    assert (bridge.lane().held, bridge.lane().held_by) == (True, "recovery")
    assert restorable.latest() == {"is_due": True, "recovery": None}
    bridge.step(operation_id)
    assert bridge.sap.sendings == []
    assert restorable.stage.post("/admin/lanes/s4-main/release").status_code == 503
    restorable.recover()
    assert not restorable.latest()["is_due"]
    restorable.let_all_go_on()
    assert bridge.row(operation_id).status == "succeeded"


def test_a_database_at_home_is_left_alone(database, bridge):
    engine = database.engine_for("sap_adapter")
    hold_lanes_of_a_restored_database(engine)
    engine.connect().close()
    engine.dispose()
    assert not bridge.lane().held


def test_a_job_that_dies_anywhere_is_carried_on(restorable, bridge):
    restorable.back_up()
    lost = [bridge.accept() for _ in range(8)]
    for operation_id in lost:
        bridge.step(operation_id)
    restorable.restore()
    restorable.begin()
    pages = 0

    class Dying:
        def documents_since(self, day, offset):
            nonlocal pages
            pages += 1
            if pages % 2 == 0:
                raise RuntimeError("killed")
            return bridge.sap.documents_since(day, offset)

    deaths = 0
    while restorable.latest()["recovery"]["status"] == "running":
        try:
            restorable.job(Dying()).run()
        except RuntimeError:
            deaths += 1
    assert deaths >= 3
    restorable.let_all_go_on()
    assert len(restorable.rows("SELECT 1 FROM payments WHERE status = 'paid'")) == 8
    assert len(set(restorable.references())) == len(restorable.references()) == 8


def test_a_recovery_waits_for_sap_and_for_what_sap_may_still_be_booking(restorable, bridge):
    restorable.back_up()
    bridge.step(bridge.accept())
    restorable.restore()
    restorable.begin()
    away = iter([True, True])

    class Away:
        def documents_since(self, day, offset):
            if next(away, False):
                raise TransientError("away")
            return bridge.sap.documents_since(day, offset)

    assert restorable.job(Away()).run()
    assert restorable.waits[0] == SETTLING_SECONDS
    assert len(restorable.waits) == 3


def test_beginning_twice_is_one_recovery_and_another_has_to_wait(restorable, bridge):
    bridge.accept()
    restorable.back_up()
    first = restorable.begin()
    again = restorable.begin()
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json["id"] == again.json["id"]
    assert restorable.begin(restorable.since - timedelta(hours=1)).status_code == 409
    assert restorable.job().run()
    assert restorable.begin().json["status"] == "finished"
    assert len(restorable.stage.audit()) == 2


@pytest.mark.parametrize("since", ["", "yesterday", "2026-11-20T04:00:00", "2999-01-01T00:00:00Z", 5, None])
def test_a_recovery_needs_a_moment_in_the_past(restorable, since):
    assert restorable.stage.post("/admin/recoveries", {"since": since}).status_code == 422


def test_a_sap_system_without_a_connection_is_named(restorable, bridge):
    restorable.back_up()
    restorable.begin()
    job = RecoveryJob(
        restorable.recovery_engine, {}, bridge.clock, settling_seconds=1.0, wait=restorable.wait
    )
    with pytest.raises(NotConfiguredError, match="s4-main"):
        job.run()


def test_a_payment_sent_again_before_its_document_was_found_gets_that_document(restorable, bridge):
    """The partner repeats what was lost while the recovery runs: accepted, not posted, and then found."""
    restorable.back_up()
    lost = bridge.accept()
    external_id = bridge.row(lost).payment_id
    bridge.step(lost)
    restorable.restore()
    restorable.begin()
    again = bridge.accept()
    restorable.send_again_as(again, external_id)
    assert restorable.job().run()
    restorable.let_all_go_on()
    row = bridge.row(again)
    assert (row.status, row.payment_status, row.sap_document_number) == ("succeeded", "paid", "1400000001")
    assert len(bridge.sap.booked) == 1
    assert len(restorable.rows("SELECT 1 FROM payments")) == 1


def test_a_lost_payment_sent_again_over_another_amount_is_parked_and_not_posted(restorable, bridge):
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
    assert len(bridge.sap.booked) == 1


@pytest.mark.parametrize("is_first_lost", [False, True])
def test_lost_later_steps_are_added_to_their_payment(restorable, bridge, is_first_lost):
    if is_first_lost:
        restorable.back_up()
    first = bridge.accept()
    bridge.step(first)
    if not is_first_lost:
        restorable.back_up()
    with bridge.engine.begin() as connection:
        refund = insert_later_step(connection, first, "refund", 25000, bridge.clock.now())
    bridge.step(refund)
    assert bridge.row(refund).status == "succeeded"
    restorable.restore()
    restorable.recover()
    restorable.let_all_go_on()
    (recovered,) = restorable.rows("SELECT status, captured_minor, refunded_minor FROM payments")
    assert tuple(recovered) == ("partially_refunded", 125000, 25000)
    assert len(bridge.sap.booked) == 2


def test_a_lost_refund_took_the_place_of_another_over_the_same_amount(restorable, bridge):
    """The other one's document then belonged to nobody: more could be refunded than was captured."""
    first = bridge.accept()
    refund = bridge.queue(first, "refund", 10000)
    bridge.step(first)
    restorable.back_up()
    bridge.step(refund)
    bridge.step(bridge.queue(first, "refund", 10000))
    restorable.restore()
    restorable.recover()
    restorable.let_all_go_on()
    recovered = restorable.rows("SELECT sap_reference FROM operations WHERE status = 'succeeded'")
    assert sorted(row.sap_reference for row in recovered) == sorted(restorable.references())
    assert restorable.rows("SELECT refunded_minor FROM payments") == [(20000,)]


@pytest.mark.parametrize("sent_again", [0, 1, 2])
def test_the_second_of_two_lost_refunds_over_the_same_amount_took_the_place_of_the_first(
    restorable, bridge, sent_again
):
    first = bridge.accept()
    bridge.step(first)
    restorable.back_up()
    bridge.step(bridge.queue(first, "refund", 10000))
    bridge.step(bridge.queue(first, "refund", 10000))
    restorable.restore()
    for _ in range(sent_again):
        bridge.queue(first, "refund", 10000)
    restorable.recover()
    restorable.let_all_go_on()
    recovered = restorable.rows("SELECT sap_reference FROM operations WHERE status = 'succeeded'")
    assert sorted(row.sap_reference for row in recovered) == sorted(restorable.references())
    assert restorable.rows("SELECT refunded_minor FROM payments") == [(20000,)]
    assert len(bridge.sap.booked) == 3


def test_a_refund_sent_again_after_the_restore_gets_the_document_of_the_lost_one(restorable, bridge):
    first = bridge.accept()
    bridge.step(first)
    restorable.back_up()
    bridge.step(bridge.queue(first, "refund", 10000))
    restorable.restore()
    again = bridge.queue(first, "refund", 10000)
    restorable.recover()
    restorable.let_all_go_on()
    assert bridge.row(again).status == "succeeded"
    assert restorable.rows("SELECT refunded_minor FROM payments") == [(10000,)]
    assert len(bridge.sap.booked) == 2


def test_a_step_that_waits_for_another_is_asked_about_when_its_turn_comes(restorable, bridge):
    first = bridge.accept()
    with bridge.engine.begin() as connection:
        refund = insert_later_step(connection, first, "refund", 25000, bridge.clock.now())
    restorable.back_up()
    bridge.step(first)
    bridge.step(refund)
    assert len(bridge.sap.booked) == 2
    restorable.restore()
    restorable.recover()
    row = bridge.row(refund)
    assert (row.status, row.sent_unresolved, row.not_before) == ("accepted", True, None)
    restorable.let_all_go_on()
    assert bridge.row(refund).status == "succeeded"
    assert len(bridge.sap.booked) == 2


def test_parked_operations_stay_parked_and_are_asked_about_when_redriven(restorable, bridge):
    operation_id = restorable.stage.parked_refused()
    restorable.back_up()
    restorable.stage.act(operation_id, "redrive")
    bridge.step(operation_id)
    assert len(bridge.sap.booked) == 1
    restorable.restore()
    restorable.recover()
    assert bridge.row(operation_id).status == "parked"
    restorable.stage.act(operation_id, "redrive")
    restorable.let_all_go_on()
    assert bridge.row(operation_id).status == "succeeded"
    assert len(bridge.sap.booked) == 1


def test_a_payment_for_a_later_day_can_still_be_cancelled(restorable, bridge):
    operation_id = bridge.accept()
    with bridge.engine.begin() as connection:
        connection.execute(
            text("UPDATE payments SET status = 'scheduled', requested_execution_date = '2026-12-24'")
        )
        connection.execute(text("UPDATE operations SET status = 'scheduled'"))
    restorable.back_up()
    restorable.restore()
    restorable.recover()
    row = bridge.row(operation_id)
    assert (row.status, row.sent_unresolved) == ("scheduled", False)


def test_an_operation_made_of_a_document_is_never_sent(restorable, bridge):
    """SAP listed its document and then denies it: nobody knows that anybody wants it sent."""
    restorable.back_up()
    bridge.step(bridge.accept())
    restorable.restore()
    restorable.recover()
    bridge.sap.hidden = True
    restorable.let_all_go_on()
    (row,) = restorable.rows("SELECT operation_id, status, parked_reason FROM operations")
    assert (row.status, row.parked_reason) == ("parked", "reference-conflict")
    for remap in (False, True):
        restorable.stage.act(row.operation_id, "redrive", remap=remap)
        restorable.let_all_go_on()
        assert bridge.row(row.operation_id).status == "parked"
    assert len(bridge.sap.sendings) == 1
    assert restorable.stage.act(row.operation_id, "reject") == "pending"
    restorable.let_all_go_on()
    assert bridge.row(row.operation_id).status == "rejected"


def test_a_document_that_says_too_little_is_shown_to_operators(restorable, bridge):
    restorable.back_up()
    for _ in range(4):
        bridge.step(bridge.accept())
    posted = bridge.sap.posted
    posted[1] = replace(posted[1], mark="")
    posted[2] = replace(posted[2], mark=document_mark(OperationKind.PAYMENT, "par_unknown"))
    posted[3] = replace(posted[3], external_id="")
    restorable.restore()
    restorable.recover()
    unplaced = restorable.latest()["recovery"]["unplaced_documents"]
    assert [(one["number"], one["reason"]) for one in unplaced] == [
        ("1400000002", "no-mark"),
        ("1400000003", "partner-unknown"),
        ("1400000004", "no-external-id"),
    ]


def test_every_feed_goes_on_above_a_jump_in_a_new_epoch(restorable, bridge):
    bridge.step(bridge.accept())
    with bridge.engine.begin() as connection:
        assert sequence_events(connection, PARTNER_ID, limit=100) == 1
    restorable.back_up()
    bridge.step(bridge.accept())
    restorable.restore()
    restorable.recover()
    restorable.let_all_go_on()
    with bridge.engine.begin() as connection:
        sequence_events(connection, PARTNER_ID, limit=100)
        head = feed_head(connection, PARTNER_ID)
        (first,) = connection.execute(text("SELECT min(sequence) FROM feed WHERE sequence > 1")).one()
    # by the clock: a second recovery of an older backup goes on above this one
    began_at = bridge.clock.now().timestamp()
    assert (head.epoch, head.jumped_from) == (pytest.approx(began_at, abs=3600), 1)
    assert head.jumped_to == pytest.approx(began_at * 1000, abs=3_600_000)
    assert first == head.jumped_to + 1
    restorable.begin()
    assert not restorable.job().run()


def test_documents_were_read_before_a_read_side_that_lags_had_shown_them(restorable, bridge):
    restorable.back_up()
    lost = bridge.accept()
    bridge.step(lost)
    restorable.restore()
    with bridge.engine.begin() as connection:
        connection.execute(text("UPDATE sap_systems SET read_lag_excess_seconds = 100"))
    restorable.recover()
    assert restorable.waits == [SETTLING_SECONDS + 100]
