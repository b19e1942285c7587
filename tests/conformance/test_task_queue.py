"""The port TaskQueue: the fake, and the real client on the Cloud Tasks stand-in."""

import threading
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from fakes.task_queue import InMemoryTaskQueue
from stand_ins import CloudTasksProcess, Worker
from waiting import DEADLINE_SECONDS, wait_until

from bridge.clock import SystemClock
from bridge.errors import PermanentError
from bridge.gcp.tasks import make_task_queue

pytestmark = pytest.mark.conformance


class FakeHarness:
    """What the worker behind the fake has got, as (body, content type)."""

    def __init__(self):
        self.queue = InMemoryTaskQueue(SystemClock())
        self.statuses = []
        self.url = "http://127.0.0.1:1/tasks/deliveries"
        self._received = []

    def received(self):
        self.queue.run_due(self._work)
        return list(self._received)

    def _work(self, task):
        self._received.append((task.payload, task.content_type))
        return self.statuses.pop(0) if self.statuses else 200

    def close(self):
        """Nothing is open."""


class StandInHarness:
    def __init__(self, stand_in):
        client = stand_in.client()
        queue_id = f"queue-{uuid.uuid4()}"
        stand_in.create_queue(client, queue_id)
        self.queue = make_task_queue(
            "test-project",
            "europe-west3",
            queue_id,
            emulator_host=stand_in.address,
            service_account_email=None,
        )
        self._worker = Worker()
        self.statuses = self._worker.statuses
        self.url = f"{self._worker.url}/tasks/deliveries"

    def received(self):
        return [(request.body, request.headers.get("Content-Type")) for request in self._worker.requests]

    def close(self):
        self.queue.close()
        self._worker.close()


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    process = CloudTasksProcess(tmp_path_factory.mktemp("cloud-tasks")).start()
    yield process
    process.close()


@pytest.fixture(params=["fake", "stand-in"])
def harness(request):
    made = FakeHarness() if request.param == "fake" else StandInHarness(request.getfixturevalue("stand_in"))
    yield made
    made.close()


def now():
    return datetime.now(UTC)


def test_a_task_that_is_due_is_delivered_as_json(harness):
    assert harness.queue.schedule("dlv_1-0", harness.url, b'{"delivery_id": "dlv_1"}', now()) is True
    wait_until(harness.received)
    assert harness.received() == [(b'{"delivery_id": "dlv_1"}', "application/json")]


def test_a_moment_in_the_past_means_at_once(harness):
    assert harness.queue.schedule("late", harness.url, b"{}", now() - timedelta(days=400))
    wait_until(harness.received)


def test_a_task_waits_for_its_time(harness):
    due = now() + timedelta(seconds=0.5)
    harness.queue.schedule("later", harness.url, b'"later"', due)
    harness.queue.schedule("now", harness.url, b'"now"', now())
    wait_until(lambda: len(harness.received()) == 2)
    assert now() >= due
    assert [body for body, _ in harness.received()] == [b'"now"', b'"later"']


def test_a_name_is_taken_once_while_its_task_waits(harness):
    at = now() + timedelta(hours=1)
    assert harness.queue.schedule("once", harness.url, b"{}", at) is True
    assert harness.queue.schedule("once", harness.url, b"{}", at) is False
    assert harness.queue.schedule("other", harness.url, b"{}", at) is True


def test_a_name_stays_taken_when_its_task_is_done(harness):
    harness.queue.schedule("once", harness.url, b"1", now())
    wait_until(harness.received)
    assert harness.queue.schedule("once", harness.url, b"2", now()) is False
    harness.queue.schedule("probe", harness.url, b"3", now())
    wait_until(lambda: len(harness.received()) == 2)
    assert [body for body, _ in harness.received()] == [b"1", b"3"]


def test_one_of_many_that_race_for_a_name_gets_it(harness):
    barrier = threading.Barrier(8)
    answers = []

    def race():
        barrier.wait(DEADLINE_SECONDS)
        answers.append(harness.queue.schedule("raced", harness.url, b"{}", now() + timedelta(hours=1)))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert sorted(answers) == [False] * 7 + [True]


def test_a_task_whose_worker_fails_comes_again(harness):
    harness.statuses.append(500)
    harness.queue.schedule("again", harness.url, b"{}", now())
    wait_until(lambda: len(harness.received()) == 2)


@pytest.mark.parametrize(
    ("name", "url", "payload", "ahead"),
    [
        ("a name", None, b"{}", timedelta()),
        ("", None, b"{}", timedelta()),
        ("n" * 501, None, b"{}", timedelta()),
        ("task", "ftp://127.0.0.1/", b"{}", timedelta()),
        ("task", None, b"x" * 102_400, timedelta()),
        ("task", None, b"{}", timedelta(days=30, minutes=1)),
    ],
)
def test_a_task_that_could_never_be_accepted_is_a_permanent_error(harness, name, url, payload, ahead):
    with pytest.raises(PermanentError):
        harness.queue.schedule(name, url or harness.url, payload, now() + ahead)


def test_a_naive_time_is_refused(harness):
    with pytest.raises(ValueError, match="aware"):
        harness.queue.schedule("naive", harness.url, b"{}", datetime(2026, 1, 1))  # noqa: DTZ001 - the point
