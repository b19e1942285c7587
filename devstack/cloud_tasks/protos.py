"""The real message classes of google.cloud.tasks.v2 as plain protobuf (google-cloud-tasks wraps them), and
conversions of their times. Times are integers: microseconds since 1970 UTC, as precise as the API is.
"""

from typing import Any

from google.cloud import tasks_v2
from google.protobuf import duration_pb2, empty_pb2, timestamp_pb2

Message = Any  # protobuf makes its classes at run time; they carry no static types

Queue: Any = tasks_v2.Queue.pb()
Task: Any = tasks_v2.Task.pb()
RetryConfig: Any = tasks_v2.RetryConfig.pb()
Empty: Any = empty_pb2.Empty
CreateTaskRequest: Any = tasks_v2.CreateTaskRequest.pb()
GetTaskRequest: Any = tasks_v2.GetTaskRequest.pb()
DeleteTaskRequest: Any = tasks_v2.DeleteTaskRequest.pb()
ListTasksRequest: Any = tasks_v2.ListTasksRequest.pb()
ListTasksResponse: Any = tasks_v2.ListTasksResponse.pb()
CreateQueueRequest: Any = tasks_v2.CreateQueueRequest.pb()
GetQueueRequest: Any = tasks_v2.GetQueueRequest.pb()
DeleteQueueRequest: Any = tasks_v2.DeleteQueueRequest.pb()
ListQueuesRequest: Any = tasks_v2.ListQueuesRequest.pb()
ListQueuesResponse: Any = tasks_v2.ListQueuesResponse.pb()
PauseQueueRequest: Any = tasks_v2.PauseQueueRequest.pb()
ResumeQueueRequest: Any = tasks_v2.ResumeQueueRequest.pb()
PurgeQueueRequest: Any = tasks_v2.PurgeQueueRequest.pb()

RUNNING = int(tasks_v2.Queue.State.RUNNING)
PAUSED = int(tasks_v2.Queue.State.PAUSED)
FULL_VIEW = int(tasks_v2.Task.View.FULL)
BASIC_VIEW = int(tasks_v2.Task.View.BASIC)
_HttpMethod: Any = tasks_v2.HttpMethod  # an enumeration, which its untyped base class hides
METHOD_NAMES: dict[int, str] = {int(method): method.name for method in _HttpMethod}
UNSPECIFIED_METHOD = int(_HttpMethod.HTTP_METHOD_UNSPECIFIED)
POST = int(_HttpMethod.POST)
METHODS_WITH_BODY = {int(_HttpMethod[name]) for name in ("POST", "PUT", "PATCH")}

MICROSECONDS = 1_000_000


def to_microseconds(stamp: Message) -> int:
    """Of a Timestamp or a Duration; finer parts are cut off, as the API documents."""
    return int(stamp.seconds * MICROSECONDS + stamp.nanos // 1000)


def to_timestamp(microseconds: int) -> Message:
    seconds, rest = divmod(microseconds, MICROSECONDS)
    return timestamp_pb2.Timestamp(seconds=seconds, nanos=rest * 1000)


def to_duration(microseconds: int) -> Message:
    seconds, rest = divmod(microseconds, MICROSECONDS)
    return duration_pb2.Duration(seconds=seconds, nanos=rest * 1000)


def seconds_of(duration: Message) -> float:
    return to_microseconds(duration) / MICROSECONDS
