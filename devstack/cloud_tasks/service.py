"""The calls of google.cloud.tasks.v2.CloudTasks."""

import logging
import sqlite3
from collections.abc import Callable

import grpc

from devstack.cloud_tasks import names, protos
from devstack.cloud_tasks.dispatcher import Dispatcher, wall_clock_microseconds
from devstack.cloud_tasks.errors import CallError, InvalidArgumentError
from devstack.cloud_tasks.protos import Message
from devstack.cloud_tasks.store import Store
from devstack.cloud_tasks.validation import accept_queue, accept_task

SERVICE = "google.cloud.tasks.v2.CloudTasks"
MAX_TASKS_PER_PAGE = 1000
MAX_QUEUES_PER_PAGE = 9800

logger = logging.getLogger(__name__)


class CloudTasks:
    """One method per call: request message in, answer message out; raises CallError."""

    def __init__(self, store: Store, dispatcher: Dispatcher) -> None:
        self._store = store
        self._dispatcher = dispatcher

    def create_task(self, request: Message) -> Message:
        now = wall_clock_microseconds()
        task = accept_task(request, now)
        self._store.add_task(task, now)
        self._dispatcher.wake()
        return _seen(task, request.response_view)

    def get_task(self, request: Message) -> Message:
        return _seen(self._store.task(names.require_task(request.name)), request.response_view)

    def delete_task(self, request: Message) -> Message:
        self._store.delete_task(names.require_task(request.name), wall_clock_microseconds())
        return protos.Empty()

    def list_tasks(self, request: Message) -> Message:
        size = _page_size(request, MAX_TASKS_PER_PAGE)
        tasks = self._store.tasks(names.require_queue(request.parent), request.page_token, size + 1)
        return protos.ListTasksResponse(
            tasks=[_seen(task, request.response_view) for task in tasks[:size]],
            next_page_token=tasks[size - 1].name if len(tasks) > size else "",
        )

    def create_queue(self, request: Message) -> Message:
        queue = accept_queue(request)
        self._store.add_queue(queue)
        return queue

    def get_queue(self, request: Message) -> Message:
        return self._store.queue(names.require_queue(request.name))

    def list_queues(self, request: Message) -> Message:
        if request.filter:
            raise InvalidArgumentError("filter is not part of this stand-in")
        size = _page_size(request, MAX_QUEUES_PER_PAGE)
        queues = self._store.queues(names.require_location(request.parent), request.page_token, size + 1)
        return protos.ListQueuesResponse(
            queues=queues[:size],
            next_page_token=queues[size - 1].name if len(queues) > size else "",
        )

    def delete_queue(self, request: Message) -> Message:
        self._store.delete_queue(names.require_queue(request.name))
        return protos.Empty()

    def pause_queue(self, request: Message) -> Message:
        return self._store.set_queue_state(names.require_queue(request.name), protos.PAUSED)

    def resume_queue(self, request: Message) -> Message:
        queue = self._store.set_queue_state(names.require_queue(request.name), protos.RUNNING)
        self._dispatcher.wake()
        return queue

    def purge_queue(self, request: Message) -> Message:
        return self._store.purge_queue(names.require_queue(request.name), wall_clock_microseconds())


def handler_of(calls: CloudTasks) -> grpc.GenericRpcHandler:
    """The gRPC service; its names and messages are those the real client sends."""
    methods: dict[str, tuple[Callable[[Message], Message], Message]] = {
        "CreateTask": (calls.create_task, protos.CreateTaskRequest),
        "GetTask": (calls.get_task, protos.GetTaskRequest),
        "DeleteTask": (calls.delete_task, protos.DeleteTaskRequest),
        "ListTasks": (calls.list_tasks, protos.ListTasksRequest),
        "CreateQueue": (calls.create_queue, protos.CreateQueueRequest),
        "GetQueue": (calls.get_queue, protos.GetQueueRequest),
        "ListQueues": (calls.list_queues, protos.ListQueuesRequest),
        "DeleteQueue": (calls.delete_queue, protos.DeleteQueueRequest),
        "PauseQueue": (calls.pause_queue, protos.PauseQueueRequest),
        "ResumeQueue": (calls.resume_queue, protos.ResumeQueueRequest),
        "PurgeQueue": (calls.purge_queue, protos.PurgeQueueRequest),
    }
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            name: grpc.unary_unary_rpc_method_handler(
                _answering(call),
                request_deserializer=request_type.FromString,
                response_serializer=lambda message: message.SerializeToString(),
            )
            for name, (call, request_type) in methods.items()
        },
    )


def _answering(call: Callable[[Message], Message]) -> Callable[[Message, grpc.ServicerContext], Message]:
    """The one place where errors become gRPC statuses."""

    def answer(request: Message, context: grpc.ServicerContext) -> Message:
        try:
            return call(request)
        except CallError as error:
            context.abort(error.code, str(error))
        except sqlite3.Error as error:
            logger.error("storage failed: %s", error)  # noqa: TRY400 - the text says it, a trace adds nothing
            context.abort(grpc.StatusCode.UNAVAILABLE, "the stand-in's storage failed")

    return answer


def _seen(task: Message, view: int) -> Message:
    """The task as `view` shows it: the body only in the full one."""
    seen = protos.Task()
    seen.CopyFrom(task)
    seen.view = view if view == protos.FULL_VIEW else protos.BASIC_VIEW
    if seen.view == protos.BASIC_VIEW:
        seen.http_request.ClearField("body")
    return seen


def _page_size(request: Message, maximum: int) -> int:
    if request.page_size < 0:
        raise InvalidArgumentError("page_size must not be negative")
    return min(request.page_size or maximum, maximum)
