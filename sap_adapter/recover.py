"""`python -m sap_adapter.recover`: the job that carries on the recovery that `bridge recover` has begun.

It may be killed and started again at any time. Exit status 0: the recovery is finished, or there is none.
"""

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

from bridge.clock import MAX_CLOCK_DIFFERENCE_SECONDS
from bridge.environment import only_check, required, seconds
from bridge.errors import SettingsError
from bridge.storage.database_clock import DatabaseClock
from bridge.storage.engine import DatabaseSettings, make_engine, wait_for_database
from bridge.storage.recoveries import RestoredRecoveryError
from bridge.web.logs import configure_logs
from sap_adapter.recovery import NotConfiguredError, RecoveryJob
from sap_adapter.s4hana import S4HanaConnector, SapConnection, Timeouts
from sap_adapter.settings import MAX_SECONDS, read_connections, read_timeouts


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the job is told."""

    database: DatabaseSettings
    sap_connections: Mapping[str, SapConnection]
    timeouts: Timeouts
    settling_seconds: float

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the environment; SettingsError names the first variable that is wrong."""
        read_lag_seconds = seconds(environ, "SAP_READ_LAG_SECONDS", 60.0, at_most=MAX_SECONDS)
        return cls(
            database=DatabaseSettings.from_environment(environ),
            sap_connections=read_connections(required(environ, "SAP_CONNECTIONS_FILE")),
            timeouts=read_timeouts(environ),
            settling_seconds=seconds(
                environ, "SAP_SETTLING_SECONDS", 600.0 + read_lag_seconds, at_most=MAX_SECONDS
            )
            + read_lag_seconds
            + MAX_CLOCK_DIFFERENCE_SECONDS,
        )


def main() -> int:
    """Carry the recovery on; with --check, only read the settings."""
    configure_logs("recovery")
    try:
        settings = Settings.from_environment(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"recovery: {error}\n")
        return 2
    if only_check(sys.argv):
        return 0
    clock = DatabaseClock()
    engine = make_engine(settings.database, pool_size=1, application_name="recovery", clock=clock)
    connectors = {
        sap_system: S4HanaConnector(connection, settings.timeouts, max_calls=1, clock=clock)
        for sap_system, connection in settings.sap_connections.items()
    }
    job = RecoveryJob(engine, connectors, clock, settling_seconds=settings.settling_seconds, wait=time.sleep)
    try:
        wait_for_database(engine)
        if not job.run():
            sys.stderr.write("recovery: there is none to carry on; begin one by `bridge recover`\n")
    except (NotConfiguredError, RestoredRecoveryError) as error:
        sys.stderr.write(f"recovery: {error}\n")
        return 1
    finally:
        engine.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())
