"""Bring a database to the newest schema: `python -m bridge.storage.migrate` (a job in production).

Settings: those of bridge.storage.engine, and

- SAP_SYSTEMS, a JSON object of SAP system id to hard cap (calls at once), e.g. {"s4-main": 8}; systems are
  only ever added here, operators change the cap later;
- DATABASE_OWNER, the role that everything is made as and belongs to, so that it does not matter who migrates;
- DATABASE_LOGINS, a JSON object of role (0001_grants.sql) to the login that gets it.
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from bridge.environment import only_check
from bridge.errors import SettingsError
from bridge.storage.engine import DatabaseSettings, make_engine, wait_for_database
from bridge.storage.lane_control import MAX_HARD_CAP_CALLS

LOCK_TIMEOUT = "5s"
# Two deployments may start the job at once; the second waits for the first (an arbitrary, fixed key).
ADVISORY_LOCK_KEY = 7_203_114

AUDIT_EXTENSION = "pgaudit"
IS_AVAILABLE = text("""
    /* does this server offer an extension? */
    SELECT 1 FROM pg_available_extensions WHERE name = :name
""")
INSERT_SAP_SYSTEM = text("""
    /* add a lane with its window open to the cap; an existing lane keeps what operators made of it */
    INSERT INTO sap_systems (sap_system, hard_cap, call_window) VALUES (:sap_system, :hard_cap, :hard_cap)
    ON CONFLICT (sap_system) DO NOTHING
""")
INSERT_SAP_SLOTS = text("""
    /* one row per allowed call */
    INSERT INTO sap_slots (sap_system, slot_number)
    SELECT :sap_system, generate_series(1, (SELECT hard_cap FROM sap_systems WHERE sap_system = :sap_system))
    ON CONFLICT (sap_system, slot_number) DO NOTHING
""")


@dataclass(frozen=True, slots=True)
class Settings:
    """`owner`: None is whoever logs in. `logins`: role to login."""

    database: DatabaseSettings
    sap_systems: Mapping[str, int] = field(default_factory=dict)
    owner: str | None = None
    logins: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the environment; SettingsError names the first variable that is wrong."""
        return cls(
            sap_systems=sap_systems_from_environment(environ),
            database=DatabaseSettings.from_environment(environ),
            owner=environ.get("DATABASE_OWNER") or None,
            logins=_logins(environ),
        )


def upgrade(database_url: str, sap_systems: Mapping[str, int] | None = None) -> None:
    """Run all missing migrations on `database_url` as the owner of the schema, then add the SAP systems."""
    run(Settings(DatabaseSettings(database_url, None, None, None), sap_systems or {}))


def run(settings: Settings) -> None:
    """Run all missing migrations, each in its own transaction; add new SAP systems; grant the roles."""
    configuration = Config()
    configuration.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    engine = make_engine(settings.database, pool_size=1, application_name="migrate")
    try:
        wait_for_database(engine)
        with engine.connect() as connection:
            connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
            connection.execute(text("SET statement_timeout = 0"))
            if settings.owner:
                connection.execute(text(f"SET ROLE {_quoted(connection, settings.owner)}"))
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK_KEY})
            connection.commit()
            configuration.attributes["connection"] = connection
            try:
                command.upgrade(configuration, "head")
                connection.commit()
                with connection.begin():
                    add_sap_systems(connection, settings.sap_systems)
                    grant_roles(connection, settings.logins)
                    add_extension_if_available(connection, AUDIT_EXTENSION)
            finally:
                connection.rollback()
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": ADVISORY_LOCK_KEY})
                connection.commit()
    finally:
        engine.dispose()


def add_extension_if_available(connection: Connection, name: str) -> bool:
    """Create an extension if the server offers it, and tell whether it does.

    Cloud SQL's pgaudit logs nothing without it; other servers do not have it.
    """
    if connection.execute(IS_AVAILABLE, {"name": name}).first() is None:
        return False
    quoted = _quoted(connection, name)
    connection.execute(text(f"/* at most once */ CREATE EXTENSION IF NOT EXISTS {quoted}"))
    return True


def grant_roles(connection: Connection, logins: Mapping[str, str]) -> None:
    """Make each login a member of its service's role. Repeating it changes nothing; none is revoked."""
    for role, login in logins.items():
        names = f"{_quoted(connection, role)} TO {_quoted(connection, login)}"
        connection.execute(text(f"/* a service logs in with the rights of its role */ GRANT {names}"))


def add_sap_systems(connection: Connection, sap_systems: Mapping[str, int]) -> None:
    """Add each SAP system (id to hard cap, in calls at once) that the database does not know yet."""
    for sap_system, hard_cap in sap_systems.items():
        parameters = {"sap_system": sap_system, "hard_cap": hard_cap}
        connection.execute(INSERT_SAP_SYSTEM, parameters)
        connection.execute(INSERT_SAP_SLOTS, {"sap_system": sap_system})


def sap_systems_from_environment(environ: Mapping[str, str]) -> dict[str, int]:
    """Read SAP_SYSTEMS; SettingsError if it is not an object of lane names to whole numbers 1..256."""
    try:
        systems = json.loads(environ.get("SAP_SYSTEMS", "{}"))
    except ValueError as error:
        raise SettingsError("SAP_SYSTEMS is not JSON") from error
    if not isinstance(systems, dict) or not all(
        re.fullmatch(r"[a-z][a-z0-9-]{0,39}", name)
        and name != "events"
        and isinstance(cap, int)
        and 1 <= cap <= MAX_HARD_CAP_CALLS
        for name, cap in systems.items()
    ):
        raise SettingsError(
            f"SAP_SYSTEMS is not an object of SAP system ids to 1..{MAX_HARD_CAP_CALLS} calls"
        )
    return systems


def _logins(environ: Mapping[str, str]) -> dict[str, str]:
    try:
        logins = json.loads(environ.get("DATABASE_LOGINS", "{}"))
    except ValueError as error:
        raise SettingsError("DATABASE_LOGINS is not JSON") from error
    if not isinstance(logins, dict) or not all(isinstance(each, str) and each for each in logins.values()):
        raise SettingsError("DATABASE_LOGINS is not an object of database roles to logins")
    return logins


def _quoted(connection: Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote_identifier(name)


def main() -> int:
    """Migrate the database that the environment names."""
    try:
        settings = Settings.from_environment(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"migrate: {error}\n")
        return 2
    if only_check(sys.argv):
        return 0
    run(settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
