"""The port PartnerStore in memory; passes the same conformance suite as Firestore."""

import json
import threading
from collections.abc import Callable

from pydantic import ValidationError

from bridge.partner import PartnerConfiguration
from bridge.ports import ClientTakenError, InvalidDocumentError, VersionConflictError


class InMemoryPartnerStore:
    """Keeps documents as JSON, as Firestore does, so that a damaged one can be planted.

    `failure`, when set, is raised by every call: the store that is away. `asked` lists the look-ups.
    `before_answer` runs in each look-up once it has read, so that an answer can be on its way for long.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._documents: dict[str, str] = {}
        self.failure: Exception | None = None
        self.asked: list[str] = []
        self.before_answer: Callable[[], None] = lambda: None

    def get(self, partner_id: str) -> PartnerConfiguration | None:
        self.asked.append(partner_id)
        document = self._documents.get(partner_id)
        self._answer()
        return _configuration(partner_id, document) if document is not None else None

    def find_by_client(self, client_id: str) -> PartnerConfiguration | None:
        self.asked.append(client_id)
        documents = sorted(self._documents.items())
        self._answer()
        for partner_id, document in documents:
            if client_id in _client_ids(document):
                return _configuration(partner_id, document)
        return None

    def page(self, after: str, limit: int) -> list[tuple[str, PartnerConfiguration | None]]:
        found = [entry for entry in sorted(self._documents.items()) if entry[0] > after][:limit]
        self._answer()
        return [(partner_id, _readable(partner_id, document)) for partner_id, document in found]

    def put(self, document: PartnerConfiguration, expected_version: int | None) -> None:
        if document.version <= (expected_version or 0):
            raise ValueError("the version has to rise")
        if self.failure is not None:
            raise self.failure
        with self._lock:
            standing = self._documents.get(document.partner_id)
            standing_version = json.loads(standing)["version"] if standing is not None else None
            if standing_version != expected_version:
                raise VersionConflictError(f"{document.partner_id} is at version {standing_version}")
            mine = {client.client_id for client in document.clients}
            for partner_id, other in self._documents.items():
                if partner_id != document.partner_id and mine & _client_ids(other):
                    raise ClientTakenError("a client belongs to another partner")
            self._documents[document.partner_id] = document.model_dump_json()

    def close(self) -> None:
        """Nothing is open."""

    def plant(self, partner_id: str, document: object) -> None:
        """Put anything in a document's place, as a hand in the console could."""
        self._documents[partner_id] = json.dumps(document)

    def lose(self, partner_id: str) -> None:
        del self._documents[partner_id]

    def _answer(self) -> None:
        self.before_answer()
        if self.failure is not None:
            raise self.failure


def _client_ids(document: str) -> set[str]:
    return {client["client_id"] for client in json.loads(document).get("clients", [])}


def _readable(partner_id: str, document: str) -> PartnerConfiguration | None:
    try:
        return _configuration(partner_id, document)
    except InvalidDocumentError:
        return None


def _configuration(partner_id: str, document: str) -> PartnerConfiguration:
    try:
        return PartnerConfiguration.read(json.loads(document))
    except ValidationError as error:
        wrong = sorted({".".join(map(str, problem["loc"])) for problem in error.errors()})
        raise InvalidDocumentError(f"{partner_id}: {', '.join(wrong)}") from None
