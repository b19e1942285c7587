"""An engine that prepares its statements: it answers as any other, and outlives what they are planned for."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError
from waiting import wait_until

from bridge.storage import prepared_engine
from bridge.storage.engine import DatabaseSettings, make_engine
from bridge.storage.failures import is_passing, sqlstate

pytestmark = pytest.mark.integration

HELD = text("SELECT statement FROM pg_prepared_statements")


@pytest.fixture
def engine(database):
    with database.engine.begin() as connection:
        connection.execute(text("CREATE TABLE written (n int PRIMARY KEY, words text[], at timestamptz)"))
    engine = make_engine(
        DatabaseSettings(database.url, None, None, None), pool_size=1, application_name="test", prepared=True
    )
    yield engine
    engine.dispose()


def write(connection, n, words=None):
    statement = text("INSERT INTO written (n, words) VALUES (:n, CAST(:words AS text[]))")
    return connection.execute(statement, {"n": n, "words": words}).rowcount


def test_rows_names_and_counts_are_those_of_any_engine(engine):
    with engine.begin() as connection:
        assert write(connection, 1, ["a:b", "100 %"]) == 1
        assert write(connection, 2) == 1
        rows = connection.execute(
            text("SELECT n, words, mod(n, 2) AS odd FROM written WHERE n <= :n ORDER BY n"), {"n": 9}
        ).all()
        assert [(row.n, row.words, row.odd) for row in rows] == [(1, ["a:b", "100 %"], 1), (2, None, 0)]
        changed = connection.execute(text("UPDATE written SET words = '{}' WHERE n < :n"), {"n": 9})
        assert changed.rowcount == 2
        assert connection.execute(text("SELECT n FROM written WHERE n = :n"), {"n": 7}).first() is None


def test_a_statement_is_parsed_once_per_connection(engine):
    for n in range(4):
        with engine.begin() as connection:
            write(connection, n)
    with engine.begin() as connection:
        held = connection.execute(HELD).scalars().all()
    assert sum("INSERT" in statement for statement in held) == 1


def test_each_transaction_left_one_more_commit_prepared_on_its_connection(engine):
    """The server kept them all, and the driver looked through them for a free name before each next one."""
    for n in range(5):
        with engine.begin() as connection:
            write(connection, n)
    with engine.begin() as connection:
        held = connection.execute(HELD).scalars().all()
    assert held.count("commit") == 1
    assert held.count("begin transaction") == 1


def test_what_is_rolled_back_is_gone_and_the_first_statement_is_in_the_transaction(engine, database):
    for _ in range(2):  # prepared at the first, sent with its BEGIN in one message at the second
        with engine.connect() as connection:
            write(connection, 1)
            connection.rollback()
    with engine.connect() as connection:
        write(connection, 1)
        with database.engine.connect() as other:
            assert other.execute(text("SELECT count(*) FROM written")).scalar() == 0
        connection.commit()
    with database.engine.connect() as other:
        assert other.execute(text("SELECT count(*) FROM written")).scalar() == 1


def test_an_error_is_the_databases_own_and_the_connection_goes_on(engine):
    with engine.begin() as connection:
        write(connection, 1)
    for _ in range(2):
        with pytest.raises((IntegrityError, ProgrammingError)) as raised, engine.begin() as connection:
            write(connection, 1)
        assert sqlstate(raised.value) == "23505"
        assert not raised.value.connection_invalidated
    with engine.begin() as connection:
        assert write(connection, 2) == 1


def test_a_commit_that_the_database_refuses_is_an_error(engine, database):
    """A deferred constraint is checked then: nobody may take the transaction for committed."""
    with database.engine.begin() as connection:
        connection.execute(
            text("ALTER TABLE written ADD CONSTRAINT late UNIQUE (words) DEFERRABLE INITIALLY DEFERRED")
        )

    def write_two(n):
        with engine.begin() as connection:
            write(connection, n, ["same"])
            write(connection, n + 1, ["same"])

    for n in (1, 3):
        with pytest.raises(IntegrityError) as raised:
            write_two(n)
        assert sqlstate(raised.value) == "23505"
    with engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM written")).scalar() == 0


def test_a_transaction_that_has_failed_is_not_taken_for_committed(engine):
    with engine.connect() as connection:
        write(connection, 1)
        with pytest.raises(IntegrityError):
            write(connection, 1)
        with pytest.raises(DBAPIError):
            connection.commit()
    with engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM written")).scalar() == 0


def test_a_column_added_under_a_prepared_statement_broke_it_for_as_long_as_the_connection_lived(
    engine, database
):
    everything = text("SELECT * FROM written WHERE n = :n")
    with engine.begin() as connection:
        write(connection, 1)
        connection.execute(everything, {"n": 1}).one()
    with database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE written ADD COLUMN more int"))
    with pytest.raises(DBAPIError) as raised, engine.begin() as connection:
        connection.execute(everything, {"n": 1})
    assert is_passing(raised.value)
    assert raised.value.connection_invalidated
    with engine.begin() as connection:
        assert connection.execute(everything, {"n": 1}).one().more is None


def test_a_plan_made_for_an_empty_table_read_all_of_it_when_it_was_full(engine, database):
    find = text("SELECT n FROM written WHERE n = :n")
    with engine.begin() as connection:
        for _ in range(8):  # past the five that are planned for their parameters
            connection.execute(find, {"n": 1})
    with database.engine.begin() as connection:
        connection.execute(text("INSERT INTO written SELECT generate_series(1, 20000)"))
    with engine.begin() as connection:
        connection.execute(find, {"n": 1})
        read = text("SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'written'")
        assert connection.execute(read).scalar() == 0


def test_no_plan_is_compiled_or_shared_out_for_what_it_is_said_to_cost(engine):
    """PostgreSQL 17 did both at every look for what is due: it has one table too small for an index.

    The server of these tests is 18, whose costs are true; so only what holds for each of them is looked at.
    """
    names = ("enable_seqscan", "jit", "max_parallel_workers_per_gather")
    with engine.begin() as connection:
        settings = [connection.execute(text(f"SHOW {name}")).scalar() for name in names]
    assert settings == ["off", "off", "0"]


def test_a_connection_that_died_while_it_rested_is_replaced(engine, database, monkeypatch):
    monkeypatch.setattr(prepared_engine, "TRUSTED_REST_SECONDS", 0.0)
    with engine.begin() as connection:
        write(connection, 1)
    ours = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'test'")
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'test'")
        )
        wait_until(lambda: connection.execute(ours).scalar() == 0, what="the end of the connection")
    with engine.begin() as connection:
        assert write(connection, 2) == 1


def test_more_statements_than_are_kept_are_run_all_the_same(engine, monkeypatch):
    monkeypatch.setattr(prepared_engine, "MAX_STATEMENTS", 2)
    with engine.begin() as connection:
        for number in range(5):
            found = connection.execute(text(f"SELECT {number} + CAST(:n AS int)"), {"n": 1})
            assert found.scalar() == number + 1
        assert len(connection.execute(HELD).all()) <= 2
