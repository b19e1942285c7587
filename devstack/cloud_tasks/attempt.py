"""One HTTP request to a task's worker."""

from dataclasses import dataclass
from datetime import UTC, datetime

import urllib3
from google.rpc import code_pb2

from devstack.cloud_tasks import names, protos
from devstack.cloud_tasks.protos import Message, seconds_of, to_microseconds

MAX_CONNECT_SECONDS = 30.0
MAX_ANSWER_BYTES = (
    64 * 1024
)  # the answer's body means nothing; a little is read so that the worker isn't cut off

_NO_ANSWER = code_pb2.UNAVAILABLE
_CODES = {
    400: code_pb2.INVALID_ARGUMENT,
    401: code_pb2.UNAUTHENTICATED,
    403: code_pb2.PERMISSION_DENIED,
    404: code_pb2.NOT_FOUND,
    409: code_pb2.ABORTED,
    429: code_pb2.RESOURCE_EXHAUSTED,
    500: code_pb2.INTERNAL,
    501: code_pb2.UNIMPLEMENTED,
    503: code_pb2.UNAVAILABLE,
    504: code_pb2.DEADLINE_EXCEEDED,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """`http_status` is None when no answer came; `code` is its google.rpc.Code."""

    http_status: int | None
    code: int
    text: str

    @property
    def succeeded(self) -> bool:
        return self.http_status is not None and 200 <= self.http_status < 300


def request_headers(task: Message, executions: int) -> dict[str, str]:
    """The task's own headers and those Cloud Tasks adds.

    `executions` counts the answers so far, without the 5xx: those may never have reached the handler.
    """
    eta_seconds, eta_rest = divmod(to_microseconds(task.schedule_time), protos.MICROSECONDS)
    headers = {
        "X-CloudTasks-QueueName": names.last_part(names.queue_of(task.name)),
        "X-CloudTasks-TaskName": names.last_part(task.name),
        "X-CloudTasks-TaskRetryCount": str(task.dispatch_count - 1),
        "X-CloudTasks-TaskExecutionCount": str(executions),
        "X-CloudTasks-TaskETA": f"{eta_seconds}.{eta_rest:06}",
    }
    return {
        **dict(task.http_request.headers),
        **headers,
        "User-Agent": "Google-Cloud-Tasks",
    }


def perform(pool: urllib3.PoolManager, task: Message, executions: int) -> Outcome:
    """Send the request; wait no longer than the task's dispatch deadline. Redirects are not followed."""
    deadline_seconds = seconds_of(task.dispatch_deadline)
    request = task.http_request
    try:
        answer = pool.request(
            protos.METHOD_NAMES[request.http_method],
            request.url,
            body=request.body or None,
            headers=request_headers(task, executions),
            timeout=urllib3.Timeout(
                connect=min(MAX_CONNECT_SECONDS, deadline_seconds), total=deadline_seconds
            ),
            retries=False,
            redirect=False,
            preload_content=False,
        )
        answer.read(MAX_ANSWER_BYTES)
        if answer.length_remaining == 0:
            answer.release_conn()  # for the next task of this worker
        else:
            answer.close()
    except urllib3.exceptions.ReadTimeoutError:
        return Outcome(None, code_pb2.DEADLINE_EXCEEDED, "no answer within the dispatch deadline")
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        return Outcome(None, _NO_ANSWER, type(error).__name__)
    return Outcome(answer.status, _code(answer.status), f"HTTP status code {answer.status}")


def record_outcome(task: Message, outcome: Outcome, now: int) -> None:
    """Write the attempt's end into the task, as GetTask shows it."""
    if outcome.http_status is not None:
        task.response_count += 1
    task.last_attempt.response_time.CopyFrom(protos.to_timestamp(now))
    task.last_attempt.response_status.code = outcome.code
    task.last_attempt.response_status.message = outcome.text


def describe(task: Message) -> str:
    """For the log: which task and when it was due, never what it carries."""
    due = datetime.fromtimestamp(to_microseconds(task.schedule_time) / protos.MICROSECONDS, UTC)
    return f"{names.last_part(task.name)} (attempt {task.dispatch_count}, due {due.isoformat()})"


def _code(http_status: int) -> int:
    if 200 <= http_status < 300:
        return int(code_pb2.OK)
    return int(_CODES.get(http_status, code_pb2.UNKNOWN))
