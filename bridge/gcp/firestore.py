"""Firestore behind the port PartnerStore: collection `partners`, one document per partner.

A document has the fields of PartnerConfiguration (JSON mode) and `client_ids`, by which it is looked up.
The generated client is used and not the hand-written one on top of it, because that takes no channel: gRPC's
own pauses before it reconnects grow to two minutes, and the emulator only comes from the environment.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
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
from google.cloud.firestore_v1.types import Cursor, Document, Precondition, StructuredQuery, Value, Write
from pydantic import ValidationError

from bridge.environment import on_cloud_run
from bridge.errors import SettingsError, TransientError, UnknownOutcomeError
from bridge.partner import PARTNER_ID_PATTERN, PartnerConfiguration
from bridge.ports import ClientTakenError, InvalidDocumentError, VersionConflictError

COLLECTION = "partners"
CLIENT_IDS = "client_ids"
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

_log = structlog.get_logger(__name__)


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


def make_partner_store(settings: FirestoreSettings) -> "FirestorePartnerStore":
    """The partners of one Firestore database; the first use opens the connection (so: after a fork)."""
    return FirestorePartnerStore(settings)


class FirestorePartnerStore:
    """PartnerStore on Firestore. Thread-safe. A read, with its repetitions, ends within its timeout."""

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

    def get(self, partner_id: str) -> PartnerConfiguration | None:
        """See PartnerStore."""
        document = self._read(partner_id)
        return _configuration(document) if document is not None else None

    def find_by_client(self, client_id: str) -> PartnerConfiguration | None:
        """See PartnerStore."""
        found = self._find([client_id], limit=2)
        if len(found) > 1:
            _log.error("client belongs to several partners", partner_ids=[_id_of(each) for each in found])
        return _configuration(found[0]) if found else None

    def page(self, after: str, limit: int) -> list[tuple[str, PartnerConfiguration | None]]:
        """See PartnerStore."""
        by_name = StructuredQuery.Order(
            field=StructuredQuery.FieldReference(field_path="__name__"),
            direction=StructuredQuery.Direction.ASCENDING,
        )
        query = StructuredQuery(
            from_=[StructuredQuery.CollectionSelector(collection_id=COLLECTION)],
            order_by=[by_name],
            start_at=Cursor(values=[Value(reference_value=self._name(after))], before=False)
            if after
            else None,
            limit=limit,
        )
        return [(_id_of(document), _readable(document)) for document in self._query(query)]

    def put(self, document: PartnerConfiguration, expected_version: int | None) -> None:
        """See PartnerStore. That no other partner has a client of the document is checked before the write.

        Two partners that take the same client at the same moment are not stopped; `find_by_client` then
        stays with the older one.
        """
        if document.version <= (expected_version or 0):
            raise ValueError("the version has to rise")
        standing = self._read(document.partner_id)
        standing_version = decode(standing.fields).get("version") if standing is not None else None
        if standing_version != expected_version:
            raise VersionConflictError(f"{document.partner_id} is at version {standing_version}")
        self._require_free_clients(document)
        self._commit(
            Write(
                update=Document(name=self._name(document.partner_id), fields=encode(_fields(document))),
                current_document=Precondition(update_time=standing.update_time)
                if standing is not None
                else Precondition(exists=False),
            )
        )

    def close(self) -> None:
        """Give the connection back; the next use opens another."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.transport.close()

    def _require_free_clients(self, document: PartnerConfiguration) -> None:
        for client in document.clients:
            owners = {_id_of(found) for found in self._find([client.client_id], limit=2)}
            if owners - {document.partner_id}:
                raise ClientTakenError(f"client {client.client_id} belongs to another partner")

    def _read(self, partner_id: str) -> Any:
        if not PARTNER_ID_PATTERN.fullmatch(partner_id):
            return None  # no such document can exist, and a slash would lead somewhere else
        request = {"name": self._name(partner_id)}
        try:
            return self._open_client().get_document(
                request,
                retry=self._read_retry,
                timeout=self._settings.read_timeout_seconds,
                metadata=self._metadata,
            )
        except NotFound:
            return None
        except (GoogleAPIError, GoogleAuthError) as error:
            raise TransientError("Firestore can't be read") from error

    def _find(self, client_ids: list[str], *, limit: int) -> list[Any]:
        """The documents that have one of the clients, ordered by id (so: the oldest first)."""
        has_client = StructuredQuery.FieldFilter(
            field=StructuredQuery.FieldReference(field_path=CLIENT_IDS),
            op=StructuredQuery.FieldFilter.Operator.ARRAY_CONTAINS_ANY,
            value=_value(client_ids),
        )
        query = StructuredQuery(
            from_=[StructuredQuery.CollectionSelector(collection_id=COLLECTION)],
            where=StructuredQuery.Filter(field_filter=has_client),
            limit=limit,
        )
        return self._query(query)

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

    def _name(self, partner_id: str) -> str:
        return f"{self._parent}/{COLLECTION}/{partner_id}"

    def _open_client(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = FirestoreClient(transport=FirestoreGrpcTransport(channel=self._channel()))
            return self._client

    def _channel(self) -> Any:
        if self._settings.emulator_host:
            return grpc.insecure_channel(self._settings.emulator_host, options=_CHANNEL_OPTIONS)
        return FirestoreGrpcTransport.create_channel(options=_CHANNEL_OPTIONS)


def _fields(document: PartnerConfiguration) -> dict[str, Any]:
    return {
        **document.model_dump(mode="json"),
        CLIENT_IDS: [client.client_id for client in document.clients],
    }


def _configuration(document: Any) -> PartnerConfiguration:
    fields = decode(document.fields)
    fields.pop(CLIENT_IDS, None)
    try:
        configuration = PartnerConfiguration.read(fields)
    except ValidationError as error:
        wrong = sorted({".".join(map(str, problem["loc"])) or "document" for problem in error.errors()})
        raise InvalidDocumentError(f"{_id_of(document)}: {', '.join(wrong)}") from None
    if configuration.partner_id != _id_of(document):
        raise InvalidDocumentError(f"{_id_of(document)}: partner_id is another one")
    return configuration


def _readable(document: Any) -> PartnerConfiguration | None:
    try:
        return _configuration(document)
    except InvalidDocumentError as error:
        _log.error("partner document is not valid", partner_id=_id_of(document), reason=str(error))
        return None


def _id_of(document: Any) -> str:
    return str(document.name).rpartition("/")[2]


def encode(fields: Mapping[str, Any]) -> dict[str, Value]:
    """Return JSON members as Firestore's values."""
    return {name: _value(value) for name, value in fields.items()}


def _value(value: Any) -> Value:
    if value is None:
        return Value(null_value=0)
    if isinstance(value, list):
        return Value(array_value={"values": [_value(each) for each in value]})
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
