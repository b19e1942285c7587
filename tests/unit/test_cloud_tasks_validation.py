"""What the Cloud Tasks stand-in accepts and refuses."""

import pytest

from devstack.cloud_tasks import protos
from devstack.cloud_tasks.errors import InvalidArgumentError
from devstack.cloud_tasks.validation import MAX_AHEAD_MICROSECONDS, MAX_TASK_BYTES, accept_queue, accept_task

pytestmark = pytest.mark.unit

LOCATION = "projects/p-1/locations/europe-west3"
QUEUE = f"{LOCATION}/queues/deliveries"
NOW = 1_800_000_000_123_456


def task_request(parent=QUEUE, name="", schedule_at=None, deadline_s=None, **http):
    request = protos.CreateTaskRequest(parent=parent)
    request.task.name = name
    request.task.http_request.url = http.pop("url", "http://127.0.0.1:1/tasks")
    request.task.http_request.body = http.pop("body", b"")
    request.task.http_request.http_method = http.pop("http_method", 0)
    request.task.http_request.headers.update(http.pop("headers", {}))
    if schedule_at is not None:
        request.task.schedule_time.CopyFrom(protos.to_timestamp(schedule_at))
    if deadline_s is not None:
        request.task.dispatch_deadline.CopyFrom(protos.to_duration(int(deadline_s * protos.MICROSECONDS)))
    return request


def queue_request(name=QUEUE, parent=LOCATION, **settings):
    request = protos.CreateQueueRequest(parent=parent)
    request.queue.MergeFrom(protos.Queue(name=name, **settings))
    return request


def test_a_bare_task_gets_googles_defaults():
    task = accept_task(task_request(), NOW)
    assert task.name.startswith(f"{QUEUE}/tasks/")
    assert task.http_request.http_method == protos.POST
    assert protos.to_microseconds(task.schedule_time) == NOW
    assert protos.to_microseconds(task.create_time) == 1_800_000_000_000_000
    assert task.dispatch_deadline.seconds == 600


def test_a_schedule_time_in_the_past_becomes_now():
    assert protos.to_microseconds(accept_task(task_request(schedule_at=NOW - 5), NOW).schedule_time) == NOW


def test_thirty_days_ahead_is_the_limit():
    accept_task(task_request(schedule_at=NOW + MAX_AHEAD_MICROSECONDS), NOW)
    with pytest.raises(InvalidArgumentError, match="30 days"):
        accept_task(task_request(schedule_at=NOW + MAX_AHEAD_MICROSECONDS + 1), NOW)


def test_what_the_caller_may_not_set_is_dropped():
    request = task_request()
    request.task.dispatch_count = 7
    request.task.last_attempt.response_status.code = 5
    task = accept_task(request, NOW)
    assert task.dispatch_count == 0
    assert not task.HasField("last_attempt")


def test_an_oidc_token_is_kept():
    request = task_request()
    request.task.http_request.oidc_token.service_account_email = "tasks@p-1.iam.gserviceaccount.com"
    assert accept_task(request, NOW).http_request.oidc_token == request.task.http_request.oidc_token


def test_headers_of_the_service_are_ignored_and_others_kept():
    headers = {
        "Host": "evil",
        "x-cloudtasks-taskname": "x",
        "User-Agent": "me",
        "Content-Type": "application/json",
    }
    assert dict(accept_task(task_request(headers=headers), NOW).http_request.headers) == {
        "Content-Type": "application/json"
    }


@pytest.mark.parametrize("deadline_s", [15, 1800])
def test_dispatch_deadlines_at_the_bounds_are_accepted(deadline_s):
    assert accept_task(task_request(deadline_s=deadline_s), NOW).dispatch_deadline.seconds == deadline_s


@pytest.mark.parametrize(
    "wrong",
    [
        {"parent": "projects/p-1/queues/deliveries"},
        {"parent": f"{LOCATION}/queues/de_liveries"},
        {"parent": f"{LOCATION}/queues/{'q' * 101}"},
        {"name": "a-task"},
        {"name": f"{LOCATION}/queues/another/tasks/a-task"},
        {"name": f"{QUEUE}/tasks/a.task"},
        {"name": f"{QUEUE}/tasks/{'t' * 501}"},
        {"deadline_s": 14.9},
        {"deadline_s": 1800.1},
        {"url": ""},
        {"url": "ftp://127.0.0.1/"},
        {"url": "/tasks"},
        {"url": "http://"},
        {"url": "http://127.0.0.1:notaport/"},
        {"url": "http://127.0.0.1/a b"},
        {"url": "http://[::1/"},
        {"url": "http://127.0.0.1/" + "a" * 2083},
        {"body": b"x" * MAX_TASK_BYTES},
        {"body": b"x", "http_method": 2},
        {"headers": {"X-Bad": "line\nbreak"}},
        {"headers": {"X Bad": "value"}},
        {"headers": {"X-Snowman": "\u2603"}},
    ],
)
def test_a_wrong_task_is_an_invalid_argument(wrong):
    with pytest.raises(InvalidArgumentError):
        accept_task(task_request(**wrong), NOW)


def test_a_task_without_an_http_target_is_an_invalid_argument():
    request = protos.CreateTaskRequest(parent=QUEUE)
    with pytest.raises(InvalidArgumentError, match="HTTP targets"):
        accept_task(request, NOW)
    request.task.app_engine_http_request.relative_uri = "/x"
    with pytest.raises(InvalidArgumentError, match="HTTP targets"):
        accept_task(request, NOW)


def test_a_task_of_exactly_100_kilobytes_is_accepted():
    request = task_request(name=f"{QUEUE}/tasks/t", body=b"x")
    request.task.http_request.body = b"x" * (MAX_TASK_BYTES - 90_000)
    rest = MAX_TASK_BYTES - request.task.ByteSize()
    request.task.http_request.body += b"x" * (rest - 4)
    request.task.http_request.body += b"x" * (MAX_TASK_BYTES - request.task.ByteSize())
    assert request.task.ByteSize() == MAX_TASK_BYTES
    accept_task(request, NOW)
    request.task.http_request.body += b"x"
    with pytest.raises(InvalidArgumentError, match="task size"):
        accept_task(request, NOW)


def test_a_bare_queue_gets_googles_defaults():
    queue = accept_queue(queue_request())
    assert queue.state == protos.RUNNING
    assert queue.rate_limits.max_dispatches_per_second == 500
    assert queue.rate_limits.max_concurrent_dispatches == 1000
    assert queue.retry_config.max_attempts == 100
    assert queue.retry_config.max_doublings == 16
    assert protos.seconds_of(queue.retry_config.min_backoff) == 0.1
    assert protos.seconds_of(queue.retry_config.max_backoff) == 3600


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "deliveries"},
        {"parent": "projects/p-1"},
        {"parent": "projects/p-1/locations/europe-west1"},
        {"rate_limits": {"max_dispatches_per_second": 500.1}},
        {"rate_limits": {"max_dispatches_per_second": -1}},
        {"rate_limits": {"max_dispatches_per_second": float("nan")}},
        {"rate_limits": {"max_concurrent_dispatches": 5001}},
        {"retry_config": {"max_attempts": -2}},
        {"retry_config": {"max_doublings": -1}},
        {"retry_config": {"min_backoff": {"seconds": 9}, "max_backoff": {"seconds": 8}}},
        {"retry_config": {"max_retry_duration": {"seconds": -1}}},
        {"http_target": {"http_method": 1}},
    ],
)
def test_a_wrong_queue_is_an_invalid_argument(wrong):
    with pytest.raises(InvalidArgumentError):
        accept_queue(queue_request(**wrong))
