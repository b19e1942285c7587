"""A real PostgreSQL for every test that asks for one: `database` is a fresh, migrated database of its own.

Tests commit as they like; nothing is rolled back behind them.
"""

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine

from devstack.logins import create_database, create_logins, drop_database, login_of, url_as
from devstack.postgres import Postgres, free_port

TEMPLATE = "migrated_template"
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Database:
    """`url` and `engine` are the owner's; `url_for("gateway")` logs in with that service's rights only."""

    url: str
    engine: Engine

    def url_for(self, role):
        return url_as(self.url, login_of(role))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """One PostgreSQL for the whole run, thrown away afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="bridge-postgres-"))
    folder.chmod(0o711)  # as root the server runs as another account that has to get in
    try:
        with Postgres(folder / "data", free_port(), durable=False).running(folder / "log") as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def migrated_template(postgres_server) -> str:
    """The name of a database with all migrations applied, to copy from."""
    from bridge.storage.migrate import upgrade  # noqa: PLC0415 - only tests that want a database need it

    create_database(postgres_server.url("postgres"), TEMPLATE)
    upgrade(postgres_server.url(TEMPLATE))
    create_logins(postgres_server.url(TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database(postgres_server, migrated_template) -> Iterator[Database]:
    with _fresh_database(postgres_server, migrated_template) as made:
        yield made


@pytest.fixture(scope="module")
def module_database(postgres_server, migrated_template) -> Iterator[Database]:
    """One database for all the tests of a module."""
    with _fresh_database(postgres_server, migrated_template) as made:
        yield made


@contextmanager
def _fresh_database(postgres_server: Postgres, template: str) -> Iterator[Database]:
    name = f"test_{next(_numbers)}"
    create_database(postgres_server.url("postgres"), name, template=template)
    url = postgres_server.url(name)
    engine = create_engine(url, hide_parameters=True, pool_size=20)
    try:
        yield Database(url, engine)
    finally:
        engine.dispose()
        drop_database(postgres_server.url("postgres"), name)
