"""A partner whose postings are held: nothing new goes to SAP; what SAP may have is asked about."""

import threading

import pytest
from posting_stage import make_bridge

from bridge.partner_mirror import PartnerMirror
from dispatcher.watchdog import Watchdog, WatchdogSettings

pytestmark = pytest.mark.integration

SETTINGS = WatchdogSettings(5.0, 60.0, 60.0, 900.0)


@pytest.fixture
def stage(database):
    adapter = database.engine_for("sap_adapter")
    bridge = make_bridge(database.engine, adapter)
    dispatcher = database.engine_for("dispatcher")
    yield bridge, dispatcher
    adapter.dispose()
    dispatcher.dispose()


def set_posting(bridge, posting, *, adapter_knows=True):
    """Write the change as the partners service does; the adapter may hear of it later."""
    standing = bridge.directory.configuration
    newest = standing.model_copy(update={"posting": posting, "version": standing.version + 1})
    PartnerMirror(bridge.engine).remember(newest, bridge.clock.now())
    if adapter_knows:
        bridge.directory.configuration = newest


def watch(bridge, dispatcher):
    Watchdog(dispatcher, bridge.clock, SETTINGS, lambda: None).go_round()


def test_what_is_accepted_while_held_waits_visibly_and_goes_on_by_itself(stage):
    bridge, dispatcher = stage
    set_posting(bridge, "held")
    operation_id = bridge.accept()
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.parked_reason, row.outbox_row) == ("parked", "partner-held", None)
    assert bridge.events(operation_id)[-1] == "payment.delayed"
    watch(bridge, dispatcher)
    assert bridge.row(operation_id).status == "parked"
    assert bridge.sap.sendings == []
    set_posting(bridge, "active")
    watch(bridge, dispatcher)
    assert bridge.row(operation_id).status == "accepted"
    bridge.step(operation_id)
    assert bridge.row(operation_id).status == "succeeded"
    assert len(bridge.sap.sendings) == 1


def test_what_sap_may_have_is_asked_about_all_the_same(stage):
    bridge, _ = stage
    operation_id = bridge.accept()
    bridge.sap.script.append("commit-then-drop")
    bridge.step(operation_id)
    assert bridge.row(operation_id).status == "unknown"
    set_posting(bridge, "held")
    bridge.clock.advance(1)
    bridge.step(operation_id)
    assert bridge.row(operation_id).status == "succeeded"
    assert len(bridge.sap.sendings) == 1


def test_an_adapter_that_hears_of_the_release_late_parks_again_and_nothing_is_left_behind(stage):
    bridge, dispatcher = stage
    set_posting(bridge, "held")
    operation_id = bridge.accept()
    bridge.step(operation_id)
    set_posting(bridge, "active", adapter_knows=False)
    watch(bridge, dispatcher)
    bridge.step(operation_id)
    assert bridge.row(operation_id).status == "parked"
    set_posting(bridge, "active")
    watch(bridge, dispatcher)
    bridge.step(operation_id)
    assert bridge.row(operation_id).status == "succeeded"
    assert bridge.events(operation_id).count("payment.delayed") == 1


def test_what_an_operator_has_stopped_stays_stopped(stage):
    bridge, dispatcher = stage
    operation_id = bridge.accept()
    with bridge.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE operations SET status = 'parked', parked_reason = 'held'")
    set_posting(bridge, "active")
    watch(bridge, dispatcher)
    assert bridge.row(operation_id).status == "parked"


def test_several_watchdogs_let_each_operation_go_once(stage):
    bridge, dispatcher = stage
    set_posting(bridge, "held")
    operations = [bridge.accept() for _ in range(10)]
    for operation_id in operations:
        bridge.step(operation_id)
    set_posting(bridge, "active")
    threads = [threading.Thread(target=watch, args=(bridge, dispatcher)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for operation_id in operations:
        assert bridge.row(operation_id).outbox_row is not None
        bridge.step(operation_id)
    assert len(bridge.sap.sendings) == len(operations)
