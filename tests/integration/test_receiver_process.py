"""The demo partner's receiver as a process: gunicorn, kill -9, bad starts."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime

import psutil
import pytest
import requests
from stand_ins import REPOSITORY, StandIn, free_port
from standardwebhooks import Webhook
from waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.integration

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"type": "payment.paid", "sequence": 1, "data": {"payment": {"id": "pay_1"}}}'
TIMEOUT_SECONDS = DEADLINE_SECONDS


@pytest.fixture
def secrets(tmp_path):
    path = tmp_path / "secrets.json"
    path.write_text(json.dumps({"par_1": SECRET}))
    return path


@pytest.fixture
def receiver(tmp_path, secrets):
    process = StandIn("devstack.receiver", tmp_path, "--secrets", str(secrets)).start()
    wait_until(lambda: get(process, "/livez"))
    yield process
    process.stop()


def get(receiver, path):
    try:
        return requests.get(f"http://127.0.0.1:{receiver.port}{path}", timeout=TIMEOUT_SECONDS).json()
    except requests.RequestException:
        return None


def send(receiver, webhook_id="evt_1"):
    now = datetime.now(UTC)
    headers = {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(SECRET).sign(webhook_id, now, BODY.decode()),
    }
    url = f"http://127.0.0.1:{receiver.port}/webhooks/par_1"
    return requests.post(url, data=BODY, headers=headers, timeout=TIMEOUT_SECONDS).status_code


def control(receiver, **settings):
    url = f"http://127.0.0.1:{receiver.port}/_control"
    requests.put(url, json=settings, timeout=TIMEOUT_SECONDS).raise_for_status()


def is_alive(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def run_to_its_end(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "devstack.receiver", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def assert_one_clear_line(result, text):
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1, result.stderr
    assert text in result.stderr


def test_what_was_answered_and_the_control_survive_kill_9(receiver):
    control(receiver, status=202, fail_first=1)
    assert send(receiver) == 500
    orphans = psutil.Process(receiver.process.pid).children()
    receiver.kill()
    receiver.start()  # the orphaned worker holds the port for a moment
    wait_until(lambda: not any(is_alive(orphan) for orphan in orphans))
    wait_until(lambda: get(receiver, "/livez"))
    assert send(receiver) == 202
    assert [row["attempt_number_seen"] for row in get(receiver, "/_received")] == [1, 2]


def test_a_killed_worker_is_replaced(receiver):
    send(receiver)
    (worker,) = psutil.Process(receiver.process.pid).children()
    os.kill(worker.pid, signal.SIGKILL)
    wait_until(lambda: (rows := get(receiver, "/_received")) and len(rows) == 1)
    assert send(receiver, "evt_2") == 200


def test_answers_can_be_delayed(receiver):
    control(receiver, delay_ms=400)
    started = time.monotonic()
    assert send(receiver) == 200
    assert time.monotonic() - started >= 0.4


def test_sigterm_stops_it_cleanly(receiver):
    assert receiver.stop() == 0
    assert "Traceback" not in receiver.output


def test_a_taken_port_is_one_clear_line(tmp_path, secrets):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        result = run_to_its_end(
            "--port", str(port), "--data", str(tmp_path / "data.sqlite"), "--secrets", str(secrets)
        )
    assert_one_clear_line(result, f"127.0.0.1:{port}")


@pytest.mark.parametrize("where", ["missing-folder/data.sqlite", "a-folder"])
def test_an_unusable_file_is_one_clear_line(tmp_path, secrets, where):
    (tmp_path / "a-folder").mkdir()
    result = run_to_its_end(
        "--port", str(free_port()), "--data", str(tmp_path / where), "--secrets", str(secrets)
    )
    assert_one_clear_line(result, where)


def test_a_wrong_secrets_file_is_one_clear_line(tmp_path, secrets):
    secrets.write_text("{}}")
    result = run_to_its_end(
        "--port", str(free_port()), "--data", str(tmp_path / "data.sqlite"), "--secrets", str(secrets)
    )
    assert_one_clear_line(result, "not JSON")
