"""What the mock reads from its environment, once, at boot."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MAX_PORT = 65535
MAX_THREADS = 512
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)


class SettingsError(ValueError):
    """One line that names the variable and says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Settings:
    data: Path
    host: str = "127.0.0.1"
    port: int = 8090
    user: str = "sap"
    password: str = "sap-secret"  # noqa: S105 - a made-up system's made-up default
    threads: int = 64
    seed: int | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Read HOST, PORT, THREADS and SAP_MOCK_*; SettingsError for the first bad one."""
        data = environ.get("SAP_MOCK_DATA", "")
        if not data:
            raise SettingsError("SAP_MOCK_DATA is not set: the path of the file the documents are kept in")
        user = environ.get("SAP_MOCK_USER", "sap")
        if not user or ":" in user:
            raise SettingsError("SAP_MOCK_USER must not be empty or contain a colon (HTTP Basic)")
        return cls(
            data=Path(data),
            host=environ.get("HOST", "127.0.0.1"),
            port=_number(environ, "PORT", 8090, lowest=1, highest=MAX_PORT),
            user=user,
            password=environ.get("SAP_MOCK_PASSWORD", "sap-secret"),
            threads=_number(environ, "THREADS", 64, lowest=2, highest=MAX_THREADS),
            seed=_number(environ, "SAP_MOCK_SEED", 0) if "SAP_MOCK_SEED" in environ else None,
        )


def _number(
    environ: Mapping[str, str], name: str, default: int, *, lowest: int = 0, highest: int = 10**9
) -> int:
    text = environ.get(name)
    if text is None:
        return default
    if _NUMBER.fullmatch(text) is None or not lowest <= int(text) <= highest:
        raise SettingsError(f"{name} must be a whole number from {lowest} to {highest}")
    return int(text)
