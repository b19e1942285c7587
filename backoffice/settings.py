"""The service's settings, read and validated once at boot."""

from collections.abc import Mapping
from dataclasses import dataclass

from bridge.environment import MAX_PORT, MAX_THREADS, seconds, whole
from bridge.gcp.operators import OperatorSettings
from bridge.metrics import MetricsSettings
from bridge.storage.engine import DatabaseSettings

MAX_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the service is told; nothing else reads the environment.

    `settling_seconds`: how long after a lost call SAP may still be booking it, as the adapter has it.
    """

    database: DatabaseSettings
    operators: OperatorSettings
    settling_seconds: float
    metrics: MetricsSettings
    host: str
    port: int
    threads: int

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the environment; SettingsError names the first variable that is wrong."""
        read_lag_seconds = seconds(environ, "SAP_READ_LAG_SECONDS", 60.0, at_most=MAX_SECONDS)
        return cls(
            database=DatabaseSettings.from_environment(environ),
            operators=OperatorSettings.from_environment(environ),
            settling_seconds=seconds(
                environ, "SAP_SETTLING_SECONDS", 600.0 + read_lag_seconds, at_most=MAX_SECONDS
            ),
            metrics=MetricsSettings.from_environment(environ),
            host=environ.get("HOST", "127.0.0.1"),
            port=whole(environ, "PORT", 8089, at_most=MAX_PORT),
            threads=whole(environ, "THREADS", 4, at_most=MAX_THREADS),
        )
