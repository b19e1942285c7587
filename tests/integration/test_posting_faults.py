"""What once went wrong where the adapter decides: each test is named after it."""

from dataclasses import replace

import pytest
from fakes.accepted import MAPPING, TARGET
from posting_stage import READ_LAG_SECONDS, SETTLING_SECONDS, make_bridge
from sqlalchemy import text

from bridge.journal_mapping import Expression
from bridge.payment import OperationKind
from bridge.routing import Routing

pytestmark = pytest.mark.integration

LOCKED = "refuse:601(MC)"


@pytest.fixture
def bridge(database):
    engine = database.engine_for("sap_adapter")
    yield make_bridge(database.engine, engine)
    engine.dispose()


def wait_for_turn(bridge, operation_id):
    pause = bridge.row(operation_id).not_before - bridge.clock.now()
    bridge.clock.advance(max(pause.total_seconds(), 0.0))


def test_a_lane_whose_every_posting_met_a_lock_parked_the_whole_backlog(bridge):
    """SAP's own refusal was taken for a success of the lane, so every refusal counted."""
    operation_id = bridge.accept()
    for _ in range(12):
        bridge.sap.script.append(LOCKED)
        bridge.step(operation_id)
        assert bridge.row(operation_id).status == "accepted"
        wait_for_turn(bridge, operation_id)
    assert bridge.row(operation_id).attempts == 0
    bridge.step(operation_id)
    assert bridge.row(operation_id).status == "succeeded"


def test_refusals_of_a_locked_account_come_ever_more_slowly_even_if_they_do_not_count(bridge):
    operation_id = bridge.accept()
    pauses = []
    for _ in range(12):
        bridge.sap.script.append(LOCKED)
        bridge.step(operation_id)
        pauses.append((bridge.row(operation_id).not_before - bridge.clock.now()).total_seconds())
        wait_for_turn(bridge, operation_id)
    assert pauses[:4] == [1.0, 2.0, 4.0, 8.0]
    assert pauses[-1] == 300.0


def test_a_lock_that_others_get_past_parks_the_operation_after_eight_attempts(bridge):
    operation_id = bridge.accept()
    for _ in range(8):
        assert bridge.row(operation_id).status == "accepted"
        bridge.clock.advance(1)
        bridge.step(bridge.accept())
        bridge.clock.advance(1)
        bridge.sap.script.append(LOCKED)
        bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.parked_reason, row.sent_unresolved) == ("parked", "no-progress", False)


def test_a_slow_none_that_was_asked_before_sap_had_settled_counted(bridge):
    operation_id = bridge.accept()
    bridge.sap.script.append("drop")
    bridge.step(operation_id)
    bridge.clock.advance(SETTLING_SECONDS - 1)
    ask = bridge.sap.find

    def slow(company_code, reference):
        """SAP looks at once, and its answer takes long."""
        found = ask(company_code, reference)
        bridge.clock.advance(20)
        return found

    bridge.sap.find = slow
    bridge.step(operation_id)
    assert bridge.row(operation_id).none_seen_at is None


def test_two_nones_decided_although_the_second_was_asked_within_the_read_lag(bridge):
    """The second question went out early (somebody put it back) and was answered late."""
    operation_id = bridge.accept()
    bridge.sap.script.append("drop")
    bridge.step(operation_id)
    bridge.clock.advance(SETTLING_SECONDS + 1)
    bridge.step(operation_id)
    assert bridge.row(operation_id).none_seen_at is not None
    ask = bridge.sap.find

    def slow(company_code, reference):
        found = ask(company_code, reference)
        bridge.clock.advance(READ_LAG_SECONDS + 1)
        return found

    bridge.sap.find = slow
    bridge.step(operation_id)
    assert bridge.row(operation_id).status == "unknown"


def test_a_document_for_one_sap_system_was_made_with_the_accounts_of_another(bridge):
    """The partner moved to another SAP system between acceptance and the first claim."""
    operation_id = bridge.accept()
    moved = TARGET.model_copy(update={"sap_system": "s4-second"})
    bridge.directory.configuration = bridge.directory.configuration.model_copy(
        update={"targets": {"main": moved}}
    )
    bridge.step(operation_id)
    assert bridge.sap.sendings == []
    row = bridge.row(operation_id)
    assert (row.status, row.parked_reason, row.claims_started) == ("parked", "mapping", 0)
    assert bridge.busy_slots() == 0


def test_a_move_to_another_sap_system_leaves_a_document_once_rendered_alone(bridge):
    operation_id = bridge.accept()
    bridge.sap.script.append("not-posted")
    bridge.step(operation_id)
    moved = TARGET.model_copy(update={"sap_system": "s4-second"})
    bridge.directory.configuration = bridge.directory.configuration.model_copy(
        update={"targets": {"main": moved}}
    )
    bridge.clock.advance(2)
    bridge.step(operation_id)
    assert bridge.row(operation_id).status == "succeeded"


@pytest.mark.parametrize(
    "damage",
    ["UPDATE payments SET external_id = E'INV\\x0b1'", "UPDATE payments SET time_zone = 'Europe/Nowhere'"],
)
def test_what_could_not_be_rendered_was_claimed_for_ever(bridge, damage):
    """The claim's transaction was undone with its counters, so that nobody ever noticed poison."""
    operation_id = bridge.accept()
    with bridge.engine.begin() as connection:
        connection.execute(text(damage))
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.parked_reason, row.sent_unresolved) == ("parked", "mapping", False)
    assert bridge.sap.sendings == []
    assert bridge.busy_slots() == 0


def test_a_partners_number_that_a_mapping_could_not_round_was_claimed_for_ever(bridge):
    operation_id = bridge.accept()
    with bridge.engine.begin() as connection:
        connection.execute(text("UPDATE payments SET metadata = jsonb_build_object('boxes', '1e999')"))
    rounding = Expression(jmespath="to_string(ceil(to_number(metadata.boxes)))")
    mapping = MAPPING.model_copy(update={"assignment": rounding})
    target = TARGET.model_copy(update={"mappings": dict.fromkeys(OperationKind, mapping)})
    bridge.directory.configuration = bridge.directory.configuration.model_copy(
        update={"targets": {"main": target}}
    )
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.parked_reason, row.sent_unresolved) == ("parked", "mapping", False)
    assert bridge.busy_slots() == 0


def test_a_refund_behind_a_payment_that_sap_refused_waited_for_ever(bridge):
    operation_id = bridge.accept()
    refund_id = bridge.queue(operation_id, "refund", 100)
    bridge.sap.script.append("refuse:102(F5)")
    bridge.step(operation_id)
    refund = bridge.row(refund_id)
    assert (refund.status, refund.failure_code, refund.payment_status) == (
        "rejected", "predecessor-rejected", "rejected",
    )  # fmt: skip
    assert refund.not_before is None
    assert bridge.events(operation_id) == ["payment.rejected"]
    assert bridge.events(refund_id) == ["payment.refund_rejected"]
    with bridge.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM outbox WHERE lane = 's4-main'")).scalar() == 0


def go_through(bridge, operation_id, *, fails=False):
    """Take the operation's next steps until it is to be posted or at its end; the posting `fails`."""
    if fails:
        bridge.sap.script.append("drop")
    bridge.step(operation_id)
    while bridge.row(operation_id).status == "unknown":
        wait_for_turn(bridge, operation_id)
        bridge.step(operation_id)
    if bridge.row(operation_id).status == "accepted":
        wait_for_turn(bridge, operation_id)


def test_a_poisonous_operation_was_tried_for_ever_once_all_the_others_were_paid(bridge):
    """Its attempts counted only while others succeeded, and none were left."""
    poison = bridge.accept()
    for _ in range(3):
        bridge.clock.advance(1)
        bridge.step(bridge.accept())
    for _ in range(8):
        assert bridge.row(poison).status == "accepted"
        go_through(bridge, poison, fails=True)
    row = bridge.row(poison)
    assert (row.status, row.parked_reason, row.sent_unresolved) == ("parked", "no-progress", False)
    assert (bridge.lane().call_window, bridge.lane().failed_probes) == (4, 0)


def test_the_only_operation_of_an_outage_that_began_before_it_is_not_parked(bridge):
    bridge.step(bridge.accept())
    bridge.clock.advance(60)
    operation_id = bridge.accept()
    for _ in range(12):
        go_through(bridge, operation_id, fails=True)
    assert (bridge.row(operation_id).status, bridge.row(operation_id).attempts) == ("accepted", 0)


def test_two_that_fail_beside_each_other_are_no_poison(bridge):
    first, second = bridge.accept(), bridge.accept()
    bridge.clock.advance(1)
    bridge.step(bridge.accept())
    for _ in range(12):
        for operation_id in (first, second):
            go_through(bridge, operation_id, fails=True)
    # each counts what failed before anybody knew that the other would
    assert [bridge.row(one).attempts for one in (first, second)] == [1, 1]


def test_a_mapping_changed_while_an_outcome_was_unknown_does_not_make_a_second_document(bridge):
    """What is sent again is the frozen document, and what is found is compared with it."""
    found, lost = bridge.accept(), bridge.accept()
    bridge.sap.script.extend(["commit-then-drop", "drop"])
    bridge.step(found)
    bridge.step(lost)
    other = TARGET.mappings["payment"].model_copy(update={"document_type": "AB", "customer": "10000099"})
    changed = TARGET.model_copy(update={"sap_system": "s4-second", "mappings": {"payment": other}})
    targets = {"main": changed, "second": TARGET.model_copy(update={"company_code": "2000"})}
    bridge.directory.configuration = bridge.directory.configuration.model_copy(
        update={"targets": targets, "routing": Routing(default="second")}
    )
    for operation_id in (found, lost):
        go_through(bridge, operation_id)
        if bridge.row(operation_id).status == "accepted":
            bridge.step(operation_id)
        row = bridge.row(operation_id)
        assert (row.status, row.document_type, row.sap_company_code) == ("succeeded", "DZ", "1000")
    assert len(bridge.sap.booked) == 2
    first, again = (one for one in bridge.sap.sendings if one.operation_id == lost)
    assert first == again


def without_cents(bridge):
    """Let the partner's target keep EUR without decimals."""
    target = TARGET.model_copy(update={"currency_decimals": {"EUR": 0}})
    configuration = bridge.directory.configuration
    bridge.directory.configuration = configuration.model_copy(update={"targets": {"main": target}})


def test_amounts_are_sent_with_the_decimals_of_the_targets_currency_table(bridge):
    target = TARGET.model_copy(update={"currency_decimals": {"EUR": 0}})
    bridge.directory.configuration = bridge.directory.configuration.model_copy(
        update={"targets": {"main": target}}
    )
    operation_id = bridge.accept()
    bridge.step(operation_id)
    assert b">1250<" in bridge.sap.sendings[0].content
    assert bridge.row(operation_id).status == "succeeded"


def test_an_amount_that_its_target_has_no_decimals_for_any_more_is_parked_and_not_sent(bridge):
    target = TARGET.model_copy(update={"currency_decimals": {"EUR": 0}})
    bridge.directory.configuration = bridge.directory.configuration.model_copy(
        update={"targets": {"main": target}}
    )
    operation_id = bridge.accept()
    with bridge.engine.begin() as connection:
        connection.execute(text("UPDATE operations SET amount_minor = 125050"))
        connection.execute(text("UPDATE payments SET amount_minor = 125050"))
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.parked_reason) == ("parked", "mapping")
    assert bridge.sap.sendings == []


def found(bridge, **changes):
    """Replace what SAP has of the only operation."""
    (reference, document) = bridge.sap.booked[0]
    bridge.sap.booked[0] = (reference, replace(document, **changes))


def lost(bridge):
    operation_id = bridge.accept()
    bridge.sap.script.append("commit-then-drop")
    bridge.step(operation_id)
    return operation_id


@pytest.mark.parametrize("changes", [{"is_reversed": True}, {"is_reversal": True}])
def test_a_document_that_somebody_reversed_is_not_taken_for_a_standing_one(bridge, changes):
    operation_id = lost(bridge)
    found(bridge, **changes)
    wait_for_turn(bridge, operation_id)
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.parked_reason) == ("parked", "reference-conflict")


def test_a_reversal_has_the_document_type_that_sap_gives_it(bridge):
    first = bridge.accept("authorize")
    bridge.step(first)
    reversal = bridge.queue(first, "reverse")
    bridge.sap.script.append("commit-then-drop")
    bridge.step(reversal)
    reference, document = bridge.sap.booked[1]
    bridge.sap.booked[1] = (reference, replace(document, document_type="AB"))
    wait_for_turn(bridge, reversal)
    bridge.step(reversal)
    assert bridge.row(reversal).status == "succeeded"
