"""The service's settings, read and validated once at boot."""

from collections.abc import Mapping
from dataclasses import dataclass

from bridge.environment import MAX_PORT, MAX_THREADS, whole
from bridge.gcp.firestore_documents import FirestoreSettings
from bridge.gcp.operators import OperatorSettings
from bridge.storage.engine import DatabaseSettings


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the service is told; nothing else reads the environment."""

    database: DatabaseSettings
    firestore: FirestoreSettings
    operators: OperatorSettings
    host: str
    port: int
    threads: int

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the environment; SettingsError names the first variable that is wrong."""
        return cls(
            database=DatabaseSettings.from_environment(environ),
            firestore=FirestoreSettings.from_environment(environ),
            operators=OperatorSettings.from_environment(environ),
            host=environ.get("HOST", "127.0.0.1"),
            port=whole(environ, "PORT", 8084, at_most=MAX_PORT),
            threads=whole(environ, "THREADS", 4, at_most=MAX_THREADS),
        )
