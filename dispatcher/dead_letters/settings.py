"""The dead-letter service's settings, read and validated once at boot."""

from collections.abc import Mapping
from dataclasses import dataclass

from bridge.errors import SettingsError
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
            port=_whole(environ, "PORT", 8087, 65535),
            threads=_whole(environ, "THREADS", 4, 200),
            database=DatabaseSettings.from_environment(environ),
            caller=CallerSettings.from_environment(environ),
        )


def _whole(environ: Mapping[str, str], name: str, default: int, maximum: int) -> int:
    value = environ.get(name, str(default))
    if not (value.isascii() and value.isdigit() and 1 <= int(value) <= maximum):
        raise SettingsError(f"{name} is not a whole number from 1 to {maximum}")
    return int(value)
