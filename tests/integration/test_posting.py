"""The claim and the unknown outcome, on real transactions; SAP is an in-memory connector with a script."""

import threading
from datetime import timedelta

import pytest
from fakes.accepted import TARGET
from posting_stage import LEASE_SECONDS, READ_LAG_SECONDS, SETTLING_SECONDS, make_bridge
from sqlalchemy import text
from waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def bridge(database):
    engine = database.engine_for("sap_adapter")
    yield make_bridge(database.engine, engine)
    engine.dispose()


def test_a_posted_operation_pays_the_payment_and_tells_it(bridge):
    operation_id = bridge.accept()
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.payment_status, row.captured_minor) == ("succeeded", "paid", 125000)
    assert row.sap_document_number == "1400000001"
    assert not row.sent_unresolved
    assert bridge.events(operation_id) == ["payment.paid"]
    assert bridge.busy_slots() == 0
    assert bridge.wakes


def test_the_document_carries_reference_external_id_and_text_and_is_stored_encrypted(bridge):
    operation_id = bridge.accept()
    bridge.step(operation_id)
    content = bridge.sap.sendings[0].content.decode()
    row = bridge.row(operation_id)
    assert f"<DocumentReferenceID>{row.sap_reference}</DocumentReferenceID>" in content
    assert "<DocumentItemText>Invoice 4711</DocumentItemText>" in content
    assert row.payment_id in content  # the external id of this test's payments
    assert "Invoice" not in row.encrypted_document


def test_a_second_copy_of_a_message_makes_no_second_call(bridge):
    operation_id = bridge.accept()
    message = bridge.dispatch(operation_id)
    bridge.posting.handle(message)
    bridge.posting.handle(message)
    assert len(bridge.sap.sendings) == 1


def test_two_copies_at_the_same_time_make_one_call(bridge):
    operation_id = bridge.accept()
    message = bridge.dispatch(operation_id)
    bridge.sap.script.append("wait")
    threads = [threading.Thread(target=bridge.posting.handle, args=(message,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: sum(thread.is_alive() for thread in threads) == 1, what="seven copies refused")
    bridge.sap.gate.set()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert len(bridge.sap.sendings) == 1
    assert bridge.row(operation_id).status == "succeeded"


def test_an_older_dispatch_is_out_of_date(bridge):
    operation_id = bridge.accept()
    older = bridge.dispatch(operation_id)
    newer = bridge.dispatch(operation_id)
    bridge.posting.handle(older)
    assert bridge.sap.sendings == []
    bridge.posting.handle(newer)
    assert len(bridge.sap.sendings) == 1


def test_not_posted_goes_back_to_the_lane_and_is_sent_again_with_the_same_uuid(bridge):
    operation_id = bridge.accept()
    bridge.sap.script.append("not-posted")
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.generation, row.sent_unresolved) == ("accepted", 0, False)
    assert row.not_before >= bridge.clock.now() + timedelta(seconds=1)
    bridge.clock.advance(2)
    bridge.step(operation_id)
    first, second = bridge.sap.sendings
    assert first == second
    assert bridge.row(operation_id).status == "succeeded"


def test_a_lost_answer_is_found_by_asking_and_nothing_is_posted_again(bridge):
    operation_id = bridge.accept()
    bridge.sap.script.append("commit-then-drop")
    bridge.step(operation_id)
    assert bridge.row(operation_id).status == "unknown"
    bridge.clock.advance(1)
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.payment_status, row.sap_document_number) == ("succeeded", "paid", "1400000001")
    assert len(bridge.sap.sendings) == 1
    assert bridge.busy_slots() == 0


def test_nothing_is_posted_again_before_two_nones_a_read_lag_apart_after_settling(bridge):
    operation_id = bridge.accept()
    bridge.sap.script.append("drop")
    bridge.step(operation_id)
    unknown_at = bridge.clock.now()
    nones = []
    while bridge.row(operation_id).status == "unknown":
        bridge.clock.advance((bridge.row(operation_id).not_before - bridge.clock.now()).total_seconds())
        bridge.step(operation_id)
        nones.append((bridge.clock.now() - unknown_at).total_seconds())
        assert len(bridge.sap.sendings) == 1
    assert nones[0] == 1.0
    assert nones[-2] >= SETTLING_SECONDS
    assert nones[-1] - nones[-2] >= READ_LAG_SECONDS
    bridge.step(operation_id)
    assert bridge.sap.sendings[0] == bridge.sap.sendings[1]
    assert len(bridge.sap.booked) == 1


def test_a_document_that_shows_up_after_the_first_none_is_found(bridge):
    operation_id = bridge.accept()
    bridge.sap.script.append("commit-then-drop")
    bridge.sap.hidden = True
    bridge.step(operation_id)
    bridge.clock.advance(SETTLING_SECONDS)
    bridge.step(operation_id)
    assert bridge.row(operation_id).none_seen_at is not None
    bridge.sap.hidden = False
    bridge.clock.advance(READ_LAG_SECONDS)
    bridge.step(operation_id)
    assert bridge.row(operation_id).status == "succeeded"
    assert len(bridge.sap.booked) == 1


def test_a_question_that_fails_leaves_the_outcome_unknown(bridge):
    operation_id = bridge.accept()
    bridge.sap.script.append("drop")
    bridge.step(operation_id)
    bridge.sap.answers_questions = False
    bridge.clock.advance(SETTLING_SECONDS * 10)
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.none_seen_at, row.sent_unresolved) == ("unknown", None, True)
    assert row.not_before is not None


def test_a_document_with_our_reference_and_another_amount_parks_the_operation(bridge):
    operation_id = bridge.accept()
    bridge.sap.script.append("commit-then-drop")
    bridge.step(operation_id)
    with bridge.engine.begin() as connection:
        connection.execute(text("UPDATE operations SET amount_minor = 1"))
    bridge.clock.advance(1)
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.parked_reason, row.sent_unresolved) == ("parked", "reference-conflict", True)
    assert bridge.events(operation_id) == ["payment.delayed"]


def test_a_claim_that_was_taken_over_records_nothing(bridge):
    operation_id = bridge.accept()
    message = bridge.dispatch(operation_id)
    bridge.sap.script.append("wait")
    slow = threading.Thread(target=bridge.posting.handle, args=(message,))
    slow.start()
    wait_until(lambda: len(bridge.sap.sendings) == 1)
    bridge.clock.advance(LEASE_SECONDS + 1)
    with bridge.engine.begin() as connection:  # what the watchdog does to an expired lease
        connection.execute(
            text("UPDATE operations SET status = 'unknown', lease_until = NULL, settled_at = :settled"),
            {"settled": bridge.clock.now() + timedelta(seconds=SETTLING_SECONDS)},
        )
    taken_over = bridge.dispatch(operation_id)
    bridge.sap.gate.set()
    slow.join(DEADLINE_SECONDS)
    assert bridge.row(operation_id).status == "unknown"
    bridge.posting.handle(taken_over)
    assert bridge.row(operation_id).status == "succeeded"
    assert len(bridge.sap.booked) == 1


def test_a_claim_that_took_longer_than_its_lease_allows_sends_nothing(bridge):
    operation_id = bridge.accept()
    message = bridge.dispatch(operation_id)
    frozen = bridge.posting._lease_outlives_the_call

    def thaw_late(claim):
        bridge.clock.advance(LEASE_SECONDS)
        return frozen(claim)

    bridge.posting._lease_outlives_the_call = thaw_late
    bridge.posting.handle(message)
    assert bridge.sap.sendings == []
    assert bridge.row(operation_id).status == "accepted"


def test_without_a_free_permit_nothing_is_called_and_the_operation_goes_back(bridge):
    operations = [bridge.accept() for _ in range(6)]
    bridge.sap.script.extend(["wait"] * 6)
    threads = [
        threading.Thread(target=bridge.posting.handle, args=(bridge.dispatch(operation_id),))
        for operation_id in operations
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: sum(thread.is_alive() for thread in threads) == 4, what="two put back")
    wait_until(lambda: bridge.sap.max_in_flight == 4, what="all four calls")
    assert bridge.busy_slots() == 4
    bridge.sap.gate.set()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert bridge.sap.max_in_flight == 4
    assert sorted(bridge.row(o).status for o in operations) == ["accepted"] * 2 + ["succeeded"] * 4
    assert all(bridge.row(o).not_before for o in operations if bridge.row(o).status == "accepted")


def test_distinct_failing_operations_open_the_circuit_and_a_probe_closes_it(bridge):
    operations = [bridge.accept() for _ in range(4)]
    bridge.sap.script.extend(["not-posted"] * 3)
    for operation_id in operations[:3]:
        bridge.step(operation_id)
    lane = bridge.lane()
    assert (lane.call_window, lane.failed_probes) == (0, 1)
    assert lane.probe_not_before > bridge.clock.now()
    bridge.step(operations[3])
    assert len(bridge.sap.sendings) == 3  # closed: no call
    with bridge.engine.begin() as connection:  # what the relay does when the probe is due
        connection.execute(text("UPDATE sap_systems SET call_window = 1"))
    bridge.step(operations[3])
    lane = bridge.lane()
    assert (lane.call_window, lane.failed_probes, lane.failing_operations) == (1, 0, [])


def test_a_failed_probe_closes_the_lane_at_once_and_for_longer(bridge):
    operation_id = bridge.accept()
    with bridge.engine.begin() as connection:
        connection.execute(text("UPDATE sap_systems SET call_window = 1, failed_probes = 2"))
    bridge.sap.script.append("drop")
    bridge.step(operation_id)
    lane = bridge.lane()
    assert (lane.call_window, lane.failed_probes) == (0, 3)
    assert lane.probe_not_before == bridge.clock.now() + timedelta(seconds=4)


def test_one_poisonous_operation_never_closes_the_lane_and_is_parked_while_others_succeed(bridge):
    poison = bridge.accept()
    for _ in range(60):
        if bridge.row(poison).status == "parked":
            break
        if bridge.row(poison).status == "accepted":
            bridge.sap.script.append("drop")
        bridge.step(poison)
        bridge.clock.advance(SETTLING_SECONDS)
        bridge.step(bridge.accept())
        assert bridge.lane().call_window == 4
    row = bridge.row(poison)
    assert (row.status, row.parked_reason, row.attempts) == ("parked", "no-progress", 8)
    assert bridge.events(poison) == ["payment.delayed"]
    # The last question said none, twice: an operator's redrive may post at once.
    assert not row.sent_unresolved


def test_attempts_do_not_count_while_nothing_else_succeeds(bridge):
    operation_id = bridge.accept()
    for _ in range(12):
        bridge.sap.script.append("drop")
        while bridge.row(operation_id).status != "accepted" or bridge.sap.script:
            bridge.step(operation_id)
            bridge.clock.advance(SETTLING_SECONDS)
    assert bridge.row(operation_id).attempts == 0


def test_unknown_operations_that_sap_may_still_be_booking_count_against_the_cap(bridge):
    for _ in range(2):
        bridge.sap.script.append("drop")
        bridge.step(bridge.accept())
    assert bridge.busy_slots() == 2
    bridge.sap.script.extend(["wait"] * 4)
    threads = [
        threading.Thread(target=bridge.posting.handle, args=(bridge.dispatch(bridge.accept()),))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: sum(thread.is_alive() for thread in threads) == 2, what="two calls in flight")
    bridge.sap.gate.set()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert bridge.sap.max_in_flight == 2
    bridge.clock.advance(SETTLING_SECONDS + 1)
    assert bridge.busy_slots() == 0


@pytest.mark.parametrize(
    ("type_id", "status", "payment_status", "generation", "event"),
    [
        ("102(F5)", "rejected", "rejected", 0, "payment.rejected"),
        ("201(F5)", "parked", "accepted", 1, "payment.delayed"),
        ("999(ZZ)", "parked", "accepted", 1, "payment.delayed"),
    ],
)
def test_a_refusal_ends_where_its_reason_says(bridge, type_id, status, payment_status, generation, event):
    operation_id = bridge.accept()
    bridge.sap.script.append(f"refuse:{type_id}")
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.payment_status, row.generation) == (status, payment_status, generation)
    assert not row.sent_unresolved
    assert bridge.events(operation_id) == [event]
    assert "Muster" not in str(row.failure_message)


def test_a_locked_object_is_tried_again_as_a_new_generation(bridge):
    operation_id = bridge.accept()
    bridge.sap.script.append("refuse:601(MC)")
    bridge.step(operation_id)
    bridge.clock.advance(2)
    bridge.step(operation_id)
    first, second = bridge.sap.sendings
    assert first.content == second.content
    assert first.message_uuid != second.message_uuid
    assert bridge.row(operation_id).status == "succeeded"


def test_without_the_partners_configuration_the_first_claim_waits(bridge):
    operation_id = bridge.accept()
    bridge.directory.away = True
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.claims_started) == ("accepted", 0)
    assert row.not_before > bridge.clock.now()
    assert bridge.sap.sendings == []


def test_a_changed_mapping_does_not_change_a_document_once_sent(bridge):
    operation_id = bridge.accept()
    bridge.sap.script.append("not-posted")
    bridge.step(operation_id)
    other = TARGET.mappings["payment"].model_copy(update={"document_type": "AB"})
    target = TARGET.model_copy(update={"mappings": {"payment": other}})
    bridge.directory.configuration = bridge.directory.configuration.model_copy(
        update={"targets": {"main": target}}
    )
    bridge.clock.advance(2)
    bridge.step(operation_id)
    assert bridge.sap.sendings[0].content == bridge.sap.sendings[1].content


def test_an_operation_without_a_mapping_is_parked_with_its_permit_given_back(bridge):
    operation_id = bridge.accept()
    target = TARGET.model_copy(update={"mappings": {}})
    bridge.directory.configuration = bridge.directory.configuration.model_copy(
        update={"targets": {"main": target}}
    )
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.parked_reason) == ("parked", "mapping")
    assert bridge.busy_slots() == 0


def test_three_claims_without_an_end_park_the_operation(bridge):
    operation_id = bridge.accept()
    with bridge.engine.begin() as connection:
        connection.execute(text("UPDATE operations SET claims_started = 3"))
    bridge.step(operation_id)
    assert (bridge.row(operation_id).status, bridge.row(operation_id).parked_reason) == ("parked", "poison")
    assert bridge.sap.sendings == []


def test_a_held_lane_makes_no_call(bridge):
    operation_id = bridge.accept()
    with bridge.engine.begin() as connection:
        connection.execute(text("UPDATE sap_systems SET held = true"))
    bridge.step(operation_id)
    assert bridge.sap.sendings == []
    assert bridge.row(operation_id).not_before is not None


def test_claims_without_an_end_are_forgotten_once_one_ends(bridge):
    operation_id = bridge.accept()
    with bridge.engine.begin() as connection:
        connection.execute(text("UPDATE operations SET claims_started = 2"))
    bridge.sap.script.append("not-posted")
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert row.claims_started == row.claims_finished == 3
