"""Several statements in one transaction on an engine whose statements are transactions of their own."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, text

BEGIN = text("BEGIN /* the driver is in autocommit: say where the transaction starts */")

SET_LOCK_TIMEOUT = text("""
    /* until the transaction ends: how long a statement waits for a lock */
    SELECT set_config('lock_timeout', CAST(:milliseconds AS text), true)
""")


@contextmanager
def transaction(engine: Engine, *, lock_timeout_milliseconds: int | None = None) -> Iterator[Connection]:
    """Commit at the end, roll back on any exception. `engine` is one of `make_statement_engine`."""
    with engine.begin() as connection:
        connection.execute(BEGIN)
        if lock_timeout_milliseconds is not None:
            connection.execute(SET_LOCK_TIMEOUT, {"milliseconds": str(lock_timeout_milliseconds)})
        yield connection
