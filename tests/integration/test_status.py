"""The live state in one look: what waits, how much and since when; and the same on a terminal."""

import json
import os
import subprocess
import sys
import threading
from datetime import timedelta

import pytest
from backoffice_stage import OPERATOR, make_backoffice
from sqlalchemy import text
from stand_ins import REPOSITORY
from werkzeug.serving import make_server

pytestmark = pytest.mark.integration


@pytest.fixture
def office(database):
    yield from make_backoffice(database)


def look(office):
    answer = office.client.get("/admin/status", headers=OPERATOR)
    assert answer.status_code == 200, answer.text
    return answer.json


def test_nothing_waits_in_an_idle_bridge(office):
    state = look(office)
    assert state["operations"]["parked"] == {"count": 0, "oldest_age_seconds": 0.0}
    assert state["dead_letters"] == {"count": 0, "oldest_age_seconds": 0.0}
    assert [lane["backlog"] for lane in state["lanes"]] == [0]


def test_parked_and_unknown_operations_are_counted_with_their_age(office):
    office.parked_refused()
    office.unknown(booked=True)
    office.bridge.clock.advance(90)
    state = look(office)
    assert state["operations"]["parked"] == {"count": 1, "oldest_age_seconds": 90.0}
    assert state["operations"]["unknown"]["count"] == 1
    assert state["feed"]["unsequenced"]["count"] > 0


def test_dead_letters_and_late_webhooks_are_counted(office):
    now = office.bridge.clock.now()
    with office.bridge.engine.begin() as connection:
        connection.execute(
            text("""
            INSERT INTO dead_letters (subscription, message_id, reason, attributes, status, received_at)
            VALUES ('s', '1', 'unreadable', '{}', 'open', :then),
                   ('s', '2', 'unreadable', '{}', 'discarded', :then)
            """),
            {"then": now - timedelta(minutes=5)},
        )
        connection.execute(
            text("""
            INSERT INTO webhooks.cursors (endpoint_id, partner_id, sequence, status, disabled_reason,
                                          configuration_version, created_at)
            VALUES ('whe_1', 'par_1', 0, 'disabled', 'gone', 1, :now),
                   ('whe_2', 'par_1', 0, 'enabled', NULL, 1, :now)
            """),
            {"now": now},
        )
        connection.execute(
            text("""
            INSERT INTO webhooks.deliveries (delivery_id, endpoint_id, partner_id, sequence,
                                             previous_sequence, status, next_attempt_at, created_at)
            VALUES ('dlv_1', 'whe_2', 'par_1', 0, 0, 'pending', :late, :now),
                   ('dlv_2', 'whe_2', 'par_1', 0, 0, 'pending', :now, :now)
            """),
            {"now": now, "late": now - timedelta(minutes=2)},
        )
    state = look(office)
    assert state["dead_letters"] == {"count": 1, "oldest_age_seconds": 300.0}
    assert state["webhooks"]["overdue"] == {"count": 1, "oldest_age_seconds": 120.0}
    assert state["webhooks"]["disabled_endpoints"] == {"count": 1}


def test_the_screen_shows_lanes_and_what_needs_somebody(office):
    office.parked_refused()
    server = make_server("127.0.0.1", 0, office.client.application, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        done = [
            subprocess.run(
                [sys.executable, "-m", "cli.main", "status", *options],
                cwd=REPOSITORY,
                env={
                    "PATH": os.environ["PATH"],
                    "USER": "olga",
                    "COLUMNS": "140",
                    "BRIDGE_BACKOFFICE_URL": f"http://127.0.0.1:{server.server_port}",
                },
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            for options in ([], ["--json"])
        ]
    finally:
        server.shutdown()
        server.server_close()
    table, document = (each.stdout for each in done)
    assert [each.returncode for each in done] == [0, 0], done
    assert "s4-main" in table
    assert any(line.split()[:3] == ["operations", "parked", "1"] for line in table.splitlines())
    assert json.loads(document)["operations"]["parked"]["count"] == 1
