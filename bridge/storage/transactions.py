"""Where a transaction begins and ends, for engines that are used in the other way as well."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from sqlalchemy import Connection, Engine, text

BEGIN = text("BEGIN /* the driver is in autocommit: say where the transaction starts */")

SET_LOCK_TIMEOUT = text("""
    /* until the transaction ends: how long a statement waits for a lock */
    SELECT set_config('lock_timeout', CAST(:milliseconds AS text), true)
""")


READ_AS_OF_ONE_MOMENT = text("""
    /* all that follows sees what was committed before it, and nothing later */
    SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY
""")


@contextmanager
def transaction(engine: Engine, *, lock_timeout_milliseconds: int | None = None) -> Iterator[Connection]:
    """Commit at the end, roll back on any exception. `engine` is one of `make_statement_engine`."""
    with engine.begin() as connection:
        connection.execute(BEGIN)
        if lock_timeout_milliseconds is not None:
            connection.execute(SET_LOCK_TIMEOUT, {"milliseconds": str(lock_timeout_milliseconds)})
        yield connection


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """Have several statements read as of one moment, on an engine of either kind. Nothing can be written."""
    with engine.begin() as connection:
        if cast("Any", connection.connection.dbapi_connection).autocommit:
            connection.execute(BEGIN)
        connection.execute(READ_AS_OF_ONE_MOMENT)
        yield connection


@contextmanager
def single_statements(engine: Engine) -> Iterator[Connection]:
    """For prepared statements that each are a transaction of their own: one round trip, no BEGIN, no COMMIT.

    `engine` is one of `make_engine`. It is the driver's switch that is used: SQLAlchemy's own setting of the
    isolation level costs two statements whenever the connection goes back to the pool.
    """
    with engine.connect() as connection:
        driver = cast("Any", connection.connection.dbapi_connection)
        driver.autocommit = True
        try:
            yield connection
        finally:
            driver.autocommit = False
