"""The Cloud Tasks stand-in as a worker sees it: when tasks arrive, what they carry, how they are retried."""

import time
import uuid
from datetime import UTC, datetime, timedelta

import pytest
import requests
from google.api_core.exceptions import NotFound
from google.protobuf import duration_pb2
from stand_ins import CloudTasksProcess, Worker, free_port
from waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    process = CloudTasksProcess(tmp_path_factory.mktemp("cloud-tasks")).start()
    yield process
    process.close()


@pytest.fixture
def client(stand_in):
    return stand_in.client()


@pytest.fixture
def make_queue(stand_in, client):
    names = []

    def make(**settings):
        names.append(stand_in.create_queue(client, f"queue-{uuid.uuid4()}", **settings))
        return names[-1]

    yield make
    for name in names:
        client.delete_queue(name=name)


@pytest.fixture
def worker():
    server = Worker()
    yield server
    server.close()


def milliseconds(number):
    return duration_pb2.Duration(nanos=number * 1_000_000)


def fast_retries(**settings):
    return {"min_backoff": milliseconds(20), "max_backoff": milliseconds(40), **settings}


def is_gone(client, name):
    try:
        client.get_task(name=name)
    except NotFound:
        return True
    return False


def test_a_task_is_sent_at_once_with_its_body_and_headers(client, make_queue, worker):
    queue = make_queue()
    name = f"{queue}/tasks/dlv-1"
    before = time.time()
    client.create_task(
        parent=queue,
        task={
            "name": name,
            "http_request": {
                "url": f"{worker.url}/tasks/deliveries?x=1",
                "headers": {"Content-Type": "application/json", "X-CloudTasks-TaskName": "forged"},
                "body": b'{"delivery_id": "dlv_1"}',
            },
        },
    )
    wait_until(lambda: is_gone(client, name))
    (request,) = worker.requests
    assert (request.method, request.path) == ("POST", "/tasks/deliveries?x=1")
    assert request.body == b'{"delivery_id": "dlv_1"}'
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["User-Agent"] == "Google-Cloud-Tasks"
    assert request.headers["Host"] == worker.url.removeprefix("http://")
    assert request.headers["X-CloudTasks-QueueName"] == queue.rpartition("/")[2]
    assert request.headers["X-CloudTasks-TaskName"] == "dlv-1"
    assert request.headers["X-CloudTasks-TaskRetryCount"] == "0"
    assert request.headers["X-CloudTasks-TaskExecutionCount"] == "0"
    assert before - 1 <= float(request.headers["X-CloudTasks-TaskETA"]) <= time.time()


def test_no_content_type_is_added(client, make_queue, worker):
    client.create_task(parent=make_queue(), task={"http_request": {"url": worker.url, "body": b"x"}})
    wait_until(lambda: worker.requests)
    assert "Content-Type" not in worker.requests[0].headers


def test_a_task_is_sent_when_it_is_created_not_at_the_next_look_at_the_queue(client, make_queue, worker):
    """Polling anywhere on the way would make it several times slower than the calls that it consists of."""
    queue = make_queue()
    latencies, calls = [], []
    later = datetime.now(UTC) + timedelta(hours=1)
    for number in range(1, 22):
        started = time.monotonic()
        client.create_task(parent=queue, task={"http_request": {"url": worker.url}})
        wait_until(lambda expected=number: len(tasks_of(worker)) == expected, poll_seconds=0.001)
        latencies.append(time.monotonic() - started)
        started = time.monotonic()
        client.create_task(parent=queue, task={"schedule_time": later, "http_request": {"url": worker.url}})
        requests.get(f"{worker.url}/bare", timeout=DEADLINE_SECONDS)
        calls.append(time.monotonic() - started)
    assert sorted(latencies)[10] < 8 * sorted(calls)[10], (latencies, calls)


def tasks_of(worker):
    return [request for request in worker.requests if request.method == "POST"]


def test_a_scheduled_task_is_sent_at_its_time_not_before(client, make_queue, worker):
    queue = make_queue()
    due = datetime.now(UTC) + timedelta(seconds=0.6)
    client.create_task(
        parent=queue, task={"http_request": {"url": worker.url, "body": b"later"}, "schedule_time": due}
    )
    client.create_task(parent=queue, task={"http_request": {"url": worker.url, "body": b"now"}})
    wait_until(lambda: worker.bodies() == [b"now"])
    wait_until(lambda: len(worker.requests) == 2)
    late = (datetime.now(UTC) - due).total_seconds()
    assert 0 <= late < 2
    assert worker.bodies() == [b"now", b"later"]


def test_a_failed_task_is_sent_again_until_it_succeeds(client, make_queue, worker):
    worker.statuses = [500, 404, 302, 204]
    worker.answer_headers = {"Location": f"{worker.url}/elsewhere"}
    queue = make_queue(retry_config=fast_retries())
    name = client.create_task(parent=queue, task={"http_request": {"url": f"{worker.url}/here"}}).name
    wait_until(lambda: is_gone(client, name))
    assert [request.path for request in worker.requests] == ["/here"] * 4
    retries = [request.headers["X-CloudTasks-TaskRetryCount"] for request in worker.requests]
    executions = [request.headers["X-CloudTasks-TaskExecutionCount"] for request in worker.requests]
    assert retries == ["0", "1", "2", "3"]
    assert executions == ["0", "0", "1", "2"]  # a 5xx doesn't count as executed


def test_the_state_of_a_failing_task_can_be_read(client, make_queue, worker):
    worker.statuses = [503]
    queue = make_queue(
        retry_config={
            "min_backoff": duration_pb2.Duration(seconds=60),
            "max_backoff": duration_pb2.Duration(seconds=60),
        }
    )
    name = client.create_task(parent=queue, task={"http_request": {"url": worker.url}}).name
    task = wait_until(lambda: (found := client.get_task(name=name)).response_count and found)
    assert task.dispatch_count == 1
    assert task.first_attempt.dispatch_time is not None
    assert task.last_attempt.response_status.code == 14
    assert "503" in task.last_attempt.response_status.message
    assert 30 < (task.schedule_time - datetime.now(UTC)).total_seconds() <= 60


def test_a_task_is_given_up_and_deleted_after_max_attempts(client, make_queue, worker):
    worker.statuses = [500] * 10
    queue = make_queue(retry_config=fast_retries(max_attempts=3))
    name = client.create_task(parent=queue, task={"http_request": {"url": worker.url}}).name
    wait_until(lambda: is_gone(client, name))
    assert len(worker.requests) == 3


def test_a_tasks_own_retry_config_goes_before_the_queues(client, make_queue, worker):
    worker.statuses = [500] * 10
    queue = make_queue(retry_config=fast_retries(max_attempts=5))
    task = {"http_request": {"url": worker.url}, "retry_config": {"max_attempts": 1}}
    name = client.create_task(parent=queue, task=task).name
    wait_until(lambda: is_gone(client, name))
    assert len(worker.requests) == 1


def test_a_worker_that_is_away_is_tried_again(client, make_queue):
    queue = make_queue(retry_config=fast_retries())
    port = free_port()
    name = client.create_task(parent=queue, task={"http_request": {"url": f"http://127.0.0.1:{port}/"}}).name
    task = wait_until(lambda: (found := client.get_task(name=name)).dispatch_count >= 2 and found)
    assert task.response_count == 0
    client.delete_task(name=name)


def test_a_task_deleted_while_it_runs_is_not_sent_again(client, make_queue, worker):
    worker.gate.clear()
    worker.statuses = [500]
    queue = make_queue(retry_config=fast_retries())
    name = client.create_task(parent=queue, task={"http_request": {"url": worker.url}}).name
    wait_until(lambda: worker.requests)
    client.delete_task(name=name)
    worker.gate.set()
    client.create_task(parent=queue, task={"http_request": {"url": worker.url, "body": b"probe"}})
    wait_until(lambda: b"probe" in worker.bodies())
    assert is_gone(client, name)
    assert len(worker.requests) == 2


def test_a_paused_queue_keeps_its_tasks_until_it_is_resumed(client, make_queue, worker):
    paused, running = make_queue(), make_queue()
    client.pause_queue(name=paused)
    client.create_task(parent=paused, task={"http_request": {"url": worker.url, "body": b"paused"}})
    client.create_task(parent=running, task={"http_request": {"url": worker.url, "body": b"running"}})
    wait_until(lambda: worker.requests)
    assert worker.bodies() == [b"running"]
    client.resume_queue(name=paused)
    wait_until(lambda: worker.bodies() == [b"running", b"paused"])


def test_no_more_than_max_concurrent_dispatches_are_on_their_way(client, make_queue, worker):
    worker.gate.clear()
    limited, free = make_queue(rate_limits={"max_concurrent_dispatches": 2}), make_queue()
    for _ in range(6):
        client.create_task(parent=limited, task={"http_request": {"url": worker.url, "body": b"limited"}})
    wait_until(lambda: len(worker.requests) == 2)
    client.create_task(parent=free, task={"http_request": {"url": worker.url, "body": b"free"}})
    wait_until(lambda: b"free" in worker.bodies())  # one queue's limit doesn't hold another back
    assert worker.bodies().count(b"limited") == 2
    worker.gate.set()
    wait_until(lambda: len(worker.requests) == 7)
    assert worker.max_together == 3


def test_dispatches_keep_to_the_rate(client, make_queue, worker):
    queue = make_queue(rate_limits={"max_dispatches_per_second": 4})
    started = time.monotonic()
    for _ in range(8):
        client.create_task(parent=queue, task={"http_request": {"url": worker.url}})
    wait_until(lambda: len(worker.requests) == 8)
    # a burst of four, then four more at 4/s
    assert time.monotonic() - started >= 0.9
