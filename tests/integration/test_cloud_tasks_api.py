"""The Cloud Tasks stand-in through Google's own client: queues, tasks, names, errors."""

import contextlib
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from google.api_core.exceptions import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    MethodNotImplemented,
    NotFound,
)
from google.cloud import tasks_v2
from google.protobuf import duration_pb2
from stand_ins import CloudTasksProcess, Worker
from waiting import wait_until

pytestmark = pytest.mark.integration

IN_AN_HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    process = CloudTasksProcess(tmp_path_factory.mktemp("cloud-tasks")).start()
    yield process
    process.close()


@pytest.fixture
def client(stand_in):
    return stand_in.client()


@pytest.fixture
def queue(stand_in, client):
    name = stand_in.create_queue(client, f"queue-{uuid.uuid4()}")
    yield name
    with contextlib.suppress(NotFound):  # some tests delete it themselves
        client.delete_queue(name=name)


@pytest.fixture
def worker():
    server = Worker()
    yield server
    server.close()


def later_task(**fields):
    return {
        "http_request": {"url": "http://127.0.0.1:1/never", "body": b"{}", **fields.pop("http", {})},
        "schedule_time": datetime.now(UTC) + IN_AN_HOUR,
        **fields,
    }


def test_a_task_can_be_read_listed_and_deleted(client, queue):
    created = client.create_task(parent=queue, task=later_task(name=f"{queue}/tasks/one"))
    assert created.name == f"{queue}/tasks/one"
    assert created.http_request.body == b""
    assert created.dispatch_deadline == timedelta(minutes=10)

    basic = client.get_task(name=created.name)
    assert (basic.view, basic.http_request.body) == (tasks_v2.Task.View.BASIC, b"")
    full = client.get_task(request={"name": created.name, "response_view": tasks_v2.Task.View.FULL})
    assert full.http_request.body == b"{}"
    assert full.dispatch_count == 0
    assert [task.name for task in client.list_tasks(parent=queue)] == [created.name]

    client.delete_task(name=created.name)
    with pytest.raises(NotFound):
        client.get_task(name=created.name)
    with pytest.raises(NotFound):
        client.delete_task(name=created.name)


def test_an_oidc_token_is_kept_and_ignored(client, queue, worker):
    token = {"service_account_email": "tasks@test.iam.gserviceaccount.com", "audience": "https://webhooks"}
    later = client.create_task(parent=queue, task=later_task(http={"oidc_token": token}))
    assert client.get_task(name=later.name).http_request.oidc_token == tasks_v2.OidcToken(token)

    client.create_task(parent=queue, task={"http_request": {"url": worker.url, "oidc_token": token}})
    wait_until(lambda: worker.requests)
    assert "Authorization" not in worker.requests[0].headers


def test_tasks_are_listed_in_pages(client, queue):
    names = {client.create_task(parent=queue, task=later_task()).name for _ in range(5)}
    pages = list(client.list_tasks(request={"parent": queue, "page_size": 2}).pages)
    assert [len(page.tasks) for page in pages] == [2, 2, 1]
    assert {task.name for page in pages for task in page.tasks} == names


def test_the_name_of_a_living_task_is_taken(client, queue):
    task = later_task(name=f"{queue}/tasks/once")
    client.create_task(parent=queue, task=task)
    with pytest.raises(AlreadyExists):
        client.create_task(parent=queue, task=task)


def test_the_name_of_a_deleted_task_stays_taken(client, queue):
    task = later_task(name=f"{queue}/tasks/once")
    client.create_task(parent=queue, task=task)
    client.delete_task(name=task["name"])
    with pytest.raises(AlreadyExists, match="too recently"):
        client.create_task(parent=queue, task=task)


def test_the_name_of_a_done_task_stays_taken(client, queue, worker):
    task = {"name": f"{queue}/tasks/once", "http_request": {"url": worker.url}}
    client.create_task(parent=queue, task=task)
    wait_until(lambda: not list(client.list_tasks(parent=queue)))
    with pytest.raises(AlreadyExists, match="too recently"):
        client.create_task(parent=queue, task=task)
    assert len(worker.requests) == 1


def test_the_names_of_purged_tasks_stay_taken(client, queue):
    task = later_task(name=f"{queue}/tasks/once")
    client.create_task(parent=queue, task=task)
    purged = client.purge_queue(name=queue)
    assert purged.purge_time is not None
    assert list(client.list_tasks(parent=queue)) == []
    with pytest.raises(AlreadyExists, match="too recently"):
        client.create_task(parent=queue, task=task)


def test_a_name_is_free_again_after_the_dedupe_time(tmp_path):
    stand_in = CloudTasksProcess(tmp_path, "--dedupe-seconds", "0.3").start()
    try:
        client = stand_in.client()
        queue = stand_in.create_queue(client, "short-memory")
        task = later_task(name=f"{queue}/tasks/again")
        client.create_task(parent=queue, task=task)
        client.delete_task(name=task["name"])

        def created():
            try:
                return client.create_task(parent=queue, task=task).name
            except AlreadyExists:
                return None

        assert created() is None
        wait_until(created)
    finally:
        stand_in.close()


def test_queues_can_be_made_read_listed_paused_and_deleted(stand_in, client, queue):
    assert client.get_queue(name=queue).rate_limits.max_concurrent_dispatches == 1000
    assert queue in [found.name for found in client.list_queues(parent=stand_in.LOCATION)]
    assert list(client.list_queues(parent="projects/test-project/locations/europe-west1")) == []
    with pytest.raises(AlreadyExists):
        client.create_queue(parent=stand_in.LOCATION, queue={"name": queue})
    assert client.pause_queue(name=queue).state == tasks_v2.Queue.State.PAUSED
    assert client.resume_queue(name=queue).state == tasks_v2.Queue.State.RUNNING
    client.create_task(parent=queue, task=later_task())
    client.delete_queue(name=queue)
    with pytest.raises(NotFound):
        client.get_queue(name=queue)


def test_calls_on_a_queue_that_is_not_there(stand_in, client):
    missing = f"{stand_in.LOCATION}/queues/missing"
    with pytest.raises(FailedPrecondition, match="Queue does not exist"):
        client.create_task(parent=missing, task=later_task())
    for call in (
        client.get_queue,
        client.delete_queue,
        client.pause_queue,
        client.resume_queue,
        client.purge_queue,
    ):
        with pytest.raises(NotFound):
            call(name=missing)
    with pytest.raises(NotFound):
        list(client.list_tasks(parent=missing))
    with pytest.raises(NotFound):
        client.get_task(name=f"{missing}/tasks/one")


@pytest.mark.parametrize(
    "wrong",
    [
        {"schedule_time": datetime.now(UTC) + timedelta(days=31)},
        {"dispatch_deadline": duration_pb2.Duration(seconds=14)},
        {"http": {"body": b"x" * 102_400}},
        {"http": {"url": "not a url"}},
    ],
)
def test_a_wrong_task_is_refused_and_not_kept(client, queue, wrong):
    with pytest.raises(InvalidArgument):
        client.create_task(parent=queue, task=later_task(**wrong))
    assert list(client.list_tasks(parent=queue)) == []


def test_a_call_that_is_not_imitated_says_so(client, queue):
    with pytest.raises(MethodNotImplemented):
        client.run_task(name=f"{queue}/tasks/one")
