"""What the receiver got and how it shall answer, in one SQLite file; committed before an answer is given."""

import random
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BUSY_TIMEOUT_SECONDS = 5.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS received (
    number INTEGER PRIMARY KEY,
    id TEXT,
    partner_id TEXT NOT NULL,
    type TEXT,
    payment_id TEXT,
    sequence INTEGER,
    previous_sequence INTEGER,
    verified INTEGER NOT NULL,
    received_at TEXT NOT NULL,
    attempt_number_seen INTEGER NOT NULL,
    answered INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS received_by_id ON received (partner_id, id);
CREATE INDEX IF NOT EXISTS received_by_payment ON received (payment_id);
CREATE TABLE IF NOT EXISTS control (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    status INTEGER NOT NULL,
    delay_ms INTEGER NOT NULL,
    fail_first INTEGER NOT NULL,
    fail_rate REAL NOT NULL
);
INSERT INTO control VALUES (1, 200, 0, 0, 0) ON CONFLICT DO NOTHING;
"""
_LIST = """
SELECT id, type, payment_id, verified, received_at, partner_id, sequence, previous_sequence,
       attempt_number_seen, answered
FROM (SELECT *, row_number() OVER (
          PARTITION BY partner_id, coalesce(id, number) ORDER BY verified DESC, number
      ) AS place FROM received
      WHERE (:payment_id IS NULL OR payment_id = :payment_id)
        AND (:partner_id IS NULL OR partner_id = :partner_id)
        AND (:since IS NULL OR received_at >= :since))
WHERE place = 1 OR NOT :distinct
ORDER BY number LIMIT :limit
"""
_CONTROL = "SELECT status, delay_ms, fail_first, fail_rate FROM control"
_NEXT_ATTEMPT = "SELECT count(*) + 1 FROM received WHERE partner_id = :partner_id AND id = :id"
_INSERT = """
INSERT INTO received (id, partner_id, type, payment_id, sequence, previous_sequence, verified, received_at,
                      attempt_number_seen, answered)
VALUES (:id, :partner_id, :type, :payment_id, :sequence, :previous_sequence, :verified, :received_at,
        :attempt_number_seen, :answered)
"""
_SET_CONTROL = """
UPDATE control SET status = :status, delay_ms = :delay_ms, fail_first = :fail_first, fail_rate = :fail_rate
"""
FORGED_STATUS = 401
FAILED_STATUS = 500


@dataclass(frozen=True, slots=True)
class Control:
    """How verified webhooks are answered: after `delay_ms`, the first `fail_first` requests per webhook id
    with 500, of all others that share, at random, too, and the rest with `status`.
    """

    status: int = 200
    delay_ms: int = 0
    fail_first: int = 0
    fail_rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request. What its headers or body don't say is None; `received_at`: RFC 3339 UTC, milliseconds."""

    id: str | None
    partner_id: str
    type: str | None
    payment_id: str | None
    sequence: int | None
    previous_sequence: int | None
    verified: bool
    received_at: str


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    delay_ms: int


@dataclass(frozen=True, slots=True)
class Query:
    """`since` is RFC 3339 as in Delivery; `distinct`: one row per webhook id, a verified one if it can."""

    payment_id: str | None
    partner_id: str | None
    since: str | None
    distinct: bool
    limit: int


class Store:
    """Thread-safe. Raises sqlite3.Error when the file can't be read or written."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._connection.row_factory = sqlite3.Row
        # committed changes survive a kill -9 in this mode; only a power cut could lose the last ones
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def control(self) -> Control:
        with self._transaction() as connection:
            return _control(connection)

    def set_control(self, control: Control) -> None:
        with self._transaction() as connection:
            connection.execute(_SET_CONTROL, asdict(control))

    def record(self, delivery: Delivery) -> Answer:
        """Keep the delivery and how it will be answered."""
        values = asdict(delivery)
        with self._transaction() as connection:
            (attempt,) = connection.execute(_NEXT_ATTEMPT, values).fetchone()
            answer = _answer(delivery, attempt, _control(connection))
            connection.execute(_INSERT, {**values, "attempt_number_seen": attempt, "answered": answer.status})
            return answer

    def received(self, query: Query) -> list[dict[str, Any]]:
        """Rows in order of arrival."""
        with self._transaction() as connection:
            rows = connection.execute(_LIST, asdict(query)).fetchall()
        return [{**row, "verified": bool(row["verified"])} for row in map(dict, rows)]

    def reset(self) -> None:
        """Forget everything received and answer as at first."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM received")
            connection.execute(_SET_CONTROL, asdict(Control()))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # some errors (a full disk) have ended it already
                    self._connection.execute("ROLLBACK")
                raise


def _control(connection: sqlite3.Connection) -> Control:
    return Control(**dict(connection.execute(_CONTROL).fetchone()))


def _answer(delivery: Delivery, attempt: int, control: Control) -> Answer:
    if not delivery.verified:
        return Answer(FORGED_STATUS, 0)
    # no secret is made of it
    fails = attempt <= control.fail_first or random.random() < control.fail_rate  # noqa: S311 - see above
    return Answer(FAILED_STATUS if fails else control.status, control.delay_ms)
