"""The worker's settings, read and validated once at boot."""

from collections.abc import Mapping
from dataclasses import dataclass

from bridge.errors import SettingsError
from bridge.gcp.pubsub import MAX_BATCH_MESSAGES
from bridge.storage.engine import DatabaseSettings
from dispatcher.relay import RelaySettings
from dispatcher.watchdog import WatchdogSettings

# The process has 8 s from SIGTERM: a publish under way must end in less.
MAX_PUBLISH_TIMEOUT_SECONDS = 6.0
LEASE_MARGIN_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the worker is told; nothing else reads the environment."""

    database: DatabaseSettings
    database_connections: int
    project: str
    pubsub_emulator_host: str | None
    publish_timeout_seconds: float
    poll_seconds: float
    relay: RelaySettings
    watchdog: WatchdogSettings

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the environment; SettingsError names the first variable that is wrong."""
        project = environ.get("GOOGLE_CLOUD_PROJECT", "")
        if not project:
            raise SettingsError("GOOGLE_CLOUD_PROJECT is not set")
        emulator_host = environ.get("PUBSUB_EMULATOR_HOST") or None
        if emulator_host and environ.get("K_SERVICE"):
            raise SettingsError("PUBSUB_EMULATOR_HOST is not allowed on Cloud Run")
        read_lag_seconds = _number(environ, "SAP_READ_LAG_SECONDS", 60.0, 0.001, 3600)
        publish_timeout_seconds = _number(
            environ, "PUBLISH_TIMEOUT_SECONDS", 5.0, 0.1, MAX_PUBLISH_TIMEOUT_SECONDS
        )
        return cls(
            database=DatabaseSettings.from_environment(environ),
            database_connections=int(_number(environ, "DATABASE_CONNECTIONS", 10, 2, 200)),
            project=project,
            pubsub_emulator_host=emulator_host,
            publish_timeout_seconds=publish_timeout_seconds,
            poll_seconds=_number(environ, "POLL_SECONDS", 1.0, 0.05, 60),
            relay=RelaySettings(
                lease_seconds=publish_timeout_seconds + LEASE_MARGIN_SECONDS,
                max_batch=int(_number(environ, "MAX_BATCH_MESSAGES", 500, 1, MAX_BATCH_MESSAGES)),
            ),
            watchdog=WatchdogSettings(
                interval_seconds=_number(environ, "WATCHDOG_INTERVAL_SECONDS", 5.0, 0.05, 3600),
                first_redispatch_seconds=_number(environ, "WATCHDOG_FIRST_SECONDS", 60.0, 0.05, 3600),
                # As the adapter's: SAP's work-process limit and the lag of its read side.
                settling_seconds=_number(
                    environ, "SAP_SETTLING_SECONDS", 600.0 + read_lag_seconds, 0.001, 86_400
                ),
                delayed_after_seconds=_number(environ, "DELAYED_AFTER_SECONDS", 900.0, 0.05, 86_400),
            ),
        )


def _number(environ: Mapping[str, str], name: str, default: float, minimum: float, maximum: float) -> float:
    try:
        value = float(environ.get(name, default))
    except ValueError as error:
        raise SettingsError(f"{name} is not a number") from error
    if not minimum <= value <= maximum:
        raise SettingsError(f"{name} is not between {minimum:g} and {maximum:g}")
    return value
