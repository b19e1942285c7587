"""The adapter's settings, read and validated once at boot."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bridge.environment import MAX_PORT, MAX_THREADS, required, seconds, whole
from bridge.errors import SettingsError
from bridge.gcp.firestore_documents import FirestoreSettings
from bridge.gcp.identity import CallerSettings
from bridge.key_ring_file import KeyRingSettings
from bridge.lane import GuardSettings
from bridge.metrics import MetricsSettings
from bridge.partner_directory import PartnerDirectorySettings
from bridge.storage.engine import DatabaseSettings
from bridge.tracing import TracingSettings
from sap_adapter.posting import PostingSettings
from sap_adapter.record import RecordSettings
from sap_adapter.s4hana import SapConnection, Timeouts

MAX_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the adapter is told; nothing else reads the environment."""

    database: DatabaseSettings
    sap_connections: Mapping[str, SapConnection]
    timeouts: Timeouts
    posting: PostingSettings
    record: RecordSettings
    party_key_ring: KeyRingSettings
    callers: CallerSettings
    firestore: FirestoreSettings
    tracing: TracingSettings
    metrics: MetricsSettings
    directory: PartnerDirectorySettings
    host: str
    port: int
    threads: int

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the environment; SettingsError names the first variable that is wrong."""
        timeouts = read_timeouts(environ)
        read_lag_seconds = seconds(environ, "SAP_READ_LAG_SECONDS", 60.0, at_most=MAX_SECONDS)
        return cls(
            database=DatabaseSettings.from_environment(environ),
            sap_connections=read_connections(required(environ, "SAP_CONNECTIONS_FILE")),
            timeouts=timeouts,
            posting=PostingSettings(
                call_seconds=timeouts.call_seconds,
                lease_margin_seconds=seconds(environ, "SAP_LEASE_MARGIN_SECONDS", 10.0, at_most=MAX_SECONDS),
            ),
            record=RecordSettings(
                # SAP's work-process limit and the lag of its read side
                settling_seconds=seconds(
                    environ, "SAP_SETTLING_SECONDS", 600.0 + read_lag_seconds, at_most=MAX_SECONDS
                ),
                read_lag_seconds=read_lag_seconds,
                first_question_seconds=seconds(
                    environ, "SAP_FIRST_QUESTION_SECONDS", 1.0, at_most=MAX_SECONDS
                ),
                guard=GuardSettings.from_environment(environ),
            ),
            party_key_ring=KeyRingSettings.from_environment(environ, "PARTY_KEY_RING", "party-data"),
            callers=CallerSettings.from_environment(environ),
            firestore=FirestoreSettings.from_environment(environ),
            tracing=TracingSettings.from_environment(environ),
            metrics=MetricsSettings.from_environment(environ),
            directory=PartnerDirectorySettings.from_environment(environ),
            host=environ.get("HOST", "127.0.0.1"),
            port=whole(environ, "PORT", 8082, at_most=MAX_PORT),
            threads=whole(environ, "THREADS", 16, at_most=MAX_THREADS),
        )


def read_timeouts(environ: Mapping[str, str]) -> Timeouts:
    """Read how long a call to SAP may take."""
    return Timeouts(
        seconds(environ, "SAP_CONNECT_TIMEOUT_SECONDS", 5.0, at_most=MAX_SECONDS),
        seconds(environ, "SAP_READ_TIMEOUT_SECONDS", 60.0, at_most=MAX_SECONDS),
    )


def read_connections(path: str) -> dict[str, SapConnection]:
    """Read SAP_CONNECTIONS_FILE; SettingsError says what is wrong with it."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        connections = {system: SapConnection(**fields) for system, fields in document.items()}
    except OSError as error:
        raise SettingsError(f"SAP_CONNECTIONS_FILE {path}: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"SAP_CONNECTIONS_FILE {path}: not an object of SAP system to {{base_url, user, password}}"
        ) from error
    for system, connection in connections.items():
        if not connection.base_url.startswith(("http://", "https://")) or connection.base_url.endswith("/"):
            raise SettingsError(
                f"SAP_CONNECTIONS_FILE {path}: base_url of {system} is no URL, or ends in a slash"
            )
    return connections
