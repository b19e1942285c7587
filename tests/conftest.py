"""A real PostgreSQL for every test that asks for one: `database` is a fresh, migrated database of its own.

Tests commit as they like; nothing is rolled back behind them.
"""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager

import hypothesis
import pytest
from databases import Database, local_engine
from plain_logs import log_plainly
from scratch import scratch_folder
from sqlalchemy import Connection, text

from devstack.logins import create_database, create_logins
from devstack.postgres import Postgres, free_port

# On a busy machine an example may take long, and so may making one: that says nothing about the code.
hypothesis.settings.register_profile(
    "bridge", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("bridge")

# A test that calls make gets the same answer whether or not make runs the tests, with whatever flags.
for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"):
    os.environ.pop(name, None)

log_plainly()

TEMPLATE = "migrated_template"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """One PostgreSQL for the whole run, thrown away afterwards."""
    with (
        scratch_folder("bridge-postgres-") as folder,
        Postgres(folder / "data", free_port(), durable=False).running(folder / "log") as server,
    ):
        yield server


@pytest.fixture(scope="session")
def migrated_template(postgres_server) -> str:
    """The name of a database with all migrations applied, to copy from."""
    from bridge.storage.migrate import upgrade  # noqa: PLC0415 - only tests that want a database need it

    create_database(postgres_server.url("postgres"), TEMPLATE)
    upgrade(postgres_server.url(TEMPLATE))
    create_logins(postgres_server.url(TEMPLATE))
    return TEMPLATE


@pytest.fixture(scope="session")
def maintenance(postgres_server, migrated_template) -> Iterator[Connection]:
    """What makes and drops the databases: one connection, a new one for each would be most of their cost."""
    engine = local_engine(postgres_server.url("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture(scope="session")
def shared_stack():
    """One local stack for all the modules of a worker that leave it as they found it."""
    from local_stack import private_stack  # noqa: PLC0415 - only tests that want a stack need it

    with private_stack() as running:
        yield running


@pytest.fixture(scope="module")
def stack(request):
    """A local stack: the module's own where it is marked `plants_faults`, otherwise the shared one.

    A fault may outlive its mending: what the services have decided while it was there stays decided.
    """
    from local_stack import private_stack  # noqa: PLC0415 - only tests that want a stack need it

    if request.node.get_closest_marker("plants_faults") is None:
        yield request.getfixturevalue("shared_stack")
        return
    with private_stack() as running:
        yield running


@pytest.fixture
def database(postgres_server, maintenance) -> Iterator[Database]:
    with _fresh_database(postgres_server, maintenance) as made:
        yield made


@pytest.fixture(scope="module")
def module_database(postgres_server, maintenance) -> Iterator[Database]:
    """One database for all the tests of a module."""
    with _fresh_database(postgres_server, maintenance) as made:
        yield made


@contextmanager
def _fresh_database(postgres_server: Postgres, maintenance: Connection) -> Iterator[Database]:
    name = f"test_{next(_numbers)}"
    # its files are copied: half the work of the default, which writes page by page through the log
    maintenance.execute(text(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY"))
    url = postgres_server.url(name)
    engine = local_engine(url)
    try:
        yield Database(url, engine)
    finally:
        engine.dispose()
        maintenance.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
