"""The one way to PostgreSQL: a plain DSN locally, the Cloud SQL Python Connector with IAM in production."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pg8000 import InterfaceError
from pg8000.exceptions import Error as DriverError
from sqlalchemy import URL, Engine, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.exc import InterfaceError as NetworkError

from bridge.errors import SettingsError
from bridge.storage.database_clock import DatabaseClock, compare_clocks
from bridge.storage.prepared_engine import PLANNING, prepare_statements

POOL_RECYCLE_SECONDS = 1800
POOL_TIMEOUT_SECONDS = 5.0
# pg8000 keeps the connect timeout as the socket's: it must outlast the longest statement.
SOCKET_TIMEOUT_SECONDS = 15.0
STATEMENT_TIMEOUT_MILLISECONDS = 10_000
IDLE_IN_TRANSACTION_TIMEOUT_MILLISECONDS = 15_000
# how long a job goes on trying to connect
PATIENCE_SECONDS = 120.0
PAUSE_SECONDS = 2.0
LOOPBACK = ("127.0.0.1", "::1", "localhost")

PING = text("/* is the database there? */ SELECT 1")


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """Either `url`, or `cloud_sql_instance` (project:region:name) with an IAM `user` and database `name`."""

    url: str | None
    cloud_sql_instance: str | None
    user: str | None
    name: str | None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "DatabaseSettings":
        """Read DATABASE_URL, or CLOUD_SQL_INSTANCE with DATABASE_USER and DATABASE_NAME."""
        settings = cls(
            url=environ.get("DATABASE_URL"),
            cloud_sql_instance=environ.get("CLOUD_SQL_INSTANCE"),
            user=environ.get("DATABASE_USER"),
            name=environ.get("DATABASE_NAME"),
        )
        if settings.url:
            try:
                make_url(settings.url)
            except ArgumentError as error:
                raise SettingsError("DATABASE_URL is not a database URL") from error
        elif not (settings.cloud_sql_instance and settings.user and settings.name):
            raise SettingsError(
                "set DATABASE_URL, or CLOUD_SQL_INSTANCE with DATABASE_USER and DATABASE_NAME"
            )
        return settings


def make_engine(
    settings: DatabaseSettings,
    *,
    pool_size: int,
    application_name: str,
    pre_ping: bool = True,
    prepared: bool = False,
    clock: DatabaseClock | None = None,
) -> Engine:
    """Return an engine with `pool_size` connections at most; it connects at first use (so: after fork).

    `clock` is compared with the database's by these connections.

    `hide_parameters` keeps party data out of error messages and logs. `prepared`: for a service whose
    statements are a fixed set, each of which is then parsed and planned once per connection.
    """
    options: dict[str, Any] = {
        "pool_size": pool_size,
        "max_overflow": 0,
        "pool_timeout": POOL_TIMEOUT_SECONDS,
        "pool_pre_ping": pre_ping,
        "pool_recycle": POOL_RECYCLE_SECONDS,
        "pool_use_lifo": True,
        "hide_parameters": True,
    }
    startup = {
        "statement_timeout": str(STATEMENT_TIMEOUT_MILLISECONDS),
        "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_TIMEOUT_MILLISECONDS),
        "TimeZone": "UTC",
        **(PLANNING if prepared else {}),
    }
    if settings.url:
        url: URL = make_url(settings.url)
        connect_args = {
            "application_name": application_name,
            "timeout": SOCKET_TIMEOUT_SECONDS,
            "tcp_keepalive": True,
            "startup_params": startup,
            # Before it asks a server whether it has TLS, the driver loads all of the system's certificates.
            "ssl_context": False if url.host in LOOPBACK else None,
        }
        return _adapted(create_engine(url, connect_args=connect_args, **options), prepared, clock)
    # Imported here: a service on a plain DSN does not pay for the connector at start.
    from bridge.gcp.sql import cloud_sql_creator  # noqa: PLC0415

    engine = create_engine(
        "postgresql+pg8000://",
        # The connector has errors of its own, and those of the libraries that it asks for certificates.
        creator=_with_driver_errors(
            cloud_sql_creator(
                settings.cloud_sql_instance or "",
                user=settings.user or "",
                database=settings.name or "",
                application_name=application_name,
                startup_params=startup,
                timeout_seconds=SOCKET_TIMEOUT_SECONDS,
            ),
            Exception,
        ),
        **options,
    )
    return _adapted(engine, prepared, clock)


def _adapted(engine: Engine, prepared: bool, clock: DatabaseClock | None) -> Engine:
    """Have every failure of the connection raised as the driver's, and the pool's ping open no transaction.

    pg8000 lets a socket that times out raise as it is: nobody who waits for the database's errors would see
    it, and the pool would keep the connection.

    pg8000 would begin one for it, SQLAlchemy would leave it open, and whoever then asks for AUTOCOMMIT would
    run in it: nobody commits it, and the return to the pool rolls back what was written.
    """

    def do_ping(dbapi_connection: Any) -> bool:
        before = dbapi_connection.autocommit
        dbapi_connection.autocommit = True
        try:
            cursor = dbapi_connection.cursor()
            cursor.execute(";")
            cursor.close()
        finally:
            dbapi_connection.autocommit = before
        return True

    engine.dialect.do_ping = do_ping  # type: ignore[method-assign]
    if prepared:
        prepare_statements(engine)
    if clock is not None:
        compare_clocks(engine, clock)
        clock.ask_by(lambda: ping(engine))
    for name in ("connect", "do_ping", "do_execute", "do_commit", "do_rollback"):
        setattr(engine.dialect, name, _with_driver_errors(getattr(engine.dialect, name), OSError))
    return engine


def _with_driver_errors(function: Callable[..., Any], kind: type[Exception]) -> Callable[..., Any]:
    """Raise errors of `kind` as a network error of the driver, which tells SQLAlchemy that it is gone."""

    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except DriverError:
            raise
        except kind as error:
            raise InterfaceError(f"network error ({type(error).__name__})") from error

    return call


def ping(engine: Engine) -> None:
    """Raise unless the database answers."""
    with engine.connect() as connection:
        connection.execute(PING)


def wait_for_database(
    engine: Engine,
    *,
    patience_seconds: float = PATIENCE_SECONDS,
    wait: Callable[[float], object] = time.sleep,
) -> None:
    """Return once the database can be reached; raise its last error if it can't within `patience_seconds`.

    For jobs, which end with their first error: Direct VPC egress may need more than a minute to connect.
    https://cloud.google.com/run/docs/configuring/vpc-direct-vpc
    """
    give_up_at_seconds = time.monotonic() + patience_seconds
    while True:
        try:
            return ping(engine)
        except NetworkError:
            if time.monotonic() + PAUSE_SECONDS > give_up_at_seconds:
                raise
        wait(PAUSE_SECONDS)
