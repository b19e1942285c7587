"""The restore drill: what SAP had is found and not posted again; what a partner sends again is no second.

A plain run of the tests takes a tenth of the payments. `make drill-restore` (`--drill-full`) takes them all.
"""

import sqlite3

import pytest
from drill import Drill
from waiting import wait_until

from devstack.demo.instructions import Instructions

pytestmark = [pytest.mark.e2e, pytest.mark.plants_faults]

# payments: in all, accepted when the backup is made, posted when the database is lost
FULL = (300, 100, 200)
QUICK = (30, 10, 20)
SENT_WHILE_HELD = 3
DRAIN_SECONDS = 240.0
# so that a backlog is there when the backup is made and when the database is lost
SLOW_SAP = {"latency_ms": 400}


def test_a_restored_backup_posts_nothing_twice_and_loses_no_external_id(stack, request):
    count, at_backup, at_loss = FULL if request.config.getoption("drill_full", default=False) else QUICK
    kept, lost = [("kept", n) for n in range(at_backup)], [("lost", n) for n in range(count - at_backup)]
    drill = Drill(stack)
    stack.sap("PUT", "/_control/faults", json=SLOW_SAP)
    drill.sender.send("kept", len(kept))
    backup = drill.back_up()
    drill.sender.send("lost", len(lost))
    wait_until(lambda: drill.documents() >= at_loss, timeout_seconds=120, what="documents in SAP")
    fed = drill.feeds()
    drill.destroy()
    posted = ledger_documents(drill)
    assert posted >= at_loss

    drill.restore(backup)
    stack.sap("PUT", "/_control/faults", json={})
    remembered = {row.external_id for row in drill.rows("SELECT external_id FROM payments")}
    assert remembered == external_ids(drill, kept)
    # whoever goes to SAP has noticed by itself: nothing does before the recovery
    assert set(drill.lanes().values()) == {"held"}
    early = [drill.send_again(*each).status_code for each in lost[:SENT_WHILE_HELD]]
    assert early == [202] * SENT_WHILE_HELD
    assert drill.documents() == posted

    require_that_nobody_decides(drill)
    assert drill.feeds().items() <= fed.items()

    recovery = drill.recover(backup)
    assert (recovery["status"], recovery["unplaced_documents"]) == ("finished", [])
    made = sum(lane["operations_made"] for lane in recovery["lanes"])
    assert made >= at_loss - at_backup
    assert set(drill.lanes().values()) == {"open"}

    answers = {each: drill.send_again(*each).status_code for each in (*kept, *lost)}
    refused = {each for each, status in answers.items() if status == 409}
    assert set(answers.values()) == {202, 409}
    assert refused <= set(lost)
    assert made - SENT_WHILE_HELD <= len(refused) <= made
    wait_until(
        lambda: drill.documents() == count and not unfinished(drill),
        timeout_seconds=DRAIN_SECONDS, what="everything paid",
    )  # fmt: skip
    stats = stack.sap("GET", "/_control/stats")
    print(  # noqa: T201 - the drill tells what it found
        f"\n{count} payments, {at_backup} in the backup, {posted} documents when the database was lost; "
        f"{recovery['operations_marked']} operations asked about, {made} made of documents, "
        f"{len(refused)} payments sent again in vain, {stats['duplicates']} duplicates"
    )
    assert (stats["documents"], stats["duplicates"]) == (count, 0)
    payments = drill.rows("SELECT external_id, status FROM payments")
    assert {row.status for row in payments} == {"paid"}
    assert len(payments) == count
    assert {row.external_id for row in payments} == external_ids(drill, (*kept, *lost))
    references = {one["reference"] for one in stack.sap("GET", "/_control/documents")}
    assert references == {row.sap_reference for row in drill.rows("SELECT sap_reference FROM operations")}
    assert min(row.epoch for row in drill.rows("SELECT epoch FROM feed_counters")) > 1
    after = drill.feeds()
    assert {number: after[number] for number in fed.keys() & after.keys()}.items() <= fed.items()
    refund_what_was_recovered(drill)
    assert drill.documents() == count + 1


def test_a_data_folder_that_was_put_back_under_the_running_stack_went_on_posting(stack):
    """The same cluster on the same timeline: nothing in the database tells that it is old."""
    drill = Drill(stack, Instructions("put-back"))
    before = drill.documents()
    stack.sap("PUT", "/_control/faults", json={"mode": "down"})
    drill.sender.send("kept", 4)
    copied = drill.copy_data_folder()
    # whatever is sent a second time is a second document
    stack.sap("PUT", "/_control/faults", json={"idempotency_window_s": 0})
    drill.sender.send("lost", 4)
    wait_until(
        lambda: drill.documents() == before + 8 and not unfinished(drill),
        timeout_seconds=DRAIN_SECONDS, what="everything paid",
    )  # fmt: skip
    wait_until(lambda: not unnumbered(drill), what="the feed")
    fed = drill.feeds()

    drill.put_data_folder_back()
    wait_until(lambda: set(drill.lanes().values()) == {"held"}, what="the lanes held")
    require_that_nobody_decides(drill)
    assert drill.feeds().items() <= fed.items()
    assert drill.documents() == before + 8

    recovery = drill.recover(copied)
    assert (recovery["status"], recovery["unplaced_documents"]) == ("finished", [])
    wait_until(
        lambda: not unfinished(drill) and not unnumbered(drill),
        timeout_seconds=DRAIN_SECONDS, what="everything found",
    )  # fmt: skip
    stats = stack.sap("GET", "/_control/stats")
    assert (stats["documents"], stats["duplicates"]) == (before + 8, 0)
    again = [drill.send_again("lost", number).status_code for number in range(4)]
    assert again == [409] * 4
    after = drill.feeds()
    assert {number: after[number] for number in fed.keys() & after.keys()}.items() <= fed.items()
    assert set(drill.lanes().values()) == {"open"}


def unnumbered(drill):
    return drill.rows("SELECT 1 FROM outbox WHERE lane = 'events'")


def require_that_nobody_decides(drill):
    """Partners and operators act while SAP knows more than the database: each is told to come back."""
    payments = drill.rows("SELECT payment_id, partner_id FROM payments ORDER BY payment_id LIMIT 3")
    answers = [
        answer
        for payment in payments
        for answer in (
            *(drill.operate(payment, what) for what in ("cancellations", "refunds", "captures", "reversals")),
            *(drill.order(payment.payment_id, action) for action in ("reject", "redrive", "park")),
        )
    ]
    assert [answer.status_code for answer in answers] == [503] * len(answers)
    assert {answer.json()["reason"] for answer in answers} == {"recovery-due"}
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in answers)


def refund_what_was_recovered(drill):
    (recovered,) = drill.rows(
        "SELECT payment_id, partner_id FROM payments WHERE recovered_at IS NOT NULL AND capture = 'automatic'"
        " ORDER BY payment_id LIMIT 1"
    )
    assert drill.operate(recovered, "refunds").status_code == 202
    wait_until(
        lambda: drill.rows(
            f"SELECT 1 FROM payments WHERE payment_id = '{recovered.payment_id}' AND status = 'refunded'"
        ),
        timeout_seconds=DRAIN_SECONDS, what="the recovered payment refunded",
    )  # fmt: skip


def external_ids(drill, sent):
    return {drill.instructions.body(group, number)["external_id"] for group, number in sent}


def ledger_documents(drill):
    """The mock's ledger outlives it; count while the stack is down, as an auditor of SAP would."""
    with sqlite3.connect(f"{drill.stack.layout.data('sap_mock')}.sqlite") as connection:
        (count,) = connection.execute("SELECT count(*) FROM documents").fetchone()
    return count


def unfinished(drill):
    return drill.rows(
        "SELECT operation_id FROM operations WHERE status NOT IN ('succeeded', 'rejected', 'cancelled')"
    )
