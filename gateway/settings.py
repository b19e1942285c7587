"""The gateway's settings, read and validated once at boot."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from bridge.environment import MAX_PORT, MAX_THREADS, http_url, required, whole
from bridge.errors import SettingsError
from bridge.gcp.firestore_documents import FirestoreSettings
from bridge.key_ring_file import KeyRingSettings
from bridge.metrics import NO_METRICS, MetricsSettings
from bridge.partner_directory import PartnerDirectorySettings
from bridge.storage.engine import DatabaseSettings
from bridge.tracing import NO_TRACES, TracingSettings
from bridge.web.addresses import http_loopback
from gateway.counters import MEMORY


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the gateway is told. Keys are files; `token_signing_keys_dir` is a folder of <kid>.pem."""

    host: str
    port: int
    threads: int
    database: DatabaseSettings
    firestore: FirestoreSettings
    directory: PartnerDirectorySettings
    token_issuer: str
    token_audience: str
    token_signing_keys_dir: str
    party_key_ring: KeyRingSettings
    fingerprint_key: str
    receipt_signing_key: str
    webhook_key_ring: KeyRingSettings
    counters_url: str = MEMORY
    tokens_per_minute: int = 120
    token_requests_per_minute: int = 600
    forwarded_hops: int = 1
    edge_key: str | None = None
    refund_window_days: int = 400
    tracing: TracingSettings = NO_TRACES
    metrics: MetricsSettings = NO_METRICS
    allow_http_loopback: bool = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the environment; SettingsError names the first variable that is wrong."""
        return cls(
            host=environ.get("HOST", "127.0.0.1"),
            port=whole(environ, "PORT", 8081, at_most=MAX_PORT),
            threads=whole(environ, "THREADS", 16, at_most=MAX_THREADS),
            database=DatabaseSettings.from_environment(environ),
            firestore=FirestoreSettings.from_environment(environ),
            directory=PartnerDirectorySettings.from_environment(environ),
            tracing=TracingSettings.from_environment(environ),
            metrics=MetricsSettings.from_environment(environ),
            token_issuer=http_url(environ, "TOKEN_ISSUER"),
            token_audience=required(environ, "TOKEN_AUDIENCE"),
            token_signing_keys_dir=required(environ, "TOKEN_SIGNING_KEYS_DIR"),
            party_key_ring=KeyRingSettings.from_environment(environ, "PARTY_KEY_RING", "party-data"),
            fingerprint_key=required(environ, "FINGERPRINT_KEY"),
            receipt_signing_key=required(environ, "RECEIPT_SIGNING_KEY"),
            webhook_key_ring=KeyRingSettings.from_environment(environ, "WEBHOOK_KEY_RING", "webhook-secrets"),
            allow_http_loopback=http_loopback(environ),
            counters_url=_counters_url(environ, "RATE_LIMIT_STORAGE_URL"),
            tokens_per_minute=whole(environ, "TOKENS_PER_MINUTE", 120, at_most=1_000_000),
            token_requests_per_minute=whole(environ, "TOKEN_REQUESTS_PER_MINUTE", 600, at_most=1_000_000),
            forwarded_hops=_hops(environ, "FORWARDED_HOPS"),
            edge_key=environ.get("EDGE_KEY") or None,
            refund_window_days=whole(environ, "REFUND_WINDOW_DAYS", 400, at_most=3650),
        )


def _counters_url(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, MEMORY)
    if value != MEMORY and urlsplit(value).scheme not in ("redis", "rediss"):
        raise SettingsError(f"{name} is neither {MEMORY} nor a redis:// or rediss:// URL")
    return value


def _hops(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name, "1")
    if value not in ("0", "1", "2", "3"):
        raise SettingsError(f"{name} is not a whole number from 0 to 3")
    return int(value)
