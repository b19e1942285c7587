"""Queues, tasks and the names of gone tasks in one SQLite file.

Every change is committed before its caller is answered, so a kill -9 loses nothing (WAL with
synchronous=NORMAL keeps committed changes through the death of the process; only a power cut could lose the
last ones).
Times are integer microseconds since 1970 UTC.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devstack.cloud_tasks import protos
from devstack.cloud_tasks.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError
from devstack.cloud_tasks.names import queue_of
from devstack.cloud_tasks.protos import MICROSECONDS, Message

BUSY_TIMEOUT_SECONDS = 5.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS queues (name TEXT PRIMARY KEY, message BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tasks (
    name TEXT PRIMARY KEY,
    queue TEXT NOT NULL REFERENCES queues ON DELETE CASCADE,
    due_at INTEGER NOT NULL,
    dispatched INTEGER NOT NULL,
    executions INTEGER NOT NULL,
    message BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS tasks_waiting ON tasks (queue, due_at) WHERE NOT dispatched;
CREATE TABLE IF NOT EXISTS gone_names (
    name TEXT PRIMARY KEY,
    queue TEXT NOT NULL REFERENCES queues ON DELETE CASCADE,
    gone_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS gone_names_by_age ON gone_names (gone_at);
CREATE INDEX IF NOT EXISTS gone_names_by_queue ON gone_names (queue);
"""


class Store:
    """Thread-safe. `dedupe_seconds` is how long the name of a gone task stays taken.

    Raises sqlite3.Error when the file can't be read or written.
    """

    def __init__(self, path: Path, *, dedupe_seconds: float) -> None:
        self._dedupe_microseconds = int(dedupe_seconds * MICROSECONDS)
        self._lock = threading.Lock()
        self._queues: list[Message] | None = None
        self._connection = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute("PRAGMA foreign_keys = ON")
        self._connection.executescript(_SCHEMA)
        # what was on its way when the last process died goes out again
        self._connection.execute("UPDATE tasks SET dispatched = 0 WHERE dispatched")

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    # queues

    def add_queue(self, queue: Message) -> None:
        with self._transaction() as connection:
            self._queues = None
            added = connection.execute(
                "INSERT INTO queues VALUES (?, ?) ON CONFLICT DO NOTHING",
                (queue.name, queue.SerializeToString()),
            )
            if not added.rowcount:
                raise AlreadyExistsError("Queue already exists")

    def queue(self, name: str) -> Message:
        with self._transaction() as connection:
            return _queue(connection, name)

    def queues(self, location: str, after: str, limit: int) -> list[Message]:
        """Queues of a location by name, those after the name `after`."""
        prefix = f"{location}/queues/"
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT message FROM queues WHERE name > ? AND substr(name, 1, ?) = ? ORDER BY name LIMIT ?",
                (max(after, prefix), len(prefix), prefix, limit),
            )
            return [protos.Queue.FromString(message) for (message,) in rows]

    def all_queues(self) -> list[Message]:
        """By name; nobody else writes the file, so they are read again only after a change of theirs."""
        with self._transaction() as connection:
            if self._queues is None:
                rows = connection.execute("SELECT message FROM queues ORDER BY name")
                self._queues = [protos.Queue.FromString(message) for (message,) in rows]
            return list(self._queues)

    def set_queue_state(self, name: str, state: int) -> Message:
        with self._transaction() as connection:
            self._queues = None
            queue = _queue(connection, name)
            queue.state = state
            _save_queue(connection, queue)
            return queue

    def purge_queue(self, name: str, now: int) -> Message:
        """Drop all tasks of the queue; their names stay taken for a while."""
        with self._transaction() as connection:
            self._queues = None
            queue = _queue(connection, name)
            connection.execute(
                "INSERT OR REPLACE INTO gone_names SELECT name, queue, ? FROM tasks WHERE queue = ?",
                (now, name),
            )
            connection.execute("DELETE FROM tasks WHERE queue = ?", (name,))
            queue.purge_time.CopyFrom(protos.to_timestamp(now))
            _save_queue(connection, queue)
            return queue

    def delete_queue(self, name: str) -> None:
        """With all it holds; a queue made again under the name starts afresh."""
        with self._transaction() as connection:
            self._queues = None
            _queue(connection, name)
            connection.execute("DELETE FROM queues WHERE name = ?", (name,))

    # tasks

    def add_task(self, task: Message, now: int) -> None:
        queue_name = queue_of(task.name)
        with self._transaction() as connection:
            try:
                _queue(connection, queue_name)
            except NotFoundError as error:  # Google answers CreateTask otherwise than the calls on queues
                raise FailedPreconditionError("Queue does not exist.") from error
            gone = connection.execute(
                "SELECT 1 FROM gone_names WHERE name = ? AND gone_at > ?",
                (task.name, now - self._dedupe_microseconds),
            ).fetchone()
            if gone:
                raise AlreadyExistsError(
                    "The task cannot be created because a task with this name existed too recently."
                )
            added = connection.execute(
                "INSERT INTO tasks VALUES (?, ?, ?, 0, 0, ?) ON CONFLICT DO NOTHING",
                (task.name, queue_name, protos.to_microseconds(task.schedule_time), task.SerializeToString()),
            )
            if not added.rowcount:
                raise AlreadyExistsError("Task already exists")

    def task(self, name: str) -> Message:
        with self._transaction() as connection:
            return _task(connection, name)

    def tasks(self, queue_name: str, after: str, limit: int) -> list[Message]:
        """Tasks of a queue by name, those after the name `after`."""
        with self._transaction() as connection:
            _queue(connection, queue_name)
            rows = connection.execute(
                "SELECT message FROM tasks WHERE queue = ? AND name > ? ORDER BY name LIMIT ?",
                (queue_name, after, limit),
            )
            return [protos.Task.FromString(message) for (message,) in rows]

    def delete_task(self, name: str, now: int) -> None:
        """Its name stays taken for a while."""
        with self._transaction() as connection:
            _task(connection, name)
            _forget(connection, name, now)

    # attempts

    def next_due_at(self, queue_name: str) -> int | None:
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT min(due_at) FROM tasks WHERE queue = ? AND NOT dispatched", (queue_name,)
            ).fetchone()
            return None if row[0] is None else int(row[0])

    def start_attempts(self, queue_name: str, now: int, limit: int) -> list[tuple[Message, int]]:
        """Mark up to `limit` due tasks as dispatched, the longest due first: (task, executions so far)."""
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT message, executions FROM tasks WHERE queue = ? AND NOT dispatched AND due_at <= ?"
                " ORDER BY due_at LIMIT ?",
                (queue_name, now, limit),
            ).fetchall()
            started = []
            for message, executions in rows:
                task = protos.Task.FromString(message)
                task.dispatch_count += 1
                task.last_attempt.Clear()
                task.last_attempt.schedule_time.CopyFrom(task.schedule_time)
                task.last_attempt.dispatch_time.CopyFrom(protos.to_timestamp(now))
                if task.dispatch_count == 1:
                    task.first_attempt.dispatch_time.CopyFrom(protos.to_timestamp(now))
                connection.execute(
                    "UPDATE tasks SET dispatched = 1, message = ? WHERE name = ?",
                    (task.SerializeToString(), task.name),
                )
                started.append((task, executions))
            return started

    def finish_task(self, task: Message, now: int) -> None:
        """The task is done or given up. Nothing happens if it was deleted meanwhile."""
        with self._transaction() as connection:
            if _is_still_running(connection, task):
                _forget(connection, task.name, now)

    def retry_task(self, task: Message, due_at: int, executions: int) -> None:
        """Store the task as its failed attempt left it. Nothing happens if it was deleted meanwhile."""
        with self._transaction() as connection:
            if _is_still_running(connection, task):
                connection.execute(
                    "UPDATE tasks SET dispatched = 0, due_at = ?, executions = ?, message = ? WHERE name = ?",
                    (due_at, executions, task.SerializeToString(), task.name),
                )

    def release_old_names(self, now: int) -> None:
        with self._transaction() as connection:
            connection.execute(
                "DELETE FROM gone_names WHERE gone_at <= ?", (now - self._dedupe_microseconds,)
            )

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


def _queue(connection: sqlite3.Connection, name: str) -> Message:
    row = connection.execute("SELECT message FROM queues WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise NotFoundError("Queue does not exist.")
    return protos.Queue.FromString(row[0])


def _save_queue(connection: sqlite3.Connection, queue: Message) -> None:
    connection.execute(
        "UPDATE queues SET message = ? WHERE name = ?", (queue.SerializeToString(), queue.name)
    )


def _task(connection: sqlite3.Connection, name: str) -> Message:
    row = connection.execute("SELECT message FROM tasks WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise NotFoundError("The task does not exist or is gone.")
    return protos.Task.FromString(row[0])


def _is_still_running(connection: sqlite3.Connection, task: Message) -> bool:
    """False when the task was deleted, or deleted and created again, while its attempt ran."""
    try:
        stored = _task(connection, task.name)
    except NotFoundError:
        return False
    return bool(stored.dispatch_count == task.dispatch_count and stored.create_time == task.create_time)


def _forget(connection: sqlite3.Connection, name: str, now: int) -> None:
    connection.execute("DELETE FROM tasks WHERE name = ?", (name,))
    connection.execute("INSERT OR REPLACE INTO gone_names VALUES (?, ?, ?)", (name, queue_of(name), now))
