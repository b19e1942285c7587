"""The gateway's settings, read and validated once at boot."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from bridge.errors import SettingsError
from bridge.gcp.firestore import FirestoreSettings
from bridge.partner_directory import PartnerDirectorySettings
from bridge.storage.engine import DatabaseSettings

TOKEN_LIFETIME_SECONDS = 900


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
    party_key_ring: str
    fingerprint_key: str
    receipt_signing_key: str
    refund_window_days: int = 400

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the environment; SettingsError names the first variable that is wrong."""
        return cls(
            host=environ.get("HOST", "127.0.0.1"),
            port=_whole(environ, "PORT", 8081, 65_535),
            threads=_whole(environ, "THREADS", 16, 1000),
            database=DatabaseSettings.from_environment(environ),
            firestore=FirestoreSettings.from_environment(environ),
            directory=PartnerDirectorySettings.from_environment(environ),
            token_issuer=_origin(environ, "TOKEN_ISSUER"),
            token_audience=_required(environ, "TOKEN_AUDIENCE"),
            token_signing_keys_dir=_required(environ, "TOKEN_SIGNING_KEYS_DIR"),
            party_key_ring=_required(environ, "PARTY_KEY_RING"),
            fingerprint_key=_required(environ, "FINGERPRINT_KEY"),
            receipt_signing_key=_required(environ, "RECEIPT_SIGNING_KEY"),
            refund_window_days=_whole(environ, "REFUND_WINDOW_DAYS", 400, 3650),
        )


def _required(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "")
    if not value:
        raise SettingsError(f"{name} is not set")
    return value


def _origin(environ: Mapping[str, str], name: str) -> str:
    value = _required(environ, name)
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.netloc or value.endswith("/"):
        raise SettingsError(f"{name} is not an http(s) URL without a slash at its end")
    return value


def _whole(environ: Mapping[str, str], name: str, default: int, highest: int) -> int:
    value = environ.get(name, str(default))
    if not (value.isascii() and value.isdigit() and 1 <= int(value) <= highest):
        raise SettingsError(f"{name} is not a whole number from 1 to {highest}")
    return int(value)
