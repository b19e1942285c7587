"""Firestore behind the port PartnerStore: collection `partners`, one document per partner.

A document has the fields of PartnerConfiguration (JSON mode) and `client_ids`, by which it is looked up.
"""

from typing import Any

import structlog
from google.cloud.firestore_v1.types import Cursor, Document, Precondition, StructuredQuery, Value, Write
from pydantic import ValidationError

from bridge.gcp.firestore_documents import FirestoreDocuments, FirestoreSettings, decode, encode, encoded
from bridge.partner import PARTNER_ID_PATTERN, PartnerConfiguration
from bridge.ports import ClientTakenError, InvalidDocumentError, VersionConflictError

COLLECTION = "partners"
CLIENT_IDS = "client_ids"

_log = structlog.get_logger(__name__)


def make_partner_store(settings: FirestoreSettings) -> "FirestorePartnerStore":
    """The partners of one Firestore database; the first use opens the connection (so: after a fork)."""
    return FirestorePartnerStore(settings)


class FirestorePartnerStore(FirestoreDocuments):
    """PartnerStore on Firestore."""

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

    def _require_free_clients(self, document: PartnerConfiguration) -> None:
        for client in document.clients:
            owners = {_id_of(found) for found in self._find([client.client_id], limit=2)}
            if owners - {document.partner_id}:
                raise ClientTakenError(f"client {client.client_id} belongs to another partner")

    def _read(self, partner_id: str) -> Any:
        if not PARTNER_ID_PATTERN.fullmatch(partner_id):
            return None  # no such document can exist, and a slash would lead somewhere else
        return self._get(self._name(partner_id))

    def _find(self, client_ids: list[str], *, limit: int) -> list[Any]:
        """The documents that have one of the clients, ordered by id (so: the oldest first)."""
        has_client = StructuredQuery.FieldFilter(
            field=StructuredQuery.FieldReference(field_path=CLIENT_IDS),
            op=StructuredQuery.FieldFilter.Operator.ARRAY_CONTAINS_ANY,
            value=encoded(client_ids),
        )
        query = StructuredQuery(
            from_=[StructuredQuery.CollectionSelector(collection_id=COLLECTION)],
            where=StructuredQuery.Filter(field_filter=has_client),
            limit=limit,
        )
        return self._query(query)

    def _name(self, partner_id: str) -> str:
        return f"{self._parent}/{COLLECTION}/{partner_id}"


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
