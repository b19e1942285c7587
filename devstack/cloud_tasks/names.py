"""Resource names of Cloud Tasks: `projects/P/locations/L/queues/Q/tasks/T`."""

import re
import secrets

from devstack.cloud_tasks.errors import InvalidArgumentError

_LOCATION = r"projects/[A-Za-z0-9:.-]{1,100}/locations/[a-z0-9-]{1,100}"
_QUEUE = _LOCATION + r"/queues/[A-Za-z0-9-]{1,100}"
_TASK = _QUEUE + r"/tasks/[A-Za-z0-9_-]{1,500}"


def require_location(name: str) -> str:
    return _require(_LOCATION, name, "location")


def require_queue(name: str) -> str:
    return _require(_QUEUE, name, "queue")


def require_task(name: str) -> str:
    return _require(_TASK, name, "task")


def queue_of(task_name: str) -> str:
    return task_name.rpartition("/tasks/")[0]


def location_of(queue_name: str) -> str:
    return queue_name.rpartition("/queues/")[0]


def last_part(name: str) -> str:
    return name.rpartition("/")[2]


def new_task_name(queue_name: str) -> str:
    """A name for a task whose creator gave none: digits, as Google's are."""
    return f"{queue_name}/tasks/{secrets.randbelow(10**20):020}"


def _require(pattern: str, name: str, what: str) -> str:
    if not re.fullmatch(pattern, name):
        raise InvalidArgumentError(f"{what} name {name[:100]!r} is not of the form {what} names have")
    return name
