"""The two processes as they are started: one line for what is wrong, ready, stopped by SIGTERM in time."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest
from accepted import add_lanes, add_payments, scalar
from stand_ins import accepts_connections, free_port
from waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[2]


class Process:
    def __init__(self, folder, module, **environment):
        self._log = folder / f"{module}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=REPOSITORY,
                env={"PATH": os.environ["PATH"]} | environment,
                stdout=log,
                stderr=log,
            )

    def lines(self):
        return self._log.read_text().splitlines()

    def messages(self):
        return [json.loads(line)["message"] for line in self.lines()]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=DEADLINE_SECONDS)


@pytest.fixture
def start(tmp_path):
    processes = []

    def start(module, **environment):
        processes.append(Process(tmp_path, module, **environment))
        return processes[-1]

    yield start
    for started in processes:
        if started.process.poll() is None:
            started.process.kill()
            started.process.wait()


@pytest.fixture
def worker_environment(database):
    add_lanes(database.engine, s4_main=4)
    return {"DATABASE_URL": database.url_for("dispatcher"), "GOOGLE_CLOUD_PROJECT": "p"}


def test_the_worker_says_ready_and_nothing_else_while_idle_and_stops_in_time(start, worker_environment):
    address = f"127.0.0.1:{free_port()}"
    port = free_port()
    worker = start("dispatcher", PUBSUB_EMULATOR_HOST=address, LIVENESS_PORT=str(port), **worker_environment)
    wait_until(lambda: "ready" in worker.messages())
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=DEADLINE_SECONDS) as answer:
        assert json.load(answer) == {"stuck": []}
    assert worker.stop() == 0
    assert worker.messages() == ["ready", "stopped"]


def test_a_port_that_is_taken_is_one_clear_line(start, worker_environment):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        worker = start(
            "dispatcher", PUBSUB_EMULATOR_HOST="127.0.0.1:1", LIVENESS_PORT=str(port), **worker_environment
        )
        assert worker.process.wait(DEADLINE_SECONDS) == 2
    assert worker.lines() == [
        f"dispatcher: LIVENESS_PORT {port} can't be used: [Errno 98] Address already in use"
    ]


def test_a_publish_that_hangs_does_not_keep_the_worker_from_stopping_nor_the_row_claimed(
    start, worker_environment, database
):
    add_payments(database.engine, 1, now=datetime.now(UTC))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        worker = start("dispatcher", PUBSUB_EMULATOR_HOST=address, **worker_environment)
        claimed = "SELECT count(*) FROM outbox WHERE claim_id IS NOT NULL"
        wait_until(lambda: scalar(database.engine, claimed) == 2)
        assert worker.stop() == 0
    assert scalar(database.engine, claimed) == 0
    assert scalar(database.engine, "SELECT count(*) FROM outbox") == 2
    assert scalar(database.engine, "SELECT count(*) FROM operations WHERE dispatched_at IS NOT NULL") == 0


def test_a_worker_without_a_database_waits_for_it_and_still_stops(start):
    url = f"postgresql+pg8000://nobody@127.0.0.1:{free_port()}/nothing"
    worker = start(
        "dispatcher", DATABASE_URL=url, GOOGLE_CLOUD_PROJECT="p", PUBSUB_EMULATOR_HOST="127.0.0.1:1"
    )
    wait_until(lambda: "poll failed" in worker.messages())
    assert worker.stop() == 0


@pytest.mark.parametrize(
    ("module", "environment", "named"),
    [
        ("dispatcher", {}, "GOOGLE_CLOUD_PROJECT"),
        ("dispatcher.dead_letters", {"DATABASE_URL": "postgresql+pg8000://x@127.0.0.1/x"}, "PUSH_AUDIENCE"),
    ],
)
def test_a_missing_setting_is_one_line(start, module, environment, named):
    started = start(module, **environment)
    assert started.process.wait(timeout=DEADLINE_SECONDS) == 2
    [line] = started.lines()
    assert named in line


def test_the_dead_letter_service_serves_and_stops(start, database):
    port = free_port()
    service = start(
        "dispatcher.dead_letters",
        PORT=str(port),
        DATABASE_URL=database.url_for("dead_letters"),
        PUSH_AUTHENTICATION="emulator",
    )
    wait_until(lambda: accepts_connections(port))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=DEADLINE_SECONDS) as answer:
        assert answer.status == 200
    assert service.stop() == 0
