"""The service's settings, read and validated once at boot."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from bridge.environment import on_cloud_run
from bridge.errors import SettingsError
from bridge.gcp.firestore_documents import FirestoreSettings
from bridge.gcp.identity import CallerSettings
from bridge.key_ring_file import KeyRingSettings
from bridge.metrics import MetricsSettings
from bridge.partner_directory import PartnerDirectorySettings
from bridge.storage.engine import DatabaseSettings
from bridge.tracing import TracingSettings
from bridge.web.addresses import http_loopback
from webhooks.retries import DEFAULT_DELAYS_SECONDS

DEFAULT_QUEUE_LOCATION = "europe-west3"
MAX_DELAYS = 50
MAX_DELAY_SECONDS = 7 * 86_400.0
# What docs/api.md promises receivers; a shorter time is for tests.
DEFAULT_TIMEOUT_SECONDS = 15.0
MAX_TIMEOUT_SECONDS = 30.0
# docs/api.md: an endpoint is disabled when every attempt has failed for 120 hours
DEFAULT_DISABLE_AFTER_SECONDS = 120 * 3600.0
MAX_DISABLE_AFTER_SECONDS = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """Where tasks are made and sent. `service_account_email` is what their OIDC tokens are of."""

    project: str
    location: str
    emulator_host: str | None
    service_account_email: str | None
    target_url: str

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "TaskSettings":
        """Read TASK_TARGET_URL, TASK_LOCATION, TASK_SERVICE_ACCOUNT, CLOUD_TASKS_EMULATOR_HOST."""
        target_url = _required(environ, "TASK_TARGET_URL")
        parts = urlsplit(target_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError("TASK_TARGET_URL is not an http(s) URL")
        emulator_host = environ.get("CLOUD_TASKS_EMULATOR_HOST") or None
        if emulator_host and on_cloud_run(environ):
            raise SettingsError("CLOUD_TASKS_EMULATOR_HOST is not allowed on Cloud Run")
        service_account_email = environ.get("TASK_SERVICE_ACCOUNT") or None
        if not emulator_host and not service_account_email:
            raise SettingsError("TASK_SERVICE_ACCOUNT is not set: the service account that tasks call as")
        return cls(
            project=_required(environ, "GOOGLE_CLOUD_PROJECT"),
            location=environ.get("TASK_LOCATION") or DEFAULT_QUEUE_LOCATION,
            emulator_host=emulator_host,
            service_account_email=service_account_email,
            target_url=target_url,
        )


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the service is told; nothing else reads the environment."""

    database: DatabaseSettings
    firestore: FirestoreSettings
    directory: PartnerDirectorySettings
    callers: CallerSettings
    tracing: TracingSettings
    metrics: MetricsSettings
    tasks: TaskSettings
    webhook_key_ring: KeyRingSettings
    delays_seconds: tuple[float, ...]
    timeout_seconds: float
    disable_after_seconds: float
    allow_http_loopback: bool
    sweep_seconds: float
    sweep_grace_seconds: float
    host: str
    port: int
    threads: int

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the environment; SettingsError names the first variable that is wrong."""
        callers = CallerSettings.from_environment(environ)
        tasks = TaskSettings.from_environment(environ)
        if callers.authentication == "oidc" and not tasks.service_account_email:
            raise SettingsError("TASK_SERVICE_ACCOUNT is not set: whose tokens tasks carry")
        return cls(
            database=DatabaseSettings.from_environment(environ),
            firestore=FirestoreSettings.from_environment(environ),
            directory=PartnerDirectorySettings.from_environment(environ),
            callers=callers,
            tracing=TracingSettings.from_environment(environ),
            metrics=MetricsSettings.from_environment(environ),
            tasks=tasks,
            webhook_key_ring=KeyRingSettings.from_environment(environ, "WEBHOOK_KEY_RING", "webhook-secrets"),
            delays_seconds=_delays(environ.get("WEBHOOK_SCHEDULE_SECONDS")),
            timeout_seconds=_seconds(
                environ, "WEBHOOK_TIMEOUT_SECONDS", DEFAULT_TIMEOUT_SECONDS, MAX_TIMEOUT_SECONDS
            ),
            disable_after_seconds=_seconds(
                environ,
                "WEBHOOK_DISABLE_AFTER_SECONDS",
                DEFAULT_DISABLE_AFTER_SECONDS,
                MAX_DISABLE_AFTER_SECONDS,
            ),
            allow_http_loopback=http_loopback(environ),
            sweep_seconds=_seconds(environ, "SWEEP_SECONDS", 10.0, 3600.0),
            sweep_grace_seconds=_seconds(environ, "SWEEP_GRACE_SECONDS", 20.0, 3600.0),
            host=environ.get("HOST", "127.0.0.1"),
            port=_whole(environ, "PORT", 8083, 65_535),
            threads=_whole(environ, "THREADS", 32, 1000),
        )


def _required(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "")
    if not value:
        raise SettingsError(f"{name} is not set")
    return value


def _number(value: str, name: str, at_most: float) -> float:
    try:
        number = float(value)
    except ValueError as error:
        raise SettingsError(f"{name} is not a number of seconds") from error
    if not 0 < number <= at_most:
        raise SettingsError(f"{name} is not above 0 and up to {at_most:g} seconds")
    return number


def _seconds(environ: Mapping[str, str], name: str, default: float, at_most: float) -> float:
    return _number(environ.get(name, str(default)), name, at_most)


def _whole(environ: Mapping[str, str], name: str, default: int, at_most: int) -> int:
    value = environ.get(name, str(default))
    if not (value.isascii() and value.isdigit() and 1 <= int(value) <= at_most):
        raise SettingsError(f"{name} is not a whole number from 1 to {at_most}")
    return int(value)


def _delays(value: str | None) -> tuple[float, ...]:
    """Read the pauses after each failed attempt, separated by commas."""
    if value is None:
        return DEFAULT_DELAYS_SECONDS
    name = "WEBHOOK_SCHEDULE_SECONDS"
    delays = tuple(_number(part.strip(), name, MAX_DELAY_SECONDS) for part in value.split(","))
    if len(delays) > MAX_DELAYS:
        raise SettingsError(f"{name} has more than {MAX_DELAYS} pauses")
    return delays
