"""The partners' last good documents in PostgreSQL, used at cold start and while Firestore is away."""

from dataclasses import dataclass
from datetime import datetime

import structlog
from pydantic import ValidationError
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from bridge.errors import TransientError
from bridge.partner import PartnerConfiguration
from bridge.ports import ClientTakenError, PartnerStore, VersionConflictError
from bridge.storage import partner_configs
from bridge.storage.partner_configs import MirroredDocument

RESTORE_PAGE_DOCUMENTS = 100

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class MirroredPartner:
    """`seen_at` is when a reader last saw the configuration in Firestore."""

    configuration: PartnerConfiguration
    seen_at: datetime


class PartnerMirror:
    """Reads and keeps copies, each in a transaction of its own. TransientError while the database is away."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get(self, partner_id: str) -> MirroredPartner | None:
        try:
            with self._engine.begin() as connection:
                return _partner(partner_configs.read(connection, partner_id))
        except SQLAlchemyError as error:
            raise TransientError("the mirror of partners can't be read") from error

    def find_by_client(self, client_id: str) -> MirroredPartner | None:
        try:
            with self._engine.begin() as connection:
                return _partner(partner_configs.find_by_client(connection, client_id))
        except SQLAlchemyError as error:
            raise TransientError("the mirror of partners can't be read") from error

    def remember(self, configuration: PartnerConfiguration, seen_at: datetime) -> PartnerConfiguration:
        """Keep what was just seen in Firestore; return the newest that is known after that."""
        try:
            with self._engine.begin() as connection:
                kept = partner_configs.upsert(
                    connection,
                    partner_id=configuration.partner_id,
                    version=configuration.version,
                    document=configuration.model_dump(mode="json"),
                    seen_at=seen_at,
                )
                if kept:
                    return configuration
                standing = _partner(partner_configs.read(connection, configuration.partner_id))
        except SQLAlchemyError as error:
            raise TransientError("the mirror of partners can't be written") from error
        if standing is not None and standing.configuration.version > configuration.version:
            return standing.configuration
        return configuration


def restore_from_mirror(engine: Engine, store: PartnerStore) -> int:
    """Put the mirror's documents into the store where it has none; return how many were missing.

    For a store that has lost everything, as the emulator does at each restart. What is there stays.
    """
    restored, after = 0, ""
    while True:
        with engine.begin() as connection:
            page = partner_configs.read_after(connection, after, limit=RESTORE_PAGE_DOCUMENTS)
        if not page:
            return restored
        for row in page:
            after = row.document["partner_id"]
            partner = _partner(row)
            if partner is not None and store.get(after) is None:
                try:
                    store.put(partner.configuration, None)
                except VersionConflictError:
                    continue  # somebody else has just restored it
                except ClientTakenError:
                    # Two copies of different age may both have a client that has moved.
                    _log.error("partner not restored, its client is another's", partner_id=after)
                    continue
                restored += 1


def _partner(row: MirroredDocument | None) -> MirroredPartner | None:
    """A copy that an older release wrote may not fit the model any more: as good as none, but told."""
    if row is None:
        return None
    try:
        return MirroredPartner(PartnerConfiguration.read(row.document), row.seen_at)
    except ValidationError as error:
        _log.error(
            "mirrored partner does not fit the model",
            partner_id=row.document.get("partner_id"),
            fields=[".".join(map(str, problem["loc"])) for problem in error.errors(include_input=False)],
        )
        return None
