"""The documents, in a SQLite file that outlives the process."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

from sap_mock.journal_entry import Document, DocumentKey, Item, JournalEntry
from sap_mock.kinds import kind_of

BUSY_TIMEOUT_SECONDS = 10.0
# per document type the first two digits of its ten-digit numbers, as SAP's standard ranges
NUMBER_RANGES = {"DZ": "14", "KZ": "15", "ZP": "20", "DR": "18", "KR": "19", "DG": "16", "KG": "17"}
OTHER_RANGE = "01"
# what the control side tells of a document and of its items
_SUMMARY = ("reference", "company_code", "fiscal_year", "number", "currency", "amount", "kind")
_ITEM_SUMMARY = ("kind", "account", "amount")
_SUMMARIES = f"""
    SELECT identity, {", ".join(f"d.{name}" for name in _SUMMARY)}, i.position,
           {", ".join(f"i.{name} AS item_{name}" for name in _ITEM_SUMMARY)}
    FROM documents d JOIN items i ON i.document_identity = d.identity
"""  # noqa: S608 - constant names


class LedgerError(Exception):
    """The file can't be used; the text says why."""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    confirmation: str
    stored_at_ms: int


class Posting:
    """One transaction on the ledger: what is written here is committed together."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def stored_response(self, uuid: str, not_before_ms: int) -> StoredResponse | None:
        """Return what was stored under a message's UUID at or after `not_before_ms`."""
        row = self._connection.execute(
            "SELECT confirmation, stored_at_ms FROM responses WHERE uuid = ? AND stored_at_ms >= ?",
            (uuid, not_before_ms),
        ).fetchone()
        return None if row is None else StoredResponse(str(row[0]), int(row[1]))

    def store_response(self, uuid: str, confirmation: str, now_ms: int) -> None:
        self._connection.execute(
            "INSERT INTO responses VALUES (?, ?, ?) ON CONFLICT (uuid) DO UPDATE"
            " SET confirmation = excluded.confirmation, stored_at_ms = excluded.stored_at_ms",
            (uuid, confirmation, now_ms),
        )

    def refused_times(self, reference: str, reason: str) -> int:
        row = self._connection.execute(
            "SELECT times FROM refusals WHERE reference = ? AND reason = ?", (reference, reason)
        ).fetchone()
        return 0 if row is None else int(row[0])

    def count_refusal(self, reference: str, reason: str) -> None:
        self._connection.execute(
            "INSERT INTO refusals VALUES (?, ?, 1)"
            " ON CONFLICT (reference, reason) DO UPDATE SET times = times + 1",
            (reference, reason),
        )

    def next_key(self, entry: JournalEntry) -> DocumentKey:
        """Take the next number of the entry's range; the fiscal year is that of the posting date."""
        fiscal_year = entry.posting_date[:4]
        number_range = NUMBER_RANGES.get(entry.document_type, OTHER_RANGE)
        row = self._connection.execute(
            "INSERT INTO number_ranges VALUES (?, ?, ?, 1) ON CONFLICT DO UPDATE SET last = last + 1"
            " RETURNING last",
            (entry.company_code, fiscal_year, number_range),
        ).fetchone()
        return DocumentKey(entry.company_code, fiscal_year, f"{number_range}{row[0]:08d}")

    def add(self, document: Document) -> None:
        entry, key = document.entry, document.key
        identity = self._connection.execute(
            "INSERT INTO documents (company_code, fiscal_year, number, reference, kind, document_type,"
            " header_text, created_by, logical_system, document_date, posting_date, currency, amount,"
            " reversal_reason, reversed_key, committed_at_ms)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                key.company_code,
                key.fiscal_year,
                key.number,
                entry.reference,
                kind_of(entry),
                entry.document_type,
                entry.header_text,
                entry.created_by,
                entry.logical_system,
                entry.document_date,
                entry.posting_date,
                document.currency,
                str(document.debit_total),
                entry.reversal_reason,
                None if document.reversed_key is None else document.reversed_key.object_key(),
                document.committed_at_ms,
            ),
        ).lastrowid
        self._connection.executemany(
            "INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    identity,
                    position,
                    item.kind,
                    item.account,
                    str(item.amount),
                    item.currency,
                    item.debit_credit,
                    item.text,
                    item.assignment,
                    item.reference1,
                    item.reference3,
                )
                for position, item in enumerate(entry.items, 1)
            ],
        )

    def items(self, key: DocumentKey) -> tuple[Item, ...]:
        """Return the items of a document, in order; none when there is no such document."""
        rows = self._connection.execute(
            "SELECT i.kind, i.account, i.amount, i.currency, i.debit_credit, i.text, i.assignment,"
            " i.reference1, i.reference3 FROM items i JOIN documents d ON d.identity = i.document_identity"
            " WHERE d.company_code = ? AND d.fiscal_year = ? AND d.number = ? ORDER BY i.position",
            (key.company_code, key.fiscal_year, key.number),
        )
        return tuple(Item(row[0], row[1], Decimal(row[2]), *row[3:]) for row in rows)

    def is_reversed(self, key: DocumentKey) -> bool:
        row = self._connection.execute(
            "SELECT 1 FROM documents WHERE reversed_key = ?", (key.object_key(),)
        ).fetchone()
        return row is not None


class Ledger:
    """Safe for threads: one connection writes, one reads, each taken by one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open the file and make its tables; LedgerError when that can't be done."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = _connect(path)
            self._writer.executescript(resources.files("sap_mock").joinpath("ledger_tables.sql").read_text())
            self._reader = _connect(path)
        except (OSError, sqlite3.Error) as error:
            raise LedgerError(f"can't use {path}: {error}") from error
        self._writing = threading.Lock()
        self._reading = threading.Lock()

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    @contextmanager
    def posting(self) -> Iterator[Posting]:
        """Run one transaction: committed at the end, undone if it raises."""
        with self._writing:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield Posting(self._writer)
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:  # SQLite ends it itself on some errors, a full disk for one
                    self._writer.execute("ROLLBACK")
                raise

    def clear(self) -> None:
        with self.posting():
            for table in ("documents", "items", "number_ranges", "responses", "refusals"):
                self._writer.execute(f"DELETE FROM {table}")  # noqa: S608 - the names stand in the line above

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Hand out the reading connection; its rows have names."""
        with self._reading:
            yield self._reader

    def counts(self) -> tuple[int, int]:
        """Return how many documents there are, and how many beyond the first with one reference."""
        statement = (
            "SELECT count(*), count(nullif(reference, '')) - count(DISTINCT nullif(reference, ''))"
            " FROM documents"
        )
        with self.reading() as connection, closing(connection.execute(statement)) as cursor:
            documents, duplicates = cursor.fetchone()
        return int(documents), int(duplicates)

    def references(self) -> set[str]:
        """Return every reference there is."""
        with self.reading() as connection:
            rows = connection.execute("SELECT DISTINCT reference FROM documents WHERE reference <> ''")
            return {str(row[0]) for row in rows}

    def summaries(self, reference: str | None) -> list[dict[str, Any]]:
        """Return documents with their items, in order of posting: all, or those with one reference."""
        with self.reading() as connection:
            if reference is None:
                rows = connection.execute(_SUMMARIES).fetchall()
            else:
                rows = connection.execute(f"{_SUMMARIES} WHERE reference = ?", (reference,)).fetchall()
        documents: dict[int, dict[str, Any]] = {}
        for row in sorted(rows, key=lambda row: (row["identity"], row["position"])):
            document = documents.setdefault(
                row["identity"], {name: row[name] for name in _SUMMARY} | {"items": []}
            )
            document["items"].append({name: row[f"item_{name}"] for name in _ITEM_SUMMARY})
        return list(documents.values())


def _connect(path: Path) -> sqlite3.Connection:
    """WAL with synchronous NORMAL: a commit survives the death of the process (not that of the machine)."""
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
    )
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection
