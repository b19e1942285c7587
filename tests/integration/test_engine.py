"""The engine every service uses."""

import pytest
from sqlalchemy import text

from bridge.storage.engine import DatabaseSettings, make_engine

pytestmark = pytest.mark.integration


def test_autocommit_write_on_a_connection_from_the_pool_is_committed(database):
    """The pool's ping had left a transaction open: a payment was answered with 202 and rolled back."""
    with database.engine.begin() as connection:
        connection.execute(text("CREATE TABLE written (n int)"))
    engine = make_engine(
        DatabaseSettings(database.url, None, None, None), pool_size=1, application_name="test"
    )
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    for n in range(3):
        with autocommit.connect() as connection:
            connection.execute(text("INSERT INTO written VALUES (:n)"), {"n": n})
    engine.dispose()
    with database.engine.connect() as connection:
        assert list(connection.execute(text("SELECT n FROM written ORDER BY n")).scalars()) == [0, 1, 2]


def test_pool_notices_that_the_server_has_closed_a_connection(database):
    engine = make_engine(
        DatabaseSettings(database.url, None, None, None), pool_size=1, application_name="test-ping"
    )
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    with database.engine.begin() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'test-ping'"
            )
        )
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1
    engine.dispose()
