"""The mirror: the last good copy of each partner's Firestore document."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, text

UPSERT = text("""
    /* keep the document unless a newer one is here, or this one as seen later */
    INSERT INTO partner_configs AS mirror (partner_id, version, document, seen_at)
    VALUES (:partner_id, :version, CAST(:document AS jsonb), :seen_at)
    ON CONFLICT (partner_id) DO UPDATE
    SET version = excluded.version, document = excluded.document, seen_at = excluded.seen_at
    WHERE excluded.version > mirror.version
       OR (excluded.version = mirror.version AND excluded.seen_at >= mirror.seen_at)
    RETURNING version
""")
READ = text("""
    /* the copy of one partner */
    SELECT version, document, seen_at FROM partner_configs WHERE partner_id = :partner_id
""")
FIND_BY_CLIENT = text("""
    /* the copy that has this client; the oldest partner (ids are time-ordered) if several have it */
    SELECT version, document, seen_at FROM partner_configs
    WHERE document -> 'clients' @> CAST(:wanted AS jsonb)
    ORDER BY partner_id LIMIT 1
""")
READ_AFTER = text("""
    /* a page of all copies, by id */
    SELECT version, document, seen_at FROM partner_configs
    WHERE partner_id > :after ORDER BY partner_id LIMIT :limit
""")


@dataclass(frozen=True, slots=True)
class MirroredDocument:
    """`seen_at` is when a reader last saw the document in Firestore."""

    version: int
    document: dict[str, Any]
    seen_at: datetime


def upsert(
    connection: Connection, *, partner_id: str, version: int, document: dict[str, Any], seen_at: datetime
) -> bool:
    """Keep the document; False if a newer one is here (or the same version, seen later), which stays."""
    parameters = {
        "partner_id": partner_id,
        "version": version,
        "document": json.dumps(document),
        "seen_at": seen_at,
    }
    return connection.execute(UPSERT, parameters).first() is not None


def read(connection: Connection, partner_id: str) -> MirroredDocument | None:
    return _document(connection.execute(READ, {"partner_id": partner_id}).first())


def find_by_client(connection: Connection, client_id: str) -> MirroredDocument | None:
    wanted = json.dumps([{"client_id": client_id}])
    return _document(connection.execute(FIND_BY_CLIENT, {"wanted": wanted}).first())


def read_after(connection: Connection, after: str, *, limit: int) -> list[MirroredDocument]:
    """Return up to `limit` copies whose partner ids come after `after` ("" for the first page)."""
    rows = connection.execute(READ_AFTER, {"after": after, "limit": limit})
    return [MirroredDocument(row.version, row.document, row.seen_at) for row in rows]


def _document(row: Row[Any] | None) -> MirroredDocument | None:
    return MirroredDocument(row.version, row.document, row.seen_at) if row is not None else None
