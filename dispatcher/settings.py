"""The worker's settings, read and validated once at boot."""

from collections.abc import Mapping
from dataclasses import dataclass

from bridge.environment import MAX_PORT, emulator, number, required, whole
from bridge.gcp.firestore_documents import FirestoreSettings
from bridge.gcp.pubsub import MAX_BATCH_MESSAGES
from bridge.lane import GuardSettings
from bridge.metrics import MetricsSettings
from bridge.storage.engine import DatabaseSettings
from bridge.tracing import TracingSettings
from dispatcher.mark_keeper import MarkSettings
from dispatcher.relay import RelaySettings
from dispatcher.watchdog import WatchdogSettings

# The process has 8 s from SIGTERM: a publish under way must end in less.
MAX_PUBLISH_TIMEOUT_SECONDS = 6.0
LEASE_MARGIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the worker is told; nothing else reads the environment."""

    database: DatabaseSettings
    database_connections: int
    project: str
    pubsub_emulator_host: str | None
    publish_timeout_seconds: float
    poll_seconds: float
    liveness: tuple[str, int] | None
    relay: RelaySettings
    watchdog: WatchdogSettings
    firestore: FirestoreSettings
    mark: MarkSettings
    tracing: TracingSettings
    metrics: MetricsSettings

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the environment; SettingsError names the first variable that is wrong."""
        read_lag_seconds = number(environ, "SAP_READ_LAG_SECONDS", 60.0, 0.001, 3600)
        publish_timeout_seconds = number(
            environ, "PUBLISH_TIMEOUT_SECONDS", 5.0, 0.1, MAX_PUBLISH_TIMEOUT_SECONDS
        )
        firestore = FirestoreSettings.from_environment(environ)
        return cls(
            project=required(environ, "GOOGLE_CLOUD_PROJECT"),
            database=DatabaseSettings.from_environment(environ),
            tracing=TracingSettings.from_environment(environ),
            metrics=MetricsSettings.from_environment(environ),
            database_connections=int(number(environ, "DATABASE_CONNECTIONS", 10, 2, 200)),
            pubsub_emulator_host=emulator(environ, "PUBSUB_EMULATOR_HOST"),
            publish_timeout_seconds=publish_timeout_seconds,
            poll_seconds=number(environ, "POLL_SECONDS", 1.0, 0.05, 60),
            liveness=_liveness(environ),
            firestore=firestore,
            mark=MarkSettings(
                interval_seconds=number(environ, "MARK_INTERVAL_SECONDS", 2.0, 0.1, 60),
                patience_seconds=number(environ, "MARK_PATIENCE_SECONDS", 60.0, 0.0, 3600),
                # the emulator keeps nothing beyond its own end
                may_forget=firestore.emulator_host is not None,
            ),
            relay=RelaySettings(
                lease_seconds=publish_timeout_seconds + LEASE_MARGIN_SECONDS,
                max_batch=int(
                    number(environ, "MAX_BATCH_MESSAGES", MAX_BATCH_MESSAGES, 1, MAX_BATCH_MESSAGES)
                ),
                latency_target_seconds=number(environ, "SAP_LATENCY_TARGET_SECONDS", 5.0, 0.01, 3600),
            ),
            watchdog=WatchdogSettings(
                interval_seconds=number(environ, "WATCHDOG_INTERVAL_SECONDS", 5.0, 0.05, 3600),
                first_redispatch_seconds=number(environ, "WATCHDOG_FIRST_SECONDS", 60.0, 0.05, 3600),
                # As the adapter's: SAP's work-process limit and the lag of its read side.
                settling_seconds=number(
                    environ, "SAP_SETTLING_SECONDS", 600.0 + read_lag_seconds, 0.001, 86_400
                ),
                delayed_after_seconds=number(environ, "DELAYED_AFTER_SECONDS", 900.0, 0.05, 86_400),
                guard=GuardSettings.from_environment(environ),
            ),
        )


def _liveness(environ: Mapping[str, str]) -> tuple[str, int] | None:
    """Return the address at which the liveness probe is answered, None for nowhere."""
    if not environ.get("LIVENESS_PORT"):
        return None
    return environ.get("HOST") or "127.0.0.1", whole(environ, "LIVENESS_PORT", 0, at_most=MAX_PORT)
