"""Operators against the adapter, on real connections with their own rights: no order posts twice."""

import threading

import pytest
from backoffice_stage import lease_ends, make_backoffice
from fakes.accepted import TARGET
from races import InBackground, at_once
from sqlalchemy import text
from waiting import DEADLINE_SECONDS, wait_until

from bridge.payment import OperationKind
from bridge.storage.operations import lock_operation, lock_payment

pytestmark = pytest.mark.integration


@pytest.fixture
def stage(database):
    yield from make_backoffice(database)


@pytest.fixture
def bridge(stage):
    return stage.bridge


def test_a_redriven_operation_is_posted_once_by_a_new_generation(stage, bridge):
    operation_id = stage.parked_refused()
    assert stage.act(operation_id, "redrive") == "redriven"
    row = bridge.row(operation_id)
    assert (row.status, row.parked_reason, row.attempts) == ("accepted", None, 0)
    assert row.claims_started == row.claims_finished
    bridge.step(operation_id)
    assert bridge.row(operation_id).status == "succeeded"
    assert len(bridge.sap.booked) == 1
    first, second = bridge.sap.sendings
    assert first.message_uuid != second.message_uuid
    assert first.content == second.content
    assert stage.audit() == [("olga", "operation.redrive", operation_id, "ticket 4711")]


def test_a_second_redrive_changes_nothing_at_any_time(stage, bridge):
    operation_id = stage.parked_refused()
    outcomes = [stage.act(operation_id, "redrive") for _ in range(2)]
    assert outcomes == ["redriven", "unchanged"]
    assert stage.queued(operation_id) == 1
    bridge.step(operation_id)
    assert stage.act(operation_id, "redrive") == "unchanged"
    assert bridge.row(operation_id).status == "succeeded"
    assert stage.queued(operation_id) == 0
    assert len(stage.audit()) == 1


def test_two_redrives_at_once_are_one_dispatch(stage, bridge):
    operation_id = stage.parked_refused()
    outcomes = at_once(*[lambda: stage.act(operation_id, "redrive")] * 4)
    assert sorted(outcomes) == ["redriven", "unchanged", "unchanged", "unchanged"]
    assert stage.queued(operation_id) == 1
    assert len(stage.audit()) == 1


def test_a_redrive_that_waits_for_a_claim_finds_it_taken(stage, bridge):
    """The claim has the locks when the second redrive comes: it must not queue what is with SAP."""
    operation_id = stage.parked_refused()
    assert stage.act(operation_id, "redrive") == "redriven"
    message = bridge.dispatch(operation_id)
    with bridge.engine.begin() as holder:
        lock_payment(holder, message.payment_id)
        redrive = InBackground(bridge.engine, lambda: stage.act(operation_id, "redrive"))
        redrive.wait_until_blocked()
        lock_operation(holder, operation_id)
        holder.execute(
            text("UPDATE operations SET status = 'processing', sent_unresolved = true, lease_until = :until"),
            {"until": bridge.clock.now()},
        )
    assert redrive.result() == "unchanged"
    assert stage.queued(operation_id) == 0


def test_a_message_from_before_the_park_posts_nothing(stage, bridge):
    operation_id = bridge.accept()
    message = bridge.dispatch(operation_id)
    assert stage.act(operation_id, "park") == "parked"
    bridge.posting.handle(message)
    assert bridge.sap.sendings == []
    assert bridge.row(operation_id).parked_reason == "held"
    assert bridge.events(operation_id) == ["payment.delayed"]
    assert stage.act(operation_id, "redrive") == "redriven"
    bridge.posting.handle(message)
    assert bridge.sap.sendings == []
    bridge.step(operation_id)
    assert len(bridge.sap.booked) == 1


def test_what_may_be_in_sap_is_asked_about_when_it_is_redriven(stage, bridge):
    operation_id = stage.parked_unresolved(booked=True)
    assert stage.act(operation_id, "redrive") == "redriven"
    assert bridge.row(operation_id).status == "unknown"
    bridge.step(operation_id)
    assert bridge.row(operation_id).status == "succeeded"
    assert len(bridge.sap.sendings) == 1


def test_an_operation_that_sap_has_not_is_rejected_at_once_and_told(stage, bridge):
    operation_id = stage.parked_refused()
    assert stage.act(operation_id, "reject") == "rejected"
    row = bridge.row(operation_id)
    assert (row.status, row.payment_status, row.failure_code) == (
        "rejected", "rejected", "rejected-by-operator",
    )  # fmt: skip
    assert bridge.events(operation_id) == ["payment.delayed", "payment.rejected"]
    assert stage.act(operation_id, "reject") == "unchanged"
    assert stage.post(f"/admin/payments/{operation_id}/park").status_code == 409


def test_a_waiting_operation_is_rejected_out_of_its_lane(stage, bridge):
    operation_id = bridge.accept()
    message = bridge.dispatch(operation_id)
    assert stage.act(operation_id, "reject") == "rejected"
    bridge.posting.handle(message)
    assert bridge.sap.sendings == []
    assert stage.queued(operation_id) == 0


def test_what_may_be_in_sap_is_rejected_only_after_sap_has_answered_none_twice(stage, bridge):
    operation_id = stage.parked_unresolved(booked=False)
    assert stage.act(operation_id, "reject") == "pending"
    assert stage.act(operation_id, "reject") == "unchanged"
    questions = bridge.sap.questions
    assert bridge.row(operation_id).status == "unknown"
    stage.resolve(operation_id)
    assert bridge.row(operation_id).status == "rejected"
    assert bridge.sap.questions - questions >= 2
    assert len(bridge.sap.sendings) == 1
    assert bridge.events(operation_id)[-1] == "payment.rejected"
    assert stage.queued(operation_id) == 0


def test_a_document_that_sap_has_is_recorded_in_spite_of_a_rejection(stage, bridge):
    operation_id = stage.parked_unresolved(booked=True)
    assert stage.act(operation_id, "reject") == "pending"
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.payment_status, row.operator_decision) == ("succeeded", "paid", None)


def test_a_late_answer_that_says_posted_beats_a_rejection(stage, bridge):
    operation_id = bridge.accept()
    message = bridge.dispatch(operation_id)
    bridge.sap.script.append("wait")
    slow = threading.Thread(target=bridge.posting.handle, args=(message,))
    slow.start()
    wait_until(lambda: len(bridge.sap.sendings) == 1)
    assert stage.act(operation_id, "reject") == "pending"
    bridge.sap.gate.set()
    slow.join(DEADLINE_SECONDS)
    row = bridge.row(operation_id)
    assert (row.status, row.payment_status, row.operator_decision) == ("succeeded", "paid", None)


def test_an_answer_after_the_lease_beats_a_rejection_by_the_question(stage, bridge):
    """The adapter was taken for dead; its document is in SAP before the operator's wish is looked at."""
    operation_id = bridge.accept()
    message = bridge.dispatch(operation_id)
    bridge.sap.script.append("wait")
    slow = threading.Thread(target=bridge.posting.handle, args=(message,))
    slow.start()
    wait_until(lambda: len(bridge.sap.sendings) == 1)
    lease_ends(bridge, operation_id)
    assert stage.act(operation_id, "reject") == "pending"
    bridge.sap.gate.set()
    slow.join(DEADLINE_SECONDS)
    assert bridge.row(operation_id).status == "succeeded"


def test_a_rejection_that_waits_for_the_record_of_a_posting_comes_too_late(stage, bridge):
    operation_id = bridge.accept()
    message = bridge.dispatch(operation_id)
    with bridge.engine.begin() as holder:
        lock_payment(holder, message.payment_id)
        reject = InBackground(
            bridge.engine, lambda: stage.post(f"/admin/payments/{operation_id}/reject").status_code
        )
        reject.wait_until_blocked()
        holder.execute(
            text("""
            UPDATE operations SET status = 'succeeded', sap_company_code = '1000', sap_fiscal_year = '2026',
                sap_document_number = '1', completed_at = :now
            """),
            {"now": bridge.clock.now()},
        )
    assert reject.result() == 409
    assert stage.audit() == []


def test_a_rejection_while_sap_refuses_ends_it_whatever_the_reason(stage, bridge):
    operation_id = bridge.accept()
    with bridge.engine.begin() as connection:
        connection.execute(text("UPDATE operations SET operator_decision = 'reject'"))
    bridge.sap.script.append("refuse:506(F5)")
    bridge.step(operation_id)
    assert bridge.row(operation_id).status == "rejected"


def test_a_conflicting_document_parks_again_and_drops_the_decision(stage, bridge):
    operation_id = stage.parked_unresolved(booked=True)
    with bridge.engine.begin() as connection:
        connection.execute(text("UPDATE operations SET amount_minor = 1"))
    assert stage.act(operation_id, "reject") == "pending"
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.parked_reason, row.operator_decision) == ("parked", "reference-conflict", None)


def test_a_remapped_operation_is_rendered_anew(stage, bridge):
    operation_id = stage.parked_refused()
    mended = TARGET.mappings[OperationKind.PAYMENT].model_copy(update={"customer": "10000099"})
    target = TARGET.model_copy(update={"mappings": {OperationKind.PAYMENT: mended}})
    bridge.directory.configuration = bridge.directory.configuration.model_copy(
        update={"targets": {"main": target}}
    )
    assert stage.act(operation_id, "redrive", remap=True) == "remapped"
    bridge.step(operation_id)
    assert bridge.row(operation_id).status == "succeeded"
    assert b"10000001" in bridge.sap.sendings[0].content
    assert b"10000099" in bridge.sap.sendings[1].content
    assert len(bridge.sap.booked) == 1


def test_a_remap_of_what_may_be_in_sap_keeps_the_document_until_sap_has_answered(stage, bridge):
    posted = stage.parked_unresolved(booked=True)
    assert stage.act(posted, "redrive", remap=True) == "pending"
    bridge.step(posted)
    assert bridge.row(posted).status == "succeeded"
    lost = stage.parked_unresolved(booked=False)
    frozen = bridge.row(lost).encrypted_document
    assert stage.act(lost, "redrive", remap=True) == "pending"
    assert bridge.row(lost).encrypted_document == frozen
    stage.resolve(lost)
    row = bridge.row(lost)
    assert (row.status, row.encrypted_document, row.operator_decision) == ("accepted", None, None)
    assert stage.queued(lost) == 1
    bridge.step(lost)
    assert len(bridge.sap.booked) == 2


def test_a_decision_can_be_taken_back(stage, bridge):
    operation_id = stage.unknown(booked=False)
    assert stage.act(operation_id, "reject") == "pending"
    assert stage.act(operation_id, "redrive") == "withdrawn"
    stage.resolve(operation_id)
    assert bridge.row(operation_id).status == "accepted"


def test_an_operation_with_sap_is_parked_when_sap_has_answered(stage, bridge):
    operation_id = bridge.accept()
    message = bridge.dispatch(operation_id)
    bridge.sap.script.append("drop")
    gate = bridge.posting._lease_outlives_the_call

    def decide_then(claim):
        assert stage.act(operation_id, "park") == "pending"
        return gate(claim)

    bridge.posting._lease_outlives_the_call = decide_then
    bridge.posting.handle(message)
    row = bridge.row(operation_id)
    assert (row.status, row.parked_reason, row.sent_unresolved) == ("parked", "held", True)
    assert stage.queued(operation_id) == 0


def test_a_payments_id_means_its_first_unfinished_operation(stage, bridge):
    operation_id = bridge.accept()
    payment_id = bridge.row(operation_id).payment_id
    assert stage.act(payment_id, "park") == "parked"
    assert stage.audit()[-1][2] == operation_id
    assert stage.post("/admin/payments/pay_none/park").status_code == 404


def test_a_later_step_that_was_parked_is_rejected_with_the_step_before_it(stage, bridge):
    first = bridge.accept()
    with bridge.engine.begin() as connection:
        connection.execute(
            text("""
            INSERT INTO operations (operation_id, payment_id, partner_id, position, kind, status,
                amount_minor, sap_system, sap_reference, created_at, updated_at)
            SELECT 'op_later', payment_id, partner_id, 2, 'refund', 'accepted', 100, sap_system,
                'ABCDEFGHIJKLMNOP', created_at, updated_at FROM operations
            """)
        )
    assert stage.act("op_later", "park") == "parked"
    assert stage.act("op_later", "redrive") == "redriven"
    assert bridge.row("op_later").not_before is None
    assert stage.act("op_later", "park") == "parked"
    assert stage.act(first, "reject") == "rejected"
    assert bridge.row("op_later").status == "rejected"
    assert bridge.events("op_later")[-1] == "payment.refund_rejected"


def test_a_scheduled_payment_waits_for_its_day_again(stage, bridge):
    operation_id = bridge.accept()
    with bridge.engine.begin() as connection:
        connection.execute(
            text("UPDATE payments SET status = 'scheduled', requested_execution_date = '2026-12-24'")
        )
        connection.execute(text("UPDATE operations SET status = 'scheduled'"))
    assert stage.act(operation_id, "park") == "parked"
    assert stage.act(operation_id, "redrive") == "redriven"
    row = bridge.row(operation_id)
    assert (row.status, row.not_before.isoformat()) == ("scheduled", "2026-12-23T23:00:00+00:00")


def test_the_backoffice_may_not_change_what_is_posted(stage, database):
    with stage.engine.connect() as connection:
        for column in ("generation", "amount_minor", "kind", "claims_started", "recovered_at"):
            allowed = connection.execute(
                text("SELECT has_column_privilege('operations', :column, 'UPDATE')"), {"column": column}
            ).scalar_one()
            assert not allowed, column
