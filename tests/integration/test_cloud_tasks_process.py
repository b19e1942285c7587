"""The Cloud Tasks stand-in as a process: kill -9, restart, stopping, bad starts."""

import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from google.api_core.exceptions import AlreadyExists
from google.protobuf import duration_pb2
from stand_ins import REPOSITORY, CloudTasksProcess, Worker, free_port
from waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def stand_in(tmp_path):
    process = CloudTasksProcess(tmp_path).start()
    yield process
    process.close()


@pytest.fixture
def worker():
    server = Worker()
    yield server
    server.close()


def run_to_its_end(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "devstack.cloud_tasks", *arguments],
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


def test_kill_9_in_the_middle_loses_no_task(stand_in, worker):
    client = stand_in.client()
    queue = stand_in.create_queue(client, "deliveries", rate_limits={"max_concurrent_dispatches": 4})
    worker.gate.clear()
    bodies = [f"task {number}".encode() for number in range(40)]
    for body in bodies:
        client.create_task(parent=queue, task={"http_request": {"url": worker.url, "body": body}})
    later = {
        "name": f"{queue}/tasks/later",
        "http_request": {"url": worker.url, "body": b"later"},
        "schedule_time": datetime.now(UTC) + timedelta(seconds=1),
    }
    client.create_task(parent=queue, task=later)
    wait_until(lambda: len(worker.requests) == 4)

    stand_in.kill()
    interrupted = worker.bodies()
    worker.gate.set()
    stand_in.start()

    wait_until(lambda: {*bodies, b"later"} <= set(worker.bodies()))
    client = stand_in.client()
    wait_until(lambda: not list(client.list_tasks(parent=queue)))
    # what had no recorded end went out twice (at least once), everything else once
    assert sorted(worker.bodies()) == sorted([*bodies, b"later", *interrupted])
    again = [request for request in worker.requests if request.body == interrupted[0]]
    assert [request.headers["X-CloudTasks-TaskRetryCount"] for request in again] == ["0", "1"]


def test_names_queues_and_retry_times_survive_kill_9(stand_in, worker):
    client = stand_in.client()
    queue = stand_in.create_queue(client, "deliveries")
    minute = duration_pb2.Duration(seconds=60)
    slow = stand_in.create_queue(client, "slow", retry_config={"min_backoff": minute, "max_backoff": minute})
    done = {"name": f"{queue}/tasks/done", "http_request": {"url": worker.url}}
    client.create_task(parent=queue, task=done)
    wait_until(lambda: not list(client.list_tasks(parent=queue)))
    worker.statuses = [500]
    failing = client.create_task(parent=slow, task={"http_request": {"url": worker.url}}).name
    before = wait_until(lambda: (task := client.get_task(name=failing)).response_count and task)

    stand_in.kill()
    stand_in.start()

    client = stand_in.client()
    with pytest.raises(AlreadyExists):
        client.create_task(parent=queue, task=done)
    assert client.get_task(name=failing) == before
    assert len(worker.requests) == 2


def test_sigterm_stops_at_once_though_a_worker_hangs(stand_in, worker):
    client = stand_in.client()
    queue = stand_in.create_queue(client, "deliveries")
    worker.gate.clear()
    client.create_task(parent=queue, task={"http_request": {"url": worker.url}})
    wait_until(lambda: worker.requests)
    # the worker has ten minutes
    assert stand_in.stop(timeout_seconds=10) == 0
    assert "Traceback" not in stand_in.output
    worker.gate.set()
    stand_in.start()
    wait_until(lambda: len(worker.requests) == 2)


def test_a_queue_named_at_the_start_is_made_once(tmp_path):
    name = f"{CloudTasksProcess.LOCATION}/queues/webhook-deliveries"
    stand_in = CloudTasksProcess(tmp_path, "--queue", name).start()
    try:
        client = stand_in.client()
        assert client.get_queue(name=name).name == name
        client.pause_queue(name=name)
        stand_in.stop()
        stand_in.start()
        assert stand_in.client().get_queue(name=name).state.name == "PAUSED"
    finally:
        stand_in.close()


def test_a_taken_port_is_one_clear_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        result = run_to_its_end("--port", str(port), "--data", str(tmp_path / "data.sqlite"))
    assert_one_clear_line(result, f"127.0.0.1:{port}")


@pytest.mark.parametrize("where", ["missing-folder/data.sqlite", "a-folder"])
def test_an_unusable_file_is_one_clear_line(tmp_path, where):
    (tmp_path / "a-folder").mkdir()
    result = run_to_its_end("--port", str(free_port()), "--data", str(tmp_path / where))
    assert_one_clear_line(result, where)


def test_a_file_that_is_no_database_is_one_clear_line(tmp_path):
    (tmp_path / "data.sqlite").write_text("this is not a database, whatever its name says\n" * 100)
    result = run_to_its_end("--port", str(free_port()), "--data", str(tmp_path / "data.sqlite"))
    assert_one_clear_line(result, "not a database")


def test_a_second_process_on_the_same_file_is_refused(stand_in):
    result = run_to_its_end("--port", str(free_port()), "--data", str(stand_in.data))
    assert_one_clear_line(result, "in use by another process")


def test_a_wrong_queue_name_is_one_clear_line(tmp_path):
    result = run_to_its_end("--port", str(free_port()), "--data", str(tmp_path / "d.sqlite"), "--queue", "x")
    assert_one_clear_line(result, "--queue x")
