"""Firestore's documents: the connection, reads and conditional writes that its adapters share.

The generated client is used and not the hand-written one on top of it, because that takes no channel: gRPC's
own pauses before it reconnects grow to two minutes, and the emulator only comes from the environment.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.api_core.exceptions import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    GoogleAPIError,
    NotFound,
    ServiceUnavailable,
)
from google.api_core.retry import Retry, if_exception_type
from google.auth.exceptions import GoogleAuthError
from google.cloud.firestore_v1.services.firestore import FirestoreClient
from google.cloud.firestore_v1.services.firestore.transports import FirestoreGrpcTransport
from google.cloud.firestore_v1.types import StructuredQuery, Value, Write

from bridge.environment import on_cloud_run
from bridge.errors import SettingsError, TransientError, UnknownOutcomeError
from bridge.ports import VersionConflictError

DEFAULT_DATABASE = "(default)"
# One look-up with its repetitions: a request waits behind it, and the mirror can answer instead.
READ_TIMEOUT_SECONDS = 2.0
FIRST_RETRY_SECONDS = 0.1
LONGEST_RETRY_SECONDS = 0.5
WRITE_TIMEOUT_SECONDS = 5.0
MAX_DOCUMENT_BYTES = 1_048_576

_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.max_receive_message_length", 4 * MAX_DOCUMENT_BYTES),
)

_SCALARS = {bool: "boolean_value", int: "integer_value", float: "double_value", str: "string_value"}


@dataclass(frozen=True, slots=True)
class FirestoreSettings:
    """`emulator_host` ("host:port") is the local emulator, spoken to in clear and without credentials."""

    project: str
    database: str = DEFAULT_DATABASE
    emulator_host: str | None = None
    read_timeout_seconds: float = READ_TIMEOUT_SECONDS
    write_timeout_seconds: float = WRITE_TIMEOUT_SECONDS

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "FirestoreSettings":
        """Read GOOGLE_CLOUD_PROJECT, FIRESTORE_DATABASE, FIRESTORE_EMULATOR_HOST (not on Cloud Run)."""
        project = environ.get("GOOGLE_CLOUD_PROJECT", "")
        if not project:
            raise SettingsError("GOOGLE_CLOUD_PROJECT is missing: the project of the Firestore database")
        emulator_host = environ.get("FIRESTORE_EMULATOR_HOST") or None
        if emulator_host and on_cloud_run(environ):
            raise SettingsError("FIRESTORE_EMULATOR_HOST is not allowed on Cloud Run")
        return cls(project, environ.get("FIRESTORE_DATABASE") or DEFAULT_DATABASE, emulator_host)


class FirestoreDocuments:
    """One Firestore database. Thread-safe; the first use opens the connection (so: after a fork).

    A read, with its repetitions, ends within its timeout.
    """

    def __init__(self, settings: FirestoreSettings) -> None:
        self._settings = settings
        self._read_retry = Retry(
            predicate=if_exception_type(ServiceUnavailable),
            initial=FIRST_RETRY_SECONDS,
            maximum=LONGEST_RETRY_SECONDS,
            timeout=settings.read_timeout_seconds,
        )
        self._database = f"projects/{settings.project}/databases/{settings.database}"
        self._parent = f"{self._database}/documents"
        self._metadata = (("google-cloud-resource-prefix", self._database),)
        self._lock = threading.Lock()
        self._client: Any = None

    def close(self) -> None:
        """Give the connection back; the next use opens another."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.transport.close()

    def _get(self, name: str) -> Any:
        """Return the document of this full name, None if there is none; TransientError."""
        try:
            return self._open_client().get_document(
                {"name": name},
                retry=self._read_retry,
                timeout=self._settings.read_timeout_seconds,
                metadata=self._metadata,
            )
        except NotFound:
            return None
        except (GoogleAPIError, GoogleAuthError) as error:
            raise TransientError("Firestore can't be read") from error

    def _query(self, query: StructuredQuery) -> list[Any]:
        request = {"parent": self._parent, "structured_query": query}
        try:
            # a streaming call: it may also fail while the answers are read
            answers = self._open_client().run_query(
                request,
                retry=self._read_retry,
                timeout=self._settings.read_timeout_seconds,
                metadata=self._metadata,
            )
            return [answer.document for answer in answers if answer.document.name]
        except (GoogleAPIError, GoogleAuthError) as error:
            raise TransientError("Firestore can't be read") from error

    def _commit(self, write: Write) -> None:
        """One attempt: after a lost answer, a second would take the first for somebody else's change."""
        request = {"database": self._database, "writes": [write]}
        try:
            self._open_client().commit(
                request, retry=None, timeout=self._settings.write_timeout_seconds, metadata=self._metadata
            )
        except (FailedPrecondition, AlreadyExists, NotFound) as error:
            raise VersionConflictError("the document was changed meanwhile") from error
        except (ServiceUnavailable, DeadlineExceeded) as error:
            raise UnknownOutcomeError("Firestore has not answered; the change may be in it") from error
        except (GoogleAPIError, GoogleAuthError) as error:
            raise TransientError("Firestore can't be written") from error

    def _open_client(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = FirestoreClient(transport=FirestoreGrpcTransport(channel=self._channel()))
            return self._client

    def _channel(self) -> Any:
        if self._settings.emulator_host:
            return grpc.insecure_channel(self._settings.emulator_host, options=_CHANNEL_OPTIONS)
        return FirestoreGrpcTransport.create_channel(options=_CHANNEL_OPTIONS)


def encode(fields: Mapping[str, Any]) -> dict[str, Value]:
    """Return JSON members as Firestore's values."""
    return {name: encoded(value) for name, value in fields.items()}


def encoded(value: Any) -> Value:
    if value is None:
        return Value(null_value=0)
    if isinstance(value, list):
        return Value(array_value={"values": [encoded(each) for each in value]})
    if isinstance(value, dict):
        return Value(map_value={"fields": encode(value)})
    return Value(**{_SCALARS[type(value)]: value})


def decode(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return Firestore's values as JSON; what JSON has no form for becomes None, and fails validation."""
    return {name: _json(value) for name, value in fields.items()}


def _json(value: Any) -> Any:
    kind = Value.pb(value).WhichOneof("value_type")
    match kind:
        case "boolean_value" | "integer_value" | "double_value" | "string_value":
            return getattr(value, kind)
        case "array_value":
            return [_json(each) for each in value.array_value.values]
        case "map_value":
            return decode(value.map_value.fields)
        case _:
            return None
