"""Login users for the service roles of the migrations, and the database itself, on the local cluster.

The migrations create the roles NOLOGIN (in production each is granted to a service account). Here every role
gets a user `<role>_login`, so that each service connects with its own rights and never as the owner.
"""

from typing import Any

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

ROLES = (
    *("gateway", "dispatcher", "dead_letters", "sap_adapter", "webhooks"),
    *("partners", "backoffice", "retention", "recovery"),
)


def login_of(role: str) -> str:
    return f"{role}_login"


def create_database(maintenance_url: str, name: str, *, template: str = "template1") -> None:
    """Create the database if it is missing. `maintenance_url` points at another database, as a superuser."""
    engine = _local_engine(maintenance_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        exists = text("SELECT 1 FROM pg_database WHERE datname = :name")
        if connection.execute(exists, {"name": name}).scalar() is None:
            quote = connection.dialect.identifier_preparer.quote
            connection.execute(text(f"CREATE DATABASE {quote(name)} TEMPLATE {quote(template)}"))


def drop_database(maintenance_url: str, name: str) -> None:
    """Drop the database and throw out whoever is connected to it."""
    engine = _local_engine(maintenance_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        quote = connection.dialect.identifier_preparer.quote
        connection.execute(text(f"DROP DATABASE IF EXISTS {quote(name)} WITH (FORCE)"))


def create_logins(owner_url: str) -> None:
    """Create `<role>_login` for every role the migrations have made. Repeating it changes nothing."""
    engine = _local_engine(owner_url)
    with engine.begin() as connection:
        quote = connection.dialect.identifier_preparer.quote
        known = set(connection.execute(text("SELECT rolname FROM pg_roles")).scalars())
        for role in ROLES:
            if role in known and login_of(role) not in known:
                connection.execute(
                    text(f"CREATE ROLE {quote(login_of(role))} LOGIN INHERIT IN ROLE {quote(role)}")
                )


def _local_engine(url: str, **options: Any) -> Engine:
    # before the driver asks a server for TLS, it loads all of the system's certificates: 0.1 s a connection
    return create_engine(url, poolclass=NullPool, connect_args={"ssl_context": False}, **options)


def url_as(url: str, user: str) -> str:
    """The same database seen by another user."""
    return make_url(url).set(username=user).render_as_string(hide_password=False)
