"""Bring a database to the newest schema: `python -m bridge.storage.migrate` (a job in production).

Settings: those of bridge.storage.engine, and SAP_SYSTEMS, a JSON object of SAP system id to hard cap
(calls at once), e.g. {"s4-main": 8}; systems are only ever added here, operators change the cap later.
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, text

from bridge.errors import SettingsError
from bridge.storage.engine import DatabaseSettings, make_engine
from bridge.storage.lane_control import MAX_HARD_CAP_CALLS

LOCK_TIMEOUT = "5s"
# Two deployments may start the job at once; the second waits for the first (an arbitrary, fixed key).
ADVISORY_LOCK_KEY = 7_203_114

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


def upgrade(database_url: str, sap_systems: Mapping[str, int] | None = None) -> None:
    """Run all missing migrations on `database_url` as the owner of the schema, then add the SAP systems."""
    settings = DatabaseSettings(database_url, None, None, None)
    engine = make_engine(settings, pool_size=1, application_name="migrate")
    try:
        upgrade_engine(engine, sap_systems or {})
    finally:
        engine.dispose()


def upgrade_engine(engine: Engine, sap_systems: Mapping[str, int]) -> None:
    """Run all missing migrations, each in its own transaction, and add the SAP systems that are new."""
    configuration = Config()
    configuration.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.connect() as connection:
        connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK_KEY})
        connection.commit()
        configuration.attributes["connection"] = connection
        try:
            command.upgrade(configuration, "head")
            connection.commit()
            with connection.begin():
                add_sap_systems(connection, sap_systems)
        finally:
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": ADVISORY_LOCK_KEY})
            connection.commit()


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


def main() -> int:
    """Migrate the database that the environment names."""
    try:
        systems = sap_systems_from_environment(os.environ)
        settings = DatabaseSettings.from_environment(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"migrate: {error}\n")
        return 2
    engine = make_engine(settings, pool_size=1, application_name="migrate")
    upgrade_engine(engine, systems)
    engine.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())
