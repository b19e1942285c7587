"""The dead-letter service's settings, read and validated once at boot."""

from collections.abc import Mapping
from dataclasses import dataclass

from bridge.environment import MAX_PORT, MAX_THREADS, whole
from bridge.gcp.identity import CallerSettings
from bridge.storage.engine import DatabaseSettings


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the service is told; nothing else reads the environment."""

    host: str
    port: int
    threads: int
    database: DatabaseSettings
    caller: CallerSettings

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the environment; SettingsError names the first variable that is wrong."""
        return cls(
            host=environ.get("HOST", "127.0.0.1"),
            port=whole(environ, "PORT", 8087, at_most=MAX_PORT),
            threads=whole(environ, "THREADS", 4, at_most=MAX_THREADS),
            database=DatabaseSettings.from_environment(environ),
            caller=CallerSettings.from_environment(environ),
        )
