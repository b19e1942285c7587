"""Looks for planted names, account numbers and texts where they must never be.

That is every table of the database in clear, every log, and the queue's own file. Not searched: the broker
(it stores nothing to read) and SAP's ledger (where they belong).
"""

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlalchemy import Connection, text

from devstack.evidence import TABLES, open_database
from devstack.running_stack import RunningStack


def find_leaks(stack: RunningStack, planted: Sequence[str]) -> list[str]:
    """Return one line per place; it names the place and never repeats what was found there."""
    if not planted:
        return []
    with open_database(stack).connect() as connection:
        in_tables = list(_in_tables(connection, planted))
    return [*in_tables, *_in_files(stack, planted)]


def _in_tables(connection: Connection, planted: Sequence[str]) -> Iterator[str]:
    for table in connection.execute(TABLES).scalars().all():
        rows = connection.execute(
            text(f"""
            /* rows that show any of the words, whatever the column; bytes are searched as bytes */
            SELECT count(*) FROM {table} AS whole WHERE EXISTS (
                SELECT FROM unnest(CAST(:planted AS text[])) AS word
                WHERE strpos(whole::text, word) > 0
                   OR strpos(whole::text, encode(convert_to(word, 'UTF8'), 'hex')) > 0)
            """),  # noqa: S608 - the name is the catalogue's own, quoted there
            {"planted": list(planted)},
        ).scalar_one()
        if rows:
            yield f"{rows} rows of {table} show planted personal data"


def _in_files(stack: RunningStack, planted: Sequence[str]) -> Iterator[str]:
    needles = [needle for word in planted for needle in _needles(word)]
    for path in sorted([*stack.logs_folder.glob("*.log*"), *stack.state_folder.glob("cloud_tasks.sqlite*")]):
        if _contains(path, needles):
            yield f"{path.name} shows planted personal data"


def _contains(path: Path, needles: Sequence[bytes]) -> bool:
    overlap = max(map(len, needles))
    before = b""
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            window = before + chunk
            if any(needle in window for needle in needles):
                return True
            before = window[-overlap:]
    return False


def _needles(word: str) -> Iterator[bytes]:
    """The word itself and what base64 makes of it, which depends on where in a group of three it begins."""
    plain = word.encode()
    yield plain
    for shift in range(3):
        # characters that also carry bits of a neighbour are cut off
        encoded = base64.b64encode(b"\0" * shift + plain)
        yield encoded[(0, 2, 3)[shift] : -4]
