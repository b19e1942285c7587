"""`bridge payments|sap|dead-letters …` over HTTP against the backoffice on a real database."""

import json
import os
import subprocess
import sys
import threading
from datetime import timedelta

import pytest
from backoffice_stage import OPERATOR, make_backoffice
from races import at_once
from sqlalchemy import text
from stand_ins import REPOSITORY
from waiting import DEADLINE_SECONDS, wait_until
from werkzeug.serving import make_server

from backoffice.settings import Settings
from bridge.errors import SettingsError
from bridge.storage import guard
from bridge.storage.dead_letters import DeadLetter, DeadLetterStatus, record_dead_letter

pytestmark = pytest.mark.integration

WHY = ("--reason", "ticket 4711")


@pytest.fixture
def stage(database):
    yield from make_backoffice(database)


@pytest.fixture
def bridge(stage):
    return stage.bridge


@pytest.fixture
def command(stage):
    """Run the real command against the real service; return what it printed."""
    server = make_server("127.0.0.1", 0, stage.client.application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def run(*arguments, fails=False):
        url = f"http://127.0.0.1:{server.server_port}"
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments],
            cwd=REPOSITORY,
            env={"PATH": os.environ["PATH"], "BRIDGE_BACKOFFICE_URL": url, "USER": "olga", "LOGNAME": "olga"},
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_SECONDS,
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stderr if fails else done.stdout

    yield run
    server.shutdown()
    server.server_close()


def dead_letter(stage, reason, operation_id=None, status=DeadLetterStatus.OPEN, message_id="1"):
    letter = DeadLetter(
        "payment-operations-s4-main-push", message_id, operation_id, None, {"data-bytes": "7"}
    )
    with stage.bridge.engine.begin() as connection:
        return record_dead_letter(connection, letter, reason, status, now=stage.bridge.clock.now())


def test_a_refused_payment_is_found_looked_at_and_let_go_on(stage, bridge, command):
    operation_id = stage.parked_refused()
    bridge.accept()
    listed = command("payments", "list", "--status", "parked")
    assert operation_id in listed
    assert "operator, sap-account-missing" in listed
    assert "Muster" not in listed
    shown = command("payments", "show", operation_id)
    assert "payment.delayed" in shown
    assert "redriven" in command("payments", "redrive", operation_id, *WHY)
    assert "unchanged" in command("payments", "redrive", operation_id, *WHY)
    bridge.step(operation_id)
    payment = json.loads(command("payments", "show", operation_id, "--json"))
    assert payment["operations"][0]["sap_document"]["number"] == "1400000001"
    assert [line["actor"] for line in payment["audit"]] == ["olga"]
    assert len(bridge.sap.booked) == 1


def test_an_unknown_payment_is_rejected_when_sap_has_answered(stage, bridge, command):
    operation_id = stage.unknown(booked=False)
    changed = json.loads(command("payments", "reject", operation_id, *WHY, "--json"))
    assert changed["outcome"] == "pending"
    assert "then: reject" in command("payments", "list", "--status", "unknown")
    stage.resolve(operation_id)
    assert bridge.row(operation_id).status == "rejected"


def test_what_goes_wrong_is_said_in_words_with_an_exit_code(stage, command):
    assert "There is no such payment or operation" in command("payments", "park", "op_none", *WHY, fails=True)
    assert "--reason" in command("payments", "park", "op_none", fails=True)
    assert "There is no such SAP system" in command("sap", "hold", "s4-none", *WHY, fails=True)
    away = command("payments", "--url", "http://127.0.0.1:1", "list", fails=True)
    assert "does not answer" in away


def test_waiting_operations_are_listed_page_by_page_and_narrowed(stage, bridge):
    operations = []
    for _ in range(3):
        operations.append(bridge.accept())
        bridge.clock.advance(60)
    first = stage.client.get("/admin/operations?limit=2", headers=OPERATOR).json
    assert [one["id"] for one in first["data"]] == operations[:2]
    rest = stage.client.get(f"/admin/operations?limit=2&cursor={first['next_cursor']}", headers=OPERATOR).json
    assert [one["id"] for one in rest["data"]] == operations[2:]
    assert rest["next_cursor"] is None
    old = stage.client.get("/admin/operations?older_than_seconds=100", headers=OPERATOR).json["data"]
    assert [one["id"] for one in old] == operations[:2]
    stage.act(operations[1], "park")
    delayed = stage.client.get("/admin/operations?delayed=true", headers=OPERATOR).json["data"]
    assert [one["id"] for one in delayed] == [operations[1]]


@pytest.mark.parametrize(
    "query", ["status=succeeded", "limit=0", "limit=x", "older_than_seconds=-1", "cursor=x", "cursor=eA=="]
)
def test_a_malformed_question_is_refused(stage, query):
    assert stage.client.get(f"/admin/operations?{query}", headers=OPERATOR).status_code == 400


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"X-Operator": "olga"}, {}, 400),
        ({"X-Operator": "olga", "X-Reason": "x" * 501}, {}, 400),
        ({"X-Reason": "why"}, {}, 401),
        (OPERATOR, {"remap": "yes"}, 422),
        (OPERATOR, {"surprise": 1}, 422),
        (OPERATOR, [], 422),
    ],
)
def test_a_change_needs_an_operator_a_reason_and_a_body_that_is_known(stage, headers, body, status):
    operation_id = stage.parked_refused()
    answer = stage.client.post(f"/admin/payments/{operation_id}/redrive", json=body, headers=headers)
    assert answer.status_code == status
    assert stage.bridge.row(operation_id).status == "parked"
    assert stage.audit() == []


def test_a_held_lane_lets_no_call_begin_until_it_is_released(stage, bridge, command):
    operation_id = bridge.accept()
    assert "held" in command("sap", "hold", "s4-main", *WHY)
    assert "(unchanged)" in command("sap", "hold", "s4-main", *WHY)
    bridge.step(operation_id)
    assert bridge.sap.sendings == []
    table = command("sap", "status")
    assert "s4-main" in table
    assert json.loads(command("sap", "status", "--json"))[0]["state"] == "held"
    assert "open" in command("sap", "release", "s4-main", *WHY)
    bridge.clock.advance(1)
    bridge.step(operation_id)
    assert bridge.row(operation_id).status == "succeeded"
    assert [action for _, action, *_ in stage.audit()] == ["lane.hold", "lane.release"]


def test_a_cap_is_lowered_and_raised_while_calls_run(stage, bridge, command):
    """Four calls run when the cap goes to one: they end, and only then one at a time begins."""
    operations = [bridge.accept() for _ in range(6)]
    bridge.sap.script.extend(["wait"] * 4)
    calls = [
        threading.Thread(target=bridge.posting.handle, args=(bridge.dispatch(operation_id),))
        for operation_id in operations[:4]
    ]
    for call in calls:
        call.start()
    wait_until(lambda: len(bridge.sap.sendings) == 4, what="four calls")
    # not by the command: the calls wait for ten seconds, and a busy machine is slow to start one
    lowered = stage.client.put("/admin/lanes/s4-main/cap", json={"hard_cap": 1}, headers=OPERATOR)
    assert (lowered.json["lane"]["window"], lowered.json["lane"]["hard_cap"]) == (1, 1)
    assert bridge.busy_slots() == 4
    bridge.step(operations[4])
    assert len(bridge.sap.sendings) == 4
    bridge.sap.gate.set()
    for call in calls:
        call.join(DEADLINE_SECONDS)
    with bridge.engine.begin() as one, bridge.engine.begin() as other:
        now, until = bridge.clock.now(), bridge.clock.now() + timedelta(seconds=30)
        assert guard.take_slot(one, "s4-main", "op_a", lease_until=until, now=now) == 1
        assert guard.take_slot(other, "s4-main", "op_b", lease_until=until, now=now) is None
        one.rollback()
    assert "window 6 of 6" in command("sap", "set-cap", "s4-main", "6", *WHY)
    with bridge.engine.begin() as connection:
        taken = [
            guard.take_slot(connection, "s4-main", f"op_{n}", lease_until=until, now=now) for n in range(7)
        ]
    assert taken == [1, 2, 3, 4, 5, 6, None]
    assert [action for _, action, *_ in stage.audit()] == ["lane.set-cap 4 -> 1", "lane.set-cap 1 -> 6"]


def test_what_sap_may_still_be_working_on_keeps_no_permit_above_a_lowered_cap(stage, bridge):
    stage.client.put("/admin/lanes/s4-main/cap", json={"hard_cap": 2}, headers=OPERATOR)
    stage.unknown(booked=False)
    with bridge.engine.connect() as connection:
        kept = connection.execute(text("SELECT slot_number FROM sap_slots WHERE settling")).scalars().all()
    assert kept == [2]


@pytest.mark.parametrize("cap", [0, 257, True, "4", None])
def test_a_cap_is_a_whole_number_within_bounds(stage, cap):
    answer = stage.client.put("/admin/lanes/s4-main/cap", json={"hard_cap": cap}, headers=OPERATOR)
    assert answer.status_code == 422
    assert stage.bridge.lane().hard_cap == 4


def test_an_open_window_stays_open_and_a_closed_one_closed_when_the_cap_changes(stage, bridge):
    with bridge.engine.begin() as connection:
        connection.execute(text("UPDATE sap_systems SET call_window = 0, failed_probes = 2"))
    stage.client.put("/admin/lanes/s4-main/cap", json={"hard_cap": 8}, headers=OPERATOR)
    assert (bridge.lane().hard_cap, bridge.lane().call_window) == (8, 0)


def test_a_poisonous_dead_letter_is_redriven_once_with_its_operation(stage, bridge, command):
    operation_id = stage.parked_refused()
    number = dead_letter(stage, "poison", operation_id)
    assert operation_id in command("dead-letters", "list")
    assert json.loads(command("dead-letters", "show", str(number)))["attributes"] == {"data-bytes": "7"}
    answers = at_once(*[lambda: stage.post(f"/admin/dead-letters/{number}/redrive").json["changed"]] * 3)
    assert sorted(answers) == [False, False, True]
    assert bridge.row(operation_id).status == "accepted"
    assert stage.queued(operation_id) == 1
    assert "(unchanged)" in command("dead-letters", "redrive", str(number), *WHY)
    assert stage.post(f"/admin/dead-letters/{number}/discard").status_code == 409
    assert stage.audit() == [("olga", "dead-letter.redrive", str(number), "ticket 4711")]


def test_an_unreadable_dead_letter_can_only_be_discarded(stage, command):
    number = dead_letter(stage, "unreadable")
    assert "Nothing could be sent" in command("dead-letters", "redrive", str(number), *WHY, fails=True)
    assert "discarded" in command("dead-letters", "discard", str(number), *WHY)
    assert "(unchanged)" in command("dead-letters", "discard", str(number), *WHY)
    assert json.loads(command("dead-letters", "list", "--json")) == []
    assert stage.audit() == [("olga", "dead-letter.discard", str(number), "ticket 4711")]


def test_dead_letters_are_listed_by_status_and_page(stage):
    numbers = [dead_letter(stage, "unreadable", message_id=str(n)) for n in range(3)]
    dead_letter(stage, "undelivered", status=DeadLetterStatus.RETURNED, message_id="returned")
    page = stage.client.get("/admin/dead-letters?status=open&limit=2", headers=OPERATOR).json
    assert [one["number"] for one in page["data"]] == numbers[:0:-1]
    rest = stage.client.get(f"/admin/dead-letters?status=open&before={page['next_before']}", headers=OPERATOR)
    assert [one["number"] for one in rest.json["data"]] == numbers[:1]
    assert stage.client.get("/admin/dead-letters?status=lost", headers=OPERATOR).status_code == 400
    assert stage.client.get("/admin/dead-letters/99", headers=OPERATOR).status_code == 404


def test_the_trail_is_read_by_subject(stage):
    operation_id = stage.parked_refused()
    stage.act(operation_id, "redrive")
    stage.post("/admin/lanes/s4-main/hold")
    found = stage.client.get(f"/admin/audit?subject={operation_id}", headers=OPERATOR).json["data"]
    assert [one["action"] for one in found] == ["operation.redrive"]
    assert len(stage.client.get("/admin/audit", headers=OPERATOR).json["data"]) == 2


def test_the_service_says_whether_it_is_ready(stage):
    assert stage.client.get("/livez").status_code == 200
    assert stage.client.get("/readyz").status_code == 200


@pytest.mark.parametrize("change", [{"PORT": "0"}, {"DATABASE_URL": ""}, {"SAP_SETTLING_SECONDS": "x"}])
def test_a_wrong_setting_is_named(change):
    right = {"DATABASE_URL": "postgresql+pg8000://a@b/c", "OPERATOR_AUTHENTICATION": "emulator"}
    with pytest.raises(SettingsError, match=next(iter(change))):
        Settings.from_environment(right | change)
