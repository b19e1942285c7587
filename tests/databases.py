"""A migrated database as tests use it, with the rights that each service has in production."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, create_engine

from bridge.storage.engine import DatabaseSettings, make_engine
from devstack.logins import login_of, url_as

WITH_PREPARED_STATEMENTS = ("dispatcher", "sap_adapter", "webhooks")


@dataclass(frozen=True)
class Database:
    """`url` and `engine` are the owner's; `url_for("gateway")` logs in with that service's rights only."""

    url: str
    engine: Engine

    def url_for(self, role):
        return url_as(self.url, login_of(role))

    def engine_for(self, role: str) -> Engine:
        """The engine that the role has in production; whoever asks for it disposes of it."""
        settings = DatabaseSettings(self.url_for(role), None, None, None)
        return make_engine(
            settings, pool_size=10, application_name=role, prepared=role in WITH_PREPARED_STATEMENTS
        )


def local_engine(url: str, **options: Any) -> Engine:
    # the driver would load all of the system's certificates for each connection, to be told that TLS is off
    no_tls = {"ssl_context": False}
    return create_engine(url, connect_args=no_tls, hide_parameters=True, pool_size=20, **options)
