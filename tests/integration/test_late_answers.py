"""SAP answers after the claim's lease has ended: every interleaving with the watchdog and the next claim."""

from datetime import timedelta

import pytest
from fakes.publisher import CrashError, InMemoryPublisher
from posting_stage import LEASE_SECONDS, SETTLING_SECONDS, make_bridge
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from bridge.errors import UnknownOutcomeError
from dispatcher.relay import OperationsRelay, RelaySettings
from dispatcher.watchdog import Watchdog, WatchdogSettings
from sap_adapter.connector import AnswerForgottenError

pytestmark = pytest.mark.integration

LANE = "s4-main"


@pytest.fixture
def dispatcher(database):
    engine = database.engine_for("dispatcher")
    yield engine
    engine.dispose()


@pytest.fixture
def bridge(database):
    engine = database.engine_for("sap_adapter")
    yield make_bridge(database.engine, engine)
    engine.dispose()


@pytest.fixture
def watchdog(bridge, dispatcher):
    settings = WatchdogSettings(5.0, 60.0, SETTLING_SECONDS, 900.0)
    return Watchdog(dispatcher, bridge.clock, settings, lambda: None)


def during(bridge, call, *steps):
    """Have the connector's next calls take a while: each does its step before it answers."""
    original, waiting = getattr(bridge.sap, call), list(steps)

    def slow(*arguments):
        if waiting:
            waiting.pop(0)()
        return original(*arguments)

    setattr(bridge.sap, call, slow)


def lease_ends(bridge, watchdog):
    bridge.clock.advance(LEASE_SECONDS + 1)
    watchdog.go_round()


def settling_slots(bridge, operation_id):
    statement = "SELECT count(*) FROM sap_slots WHERE settling AND operation_id = :id"
    with bridge.engine.connect() as connection:
        return connection.execute(text(statement), {"id": operation_id}).scalar_one()


def finish(bridge, operation_id, rounds=20):
    """Go on as the broker would until the operation comes to rest."""
    for _ in range(rounds):
        row = bridge.row(operation_id)
        if row.status in ("succeeded", "rejected", "parked"):
            return row
        if row.not_before is not None:
            bridge.clock.advance(max((row.not_before - bridge.clock.now()).total_seconds(), 0.0))
        bridge.step(operation_id)
    return bridge.row(operation_id)


def test_an_answer_after_the_leases_end_was_thrown_away(bridge, watchdog):
    operation_id = bridge.accept()
    during(bridge, "post", lambda: lease_ends(bridge, watchdog))
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.payment_status) == ("succeeded", "paid")
    assert (row.claims_started, row.claims_finished) == (1, 1)
    assert bridge.busy_slots() == settling_slots(bridge, operation_id) == 0
    bridge.step(operation_id)  # what the watchdog had put back finds nothing to do
    assert bridge.sap.questions == 0
    assert len(bridge.sap.booked) == 1


def test_a_late_refusal_is_as_definite_as_one_in_time(bridge, watchdog):
    operation_id = bridge.accept()
    bridge.sap.script.append("refuse:601(MC)")
    during(bridge, "post", lambda: lease_ends(bridge, watchdog))
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.generation, row.sent_unresolved) == ("accepted", 1, False)
    assert bridge.busy_slots() == 0
    assert finish(bridge, operation_id).status == "succeeded"
    assert len(bridge.sap.booked) == 1


def test_a_call_that_is_lost_late_keeps_one_permit_and_counts_once(bridge, watchdog):
    operation_id = bridge.accept()
    bridge.sap.script.append("commit-then-drop")
    during(bridge, "post", lambda: lease_ends(bridge, watchdog))
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert row.status == "unknown"
    assert row.settled_at == bridge.clock.now() + timedelta(seconds=SETTLING_SECONDS)
    assert bridge.busy_slots() == settling_slots(bridge, operation_id) == 1
    assert finish(bridge, operation_id).status == "succeeded"
    assert len(bridge.sap.booked) == 1


def test_an_answer_after_the_next_claim_is_left_to_that_claims_question(bridge, watchdog):
    operation_id = bridge.accept()

    def taken_over():
        lease_ends(bridge, watchdog)
        bridge.sap.hidden = True
        bridge.step(operation_id)
        bridge.sap.hidden = False

    during(bridge, "post", taken_over)
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.sent_unresolved) == ("unknown", True)
    assert (row.claims_started, row.claims_finished) == (2, 2)
    assert finish(bridge, operation_id).status == "succeeded"
    assert len(bridge.sap.booked) == 1


def test_an_answer_while_the_next_message_is_on_its_way_is_left_to_it(bridge, watchdog):
    operation_id, messages = bridge.accept(), []

    def dispatched_again():
        lease_ends(bridge, watchdog)
        messages.append(bridge.dispatch(operation_id))

    during(bridge, "post", dispatched_again)
    bridge.step(operation_id)
    assert bridge.row(operation_id).status == "unknown"
    bridge.posting.handle(messages[0])
    assert bridge.row(operation_id).status == "succeeded"
    assert len(bridge.sap.booked) == 1


def test_calls_that_outlived_their_leases_made_a_posted_payment_poison(bridge, watchdog):
    """The claims had come back, one after the other, and every answer was thrown away."""
    operation_id = bridge.accept()

    def asked_twice_more():
        lease_ends(bridge, watchdog)
        during(bridge, "find", asked_once_more, lambda: lease_ends(bridge, watchdog))
        bridge.step(operation_id)

    def asked_once_more():
        lease_ends(bridge, watchdog)
        bridge.step(operation_id)
        assert bridge.row(operation_id).parked_reason == "poison"

    original = bridge.sap.find
    during(bridge, "post", asked_twice_more)
    bridge.step(operation_id)
    bridge.sap.find = original
    row = bridge.row(operation_id)
    assert (row.status, row.parked_reason) == ("unknown", None)
    assert bridge.events(operation_id) == ["payment.delayed"]
    assert finish(bridge, operation_id).status == "succeeded"
    assert len(bridge.sap.booked) == 1


def test_a_permit_that_another_operation_has_taken_stays_its_own(bridge, watchdog):
    operation_id, other = bridge.accept(), bridge.accept()

    def permit_taken():
        lease_ends(bridge, watchdog)
        with bridge.engine.begin() as connection:
            connection.execute(
                text(
                    "UPDATE sap_slots SET operation_id = :other, lease_until = :until WHERE slot_number = 1"
                ),
                {"other": other, "until": bridge.clock.now() + timedelta(seconds=LEASE_SECONDS)},
            )

    during(bridge, "post", permit_taken)
    bridge.step(operation_id)
    assert bridge.row(operation_id).status == "succeeded"
    assert bridge.busy_slots() == 1


def test_a_record_that_is_written_again_after_its_commit_was_lost_counts_once(bridge, monkeypatch):
    operation_id = bridge.accept()
    bridge.clock.advance(1)
    bridge.step(bridge.accept())
    bridge.sap.script.append("drop")
    recorder, lost = bridge.posting._recorder, []
    once = recorder._record_once

    def committed_and_lost(claim, write):
        once(claim, write)
        if not lost:
            lost.append(1)
            raise OperationalError("commit", {}, Exception("connection lost"))

    monkeypatch.setattr(recorder, "_record_once", committed_and_lost)
    bridge.step(operation_id)
    assert lost
    assert bridge.row(operation_id).attempts == 1
    assert settling_slots(bridge, operation_id) == 1


def test_a_lane_whose_calls_never_came_back_looked_healthy(bridge, watchdog):
    operations = [bridge.accept() for _ in range(3)]
    with bridge.engine.begin() as connection:
        connection.execute(text("UPDATE sap_systems SET call_window = 3"))

    class Killed(BaseException):
        pass

    def dies():
        raise Killed

    for operation_id in operations:
        message = bridge.dispatch(operation_id)
        during(bridge, "post", dies)
        with pytest.raises(Killed):
            bridge.posting.handle(message)
        del bridge.sap.post
    assert bridge.lane().call_window == 3
    lease_ends(bridge, watchdog)
    lane = bridge.lane()
    assert (lane.call_window, lane.failed_probes) == (0, 1)
    assert sorted(lane.failing_operations) == sorted(operations)


def test_a_relay_that_died_after_publishing_took_a_running_question_its_claim(bridge, dispatcher):
    operation_id = bridge.accept()
    bridge.sap.script.append("commit-then-drop")
    bridge.step(operation_id)
    bridge.clock.advance(2)
    publisher = InMemoryPublisher()
    publisher.crashes = True
    settings = RelaySettings(10.0, 500)
    with pytest.raises(CrashError):
        OperationsRelay(LANE, dispatcher, publisher, bridge.clock, settings).go_round()
    (message,) = publisher.messages()
    publisher.crashes = False

    def another_relay_goes_round():
        bridge.clock.advance(11)  # the first one's right to the row is over, the question is still under way
        OperationsRelay(LANE, dispatcher, publisher, bridge.clock, settings).go_round()

    during(bridge, "find", another_relay_goes_round)
    bridge.posting.handle(message)
    assert bridge.row(operation_id).status == "succeeded"
    assert len(publisher.messages()) == 1
    assert bridge.busy_slots() == 0


@pytest.fixture
def forgetful(bridge):
    """SAP refuses each operation's first message, the answer is lost, and later it has forgotten it."""
    processed, original = set(), bridge.sap.post

    def post(sending):
        bridge.sap.sendings.append(sending)
        if sending.message_uuid in processed:
            raise AnswerForgottenError("outdated")
        if not any(sent.operation_id == sending.operation_id for sent in bridge.sap.sendings[:-1]):
            processed.add(sending.message_uuid)
            raise UnknownOutcomeError("the call to SAP broke off")
        return original(sending)

    bridge.sap.post = post
    return bridge


def test_a_refusal_that_was_lost_and_forgotten_kept_its_message_for_ever(forgetful):
    bridge = forgetful
    operation_id = bridge.accept()
    row = finish(bridge, operation_id)
    assert (row.status, row.generation, row.attempts) == ("succeeded", 1, 0)
    assert len({sending.message_uuid for sending in bridge.sap.sendings}) == 2
    assert len(bridge.sap.booked) == 1


def test_a_document_behind_a_forgotten_answer_is_found_and_not_posted_again(forgetful):
    bridge = forgetful
    operation_id = bridge.accept()
    bridge.step(operation_id)
    bridge.sap._book(bridge.sap.sendings[0])
    row = finish(bridge, operation_id)
    assert (row.status, row.generation) == ("succeeded", 0)
    assert len(bridge.sap.booked) == 1


def test_a_forgotten_answer_does_not_count_against_the_lane(forgetful):
    bridge = forgetful
    operation_id = bridge.accept()
    bridge.step(operation_id)
    failing = bridge.lane().failing_operations
    for _ in range(30):
        row = bridge.row(operation_id)
        if row.sap_answer_forgotten:
            break
        bridge.clock.advance(max((row.not_before - bridge.clock.now()).total_seconds(), 0.0))
        bridge.step(operation_id)
    assert bridge.row(operation_id).sap_answer_forgotten
    assert bridge.lane().failing_operations == failing
