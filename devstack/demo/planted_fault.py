"""Faults planted on purpose, so that one can see the demo's check turn red; undone afterwards."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

BUSY_TIMEOUT_SECONDS = 10.0


@contextmanager
def document_missing(ledger: Path, reference: str) -> Iterator[None]:
    """Take the document with that reference out of the SAP mock's ledger, and put it back at the end."""
    with closing(sqlite3.connect(ledger, timeout=BUSY_TIMEOUT_SECONDS)) as connection:
        select = "SELECT * FROM documents WHERE reference = ?"
        row = connection.execute(select, (reference,)).fetchone()
        with connection:
            # foreign keys are off on this connection: the items stay and find their document again
            connection.execute("DELETE FROM documents WHERE reference = ?", (reference,))
        try:
            yield
        finally:
            places = ", ".join("?" * len(row))
            with connection:
                connection.execute(f"INSERT INTO documents VALUES ({places})", row)  # noqa: S608 - only ?
