"""Cloud Tasks behind the port TaskQueue."""

import os
import threading
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import grpc
from google.api_core.exceptions import (
    AlreadyExists,
    DeadlineExceeded,
    GoogleAPIError,
    InvalidArgument,
    ResourceExhausted,
    ServiceUnavailable,
)
from google.api_core.retry import Retry, if_exception_type
from google.auth.exceptions import GoogleAuthError
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from google.protobuf import duration_pb2, timestamp_pb2

from bridge.errors import PermanentError, SettingsError, TransientError

# The handler delivers to a partner within 15 s and records it; after this Cloud Tasks cuts the request off
# and sends it again, which the claim in the database turns into nothing.
DISPATCH_DEADLINE_SECONDS = 60
CALL_TIMEOUT_SECONDS = 5.0
RETRY_TIMEOUT_SECONDS = 15.0
FIRST_RETRY_SECONDS = 0.1
LONGEST_RETRY_SECONDS = 2.0
# gRPC's own default goes up to two minutes, far beyond the moment when a restarted queue answers again
LONGEST_RECONNECT_MILLISECONDS = 1000

_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", LONGEST_RECONNECT_MILLISECONDS),
)


def make_task_queue(
    project: str,
    location: str,
    queue: str,
    *,
    emulator_host: str | None,
    service_account_email: str | None,
    audience: str | None = None,
    retry_timeout_seconds: float = RETRY_TIMEOUT_SECONDS,
) -> "CloudTasksQueue":
    """The queue `projects/<project>/locations/<location>/queues/<queue>`; its first use opens the connection.

    `emulator_host` ("host:port") is the local stand-in, spoken to in clear. Without it Google is called, and
    every task carries an OIDC token of `service_account_email` for `audience` (default: scheme and host of
    the task's URL, which is what Cloud Run checks). Raises SettingsError if neither is given.
    `retry_timeout_seconds` bounds one `schedule` with all its repetitions.
    """
    if not emulator_host and not service_account_email:
        raise SettingsError("Cloud Tasks needs the e-mail of the service account that calls the task handler")
    name = tasks_v2.CloudTasksClient.queue_path(project, location, queue)
    return CloudTasksQueue(name, emulator_host, service_account_email, audience, retry_timeout_seconds)


class CloudTasksQueue:
    """TaskQueue on one Cloud Tasks queue. Thread-safe; a forked process opens a client of its own."""

    def __init__(
        self,
        queue_name: str,
        emulator_host: str | None,
        service_account_email: str | None,
        audience: str | None,
        retry_timeout_seconds: float,
    ) -> None:
        self._queue_name = queue_name
        self._emulator_host = emulator_host
        self._service_account_email = service_account_email
        self._audience = audience
        self._retry_timeout_seconds = retry_timeout_seconds
        self._lock = threading.Lock()
        self._client: Any = None
        self._client_process_id: int | None = None

    def schedule(self, name: str, url: str, payload: bytes, at: datetime) -> bool:
        """See TaskQueue. A call whose answer was lost and was repeated here also returns False."""
        if at.tzinfo is None:
            raise ValueError("at must be aware")
        task = tasks_v2.Task(
            name=f"{self._queue_name}/tasks/{name}",
            http_request=self._request(url, payload),
            schedule_time=_timestamp(at),
            dispatch_deadline=duration_pb2.Duration(seconds=DISPATCH_DEADLINE_SECONDS),
        )
        try:
            self._open_client().create_task(
                parent=self._queue_name,
                task=task,
                # safe to repeat: the name makes it idempotent
                retry=Retry(
                    predicate=if_exception_type(DeadlineExceeded, ServiceUnavailable, ResourceExhausted),
                    initial=FIRST_RETRY_SECONDS,
                    maximum=LONGEST_RETRY_SECONDS,
                    timeout=self._retry_timeout_seconds,
                ),
                timeout=CALL_TIMEOUT_SECONDS,
            )
        except AlreadyExists:
            return False
        except InvalidArgument as error:
            raise PermanentError("Cloud Tasks refuses the task") from error
        except (GoogleAPIError, GoogleAuthError) as error:
            raise TransientError("Cloud Tasks can't be reached or can't take the task now") from error
        return True

    def close(self) -> None:
        """Give the connection back; the next use opens another."""
        with self._lock:
            client, self._client = self._client, None
            if client is not None and self._client_process_id == os.getpid():
                client.transport.close()

    def _request(self, url: str, payload: bytes) -> tasks_v2.HttpRequest:
        request = tasks_v2.HttpRequest(
            url=url,
            http_method=tasks_v2.HttpMethod.POST,
            headers={"Content-Type": "application/json"},
            body=payload,
        )
        if self._service_account_email:
            request.oidc_token = tasks_v2.OidcToken(
                service_account_email=self._service_account_email,
                audience=self._audience or _origin(url),
            )
        return request

    def _open_client(self) -> Any:
        """A gRPC channel doesn't survive a fork, so only the process that opened a client uses it."""
        with self._lock:
            if self._client is None or self._client_process_id != os.getpid():
                self._client = tasks_v2.CloudTasksClient(transport=self._transport())
                self._client_process_id = os.getpid()
            return self._client

    def _transport(self) -> Any:
        if self._emulator_host:
            channel = grpc.insecure_channel(self._emulator_host, options=_CHANNEL_OPTIONS)
            return CloudTasksGrpcTransport(channel=channel)
        return CloudTasksGrpcTransport()


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _timestamp(moment: datetime) -> timestamp_pb2.Timestamp:
    stamp = timestamp_pb2.Timestamp()
    stamp.FromDatetime(moment)
    return stamp
