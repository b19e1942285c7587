"""What the mock reads from its environment, once, at boot."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MAX_PORT = 65535
MAX_THREADS = 512
DEFAULT_SYSTEM = "s4-main"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}", re.ASCII)
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
    systems: tuple[str, ...] = (DEFAULT_SYSTEM,)

    def data_of(self, system: str) -> Path:
        """Return the file of a system's ledger: the first one's is `data` itself."""
        return self.data if system == self.systems[0] else self.data.with_stem(f"{self.data.stem}-{system}")

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
            systems=_systems(environ.get("SAP_MOCK_SYSTEMS", DEFAULT_SYSTEM)),
        )


def _systems(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if len(set(names)) != len(names) or not all(_NAME.fullmatch(name) for name in names):
        raise SettingsError("SAP_MOCK_SYSTEMS must be different names such as s4-main, separated by commas")
    return names


def _number(
    environ: Mapping[str, str], name: str, default: int, *, lowest: int = 0, highest: int = 10**9
) -> int:
    text = environ.get(name)
    if text is None:
        return default
    if _NUMBER.fullmatch(text) is None or not lowest <= int(text) <= highest:
        raise SettingsError(f"{name} must be a whole number from {lowest} to {highest}")
    return int(text)
