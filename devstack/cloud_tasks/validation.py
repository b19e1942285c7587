"""What CreateTask and CreateQueue accept. Each function returns the message as it will be stored."""

import math
import re
from urllib.parse import urlsplit

from devstack.cloud_tasks import names, protos
from devstack.cloud_tasks.errors import InvalidArgumentError
from devstack.cloud_tasks.protos import MICROSECONDS, Message, seconds_of, to_duration, to_microseconds

MAX_TASK_BYTES = 100 * 1024
MAX_HEADER_BYTES = 80 * 1024
MAX_URL_CHARACTERS = 2083
MAX_AHEAD_MICROSECONDS = 30 * 24 * 3600 * MICROSECONDS
DEFAULT_DEADLINE_SECONDS = 600
MIN_DEADLINE_SECONDS = 15
MAX_DEADLINE_SECONDS = 1800
MAX_DISPATCHES_PER_SECOND = 500
MAX_CONCURRENT_DISPATCHES = 5000

# what Google picks where the creator of a queue leaves a field empty
DEFAULT_DISPATCHES_PER_SECOND = 500.0
DEFAULT_CONCURRENT_DISPATCHES = 1000
DEFAULT_MAX_ATTEMPTS = 100
DEFAULT_MIN_BACKOFF_MICROSECONDS = 100_000
DEFAULT_MAX_BACKOFF_MICROSECONDS = 3600 * MICROSECONDS
DEFAULT_MAX_DOUBLINGS = 16

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 token
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_SERVICE_HEADERS = re.compile(
    r"(host|content-length|user-agent|x-cloudtasks-.*|x-google-.*|x-appengine-.*)", re.IGNORECASE
)


def accept_task(request: Message, now: int) -> Message:
    """The task to store for a CreateTaskRequest; raise InvalidArgumentError for what Google refuses."""
    queue_name = names.require_queue(request.parent)
    task = protos.Task()
    task.CopyFrom(request.task)
    for output_only in (
        "create_time",
        "dispatch_count",
        "response_count",
        "first_attempt",
        "last_attempt",
        "view",
    ):
        task.ClearField(output_only)
    if task.name:
        names.require_task(task.name)
        if names.queue_of(task.name) != queue_name:
            raise InvalidArgumentError("the task's name must be in the queue named as its parent")
    else:
        task.name = names.new_task_name(queue_name)
    if task.ByteSize() > MAX_TASK_BYTES:
        raise InvalidArgumentError(f"task size {task.ByteSize()} is over {MAX_TASK_BYTES} bytes")
    _accept_http_request(task)
    _accept_times(task, now)
    if task.HasField("retry_config"):
        _accept_retry_config(task.retry_config)
    return task


def accept_queue(request: Message) -> Message:
    """The queue to store for a CreateQueueRequest, its defaults filled in."""
    location = names.require_location(request.parent)
    queue = protos.Queue()
    queue.CopyFrom(request.queue)
    names.require_queue(queue.name)
    if names.location_of(queue.name) != location:
        raise InvalidArgumentError("the queue's name must be in the location named as its parent")
    if queue.HasField("http_target") or queue.HasField("app_engine_routing_override"):
        raise InvalidArgumentError("queue-level targets are not part of this stand-in")
    queue.state = protos.RUNNING
    queue.ClearField("purge_time")
    _accept_rate_limits(queue.rate_limits)
    _accept_retry_config(queue.retry_config)
    return queue


def _accept_http_request(task: Message) -> None:
    if not task.HasField("http_request"):
        raise InvalidArgumentError("the task must have an http_request (only HTTP targets are served)")
    request = task.http_request
    _require_url(request.url)
    if request.http_method == protos.UNSPECIFIED_METHOD:
        request.http_method = protos.POST
    if request.http_method not in protos.METHOD_NAMES:
        raise InvalidArgumentError("http_request.http_method is unknown")
    if request.body and request.http_method not in protos.METHODS_WITH_BODY:
        raise InvalidArgumentError("http_request.body is allowed with POST, PUT and PATCH only")
    size = 0
    for name, value in dict(request.headers).items():
        size += len(name.encode()) + len(value.encode())
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise InvalidArgumentError("http_request.headers holds what can't be an HTTP header")
        if _SERVICE_HEADERS.fullmatch(name):
            del request.headers[name]  # ignored or replaced by Cloud Tasks
    if size > MAX_HEADER_BYTES:
        raise InvalidArgumentError(f"http_request.headers are over {MAX_HEADER_BYTES} bytes")


def _require_url(url: str) -> None:
    if len(url) > MAX_URL_CHARACTERS:
        raise InvalidArgumentError(f"http_request.url is over {MAX_URL_CHARACTERS} characters")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or any(character.isspace() for character in url):
        raise InvalidArgumentError("http_request.url must be an http:// or https:// URL with a host")


def _accept_times(task: Message, now: int) -> None:
    schedule = to_microseconds(task.schedule_time) if task.HasField("schedule_time") else now
    if schedule > now + MAX_AHEAD_MICROSECONDS:
        raise InvalidArgumentError("schedule_time is more than 30 days ahead")
    task.schedule_time.CopyFrom(protos.to_timestamp(max(schedule, now)))
    task.create_time.CopyFrom(protos.to_timestamp(now - now % MICROSECONDS))
    if not task.HasField("dispatch_deadline"):
        task.dispatch_deadline.seconds = DEFAULT_DEADLINE_SECONDS
    if not MIN_DEADLINE_SECONDS <= seconds_of(task.dispatch_deadline) <= MAX_DEADLINE_SECONDS:
        raise InvalidArgumentError("dispatch_deadline must be between 15 s and 30 min")


def _accept_rate_limits(limits: Message) -> None:
    limits.max_dispatches_per_second = limits.max_dispatches_per_second or DEFAULT_DISPATCHES_PER_SECOND
    limits.max_concurrent_dispatches = limits.max_concurrent_dispatches or DEFAULT_CONCURRENT_DISPATCHES
    if not 0 < limits.max_dispatches_per_second <= MAX_DISPATCHES_PER_SECOND:
        raise InvalidArgumentError("max_dispatches_per_second must be over 0 and at most 500")
    if not 0 < limits.max_concurrent_dispatches <= MAX_CONCURRENT_DISPATCHES:
        raise InvalidArgumentError("max_concurrent_dispatches must be between 1 and 5000")
    limits.max_burst_size = math.ceil(limits.max_dispatches_per_second)


def _accept_retry_config(config: Message) -> None:
    config.max_attempts = config.max_attempts or DEFAULT_MAX_ATTEMPTS
    config.max_doublings = config.max_doublings or DEFAULT_MAX_DOUBLINGS
    if not config.HasField("min_backoff"):
        config.min_backoff.CopyFrom(to_duration(DEFAULT_MIN_BACKOFF_MICROSECONDS))
    if not config.HasField("max_backoff"):
        config.max_backoff.CopyFrom(to_duration(DEFAULT_MAX_BACKOFF_MICROSECONDS))
    if config.max_attempts < -1:
        raise InvalidArgumentError("max_attempts must be at least -1")
    if config.max_doublings < 0:
        raise InvalidArgumentError("max_doublings must not be negative")
    shortest, longest = to_microseconds(config.min_backoff), to_microseconds(config.max_backoff)
    if not 0 <= shortest <= longest:
        raise InvalidArgumentError("min_backoff must be at least 0 and at most max_backoff")
    if to_microseconds(config.max_retry_duration) < 0:
        raise InvalidArgumentError("max_retry_duration must not be negative")
