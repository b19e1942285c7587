"""The engine every service uses."""

import socket

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import InterfaceError as NetworkError
from waiting import wait_until

from bridge.storage.accept import make_statement_engine
from bridge.storage.engine import DatabaseSettings, _with_driver_errors, make_engine, wait_for_database
from bridge.storage.failures import is_passing, sqlstate
from bridge.storage.prepared import Prepared

pytestmark = pytest.mark.integration


def terminate(database, application_name):
    """End the server's side of these connections and wait until it has gone."""
    with database.engine.connect() as connection:
        named = {"name": application_name}
        there = text("SELECT pid FROM pg_stat_activity WHERE application_name = :name")
        connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = :name"),
            named,
        )
        connection.commit()

        def gone():
            found = connection.execute(there, named).all()
            connection.commit()
            return not found

        wait_until(gone, what="the end of the connections")


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


def test_a_socket_that_timed_out_was_no_error_of_the_database(database):
    """It went past whoever repeats or answers 503 while the database is away: SAP's answer was lost."""
    engine = make_engine(
        DatabaseSettings(database.url, None, None, None), pool_size=1, application_name="test-timeout"
    )
    with engine.connect() as connection:
        connection.connection.dbapi_connection._usock.settimeout(0.2)
        with pytest.raises(DBAPIError) as raised:
            connection.execute(text("SELECT pg_sleep(1)"))
    assert is_passing(raised.value)
    assert raised.value.connection_invalidated
    with engine.begin() as connection:
        assert connection.execute(text("SELECT 42")).scalar() == 42
    engine.dispose()


@pytest.mark.parametrize("cause", [TimeoutError("no answer"), RuntimeError("no certificate")])
def test_a_connection_that_the_connector_could_not_make_was_no_error_of_the_database(cause):
    def connect():
        raise cause

    engine = create_engine("postgresql+pg8000://", creator=_with_driver_errors(connect, Exception))
    with pytest.raises(DBAPIError) as raised:
        engine.connect()
    assert is_passing(raised.value)


def test_pool_notices_that_the_server_has_closed_a_connection(database):
    engine = make_engine(
        DatabaseSettings(database.url, None, None, None), pool_size=1, application_name="test-ping"
    )
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    terminate(database, "test-ping")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1
    engine.dispose()


def test_a_statement_engine_notices_it_after_the_connection_has_rested(database, monkeypatch):
    monkeypatch.setattr("bridge.storage.accept.TRUSTED_REST_SECONDS", 0.0)
    engine = make_statement_engine(
        DatabaseSettings(database.url, None, None, None), pool_size=1, application_name="test-rest"
    )
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    terminate(database, "test-rest")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1
    engine.dispose()


def test_a_prepared_statement_is_parsed_once_per_connection(database):
    prepared = Prepared(
        text("/* not a parameter: this; nor ::this */ SELECT CAST(:n AS int) + 1, CAST(:word AS text)")
    )
    with database.engine.connect() as connection:
        rows = [prepared.rows(connection, {"n": n, "word": word}) for n, word in ((1, "a:b"), (2, None))]
        assert rows == [[[2, "a:b"]], [[3, None]]]
        held = connection.execute(text("SELECT statement FROM pg_prepared_statements")).scalars().all()
    assert len(held) == 1


def test_a_prepared_statement_is_part_of_the_connections_transaction(database):
    with database.engine.begin() as connection:
        connection.execute(text("CREATE TABLE written (n int)"))
    write = Prepared(text("INSERT INTO written VALUES (:n) RETURNING n"))
    with database.engine.connect() as connection:
        write.rows(connection, {"n": 1})
        connection.rollback()
        write.rows(connection, {"n": 2})
        connection.commit()
        write.rows(connection, {"n": 3})
    with database.engine.connect() as connection:
        assert list(connection.execute(text("SELECT n FROM written")).scalars()) == [2]


def test_a_prepared_statement_on_a_connection_that_died_is_known_as_passing_and_the_next_one_works(database):
    select = Prepared(text("SELECT CAST(:n AS int)"))
    engine = make_statement_engine(
        DatabaseSettings(database.url, None, None, None), pool_size=1, application_name="test-death"
    )
    with engine.connect() as connection:
        select.rows(connection, {"n": 1})
        terminate(database, "test-death")
        with pytest.raises(DBAPIError) as raised:
            select.rows(connection, {"n": 1})
        assert raised.value.connection_invalidated
        assert is_passing(raised.value)
    with engine.connect() as connection:
        assert select.rows(connection, {"n": 1}) == [[1]]
    engine.dispose()


def test_a_columns_new_type_broke_a_prepared_statement_for_as_long_as_its_connection_lived(
    database,
):
    with database.engine.begin() as connection:
        connection.execute(text("CREATE TABLE written (n int)"))
    count = Prepared(text("SELECT n FROM written WHERE n < :n"))
    engine = make_statement_engine(
        DatabaseSettings(database.url, None, None, None), pool_size=1, application_name="test"
    )
    with engine.connect() as connection:
        count.rows(connection, {"n": 1})
    with database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE written ALTER n TYPE bigint"))
    with engine.connect() as connection:
        with pytest.raises(DBAPIError) as raised:
            count.rows(connection, {"n": 1})
        assert raised.value.connection_invalidated
        assert is_passing(raised.value)
    with engine.connect() as connection:
        assert count.rows(connection, {"n": 1}) == []
    engine.dispose()


def test_a_prepared_statement_that_the_server_refuses_says_why_and_shows_no_parameter(database):
    divide = Prepared(text("SELECT 1 / CAST(:n AS int)"))
    with database.engine.connect() as connection:
        divide.rows(connection, {"n": 1})
        with pytest.raises(DBAPIError) as raised:
            divide.rows(connection, {"n": 0})
    assert sqlstate(raised.value) == "22012"
    assert not raised.value.connection_invalidated
    assert "SELECT 1 / CAST($1 AS int)" in str(raised.value)


def test_a_job_goes_on_trying_while_its_network_is_not_there_yet(postgres_server, tmp_path):
    """Direct VPC egress may take a minute to connect; a job used to end with its first error."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        # bound and not listening: refused
        url = make_url(postgres_server.url("postgres")).set(host="127.0.0.1", port=port)
        settings = DatabaseSettings(url.render_as_string(hide_password=False), None, None, None)
        engine = make_engine(settings, pool_size=1, application_name="job")
        waits = []
        with pytest.raises(NetworkError):
            wait_for_database(engine, patience_seconds=0.5, wait=waits.append)
        assert waits == []

        def arrive(seconds):
            waits.append(seconds)
            if len(waits) == 3:
                raise _ArrivedError

        there = make_engine(
            DatabaseSettings(postgres_server.url("postgres"), None, None, None),
            pool_size=1,
            application_name="job",
        )
        with pytest.raises(_ArrivedError):
            wait_for_database(engine, patience_seconds=60, wait=arrive)
        assert len(waits) == 3
        wait_for_database(there, patience_seconds=0.5, wait=waits.append)
        assert len(waits) == 3
        engine.dispose()
        there.dispose()


class _ArrivedError(Exception):
    """The third try is the last that this test needs."""
