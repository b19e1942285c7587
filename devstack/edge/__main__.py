"""`python -m devstack.edge`: derive Envoy's configuration, then become Envoy."""

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from devstack.edge.envoy_configuration import LISTEN_ADDRESS
from devstack.edge.program import (
    JWKS_CACHE_SECONDS,
    EdgeAddress,
    find_envoy,
    why_missing,
    write_configuration,
)
from devstack.preflight import StartError, require_free_port

LOG_LEVEL = "warning"
LOG_FLUSH_MILLISECONDS = 500
# one thread takes thousands of requests a second, more than the gateway behind it
THREADS = 1


def main() -> int:
    arguments = _parser().parse_args()
    try:
        _become_envoy(arguments)
    except StartError as error:
        sys.stderr.write(f"edge: {error}\n")
    return 1


def _become_envoy(arguments: argparse.Namespace) -> NoReturn:
    envoy = find_envoy()
    if envoy is None:
        raise StartError(why_missing())
    require_free_port(LISTEN_ADDRESS, arguments.port)
    address = EdgeAddress(
        arguments.port, arguments.gateway_port, arguments.token_issuer, arguments.token_audience
    )
    write_configuration(address, arguments.configuration, jwks_cache_seconds=arguments.jwks_cache_seconds)
    os.execv(  # noqa: S606 - the supervisor's signals should reach Envoy itself
        envoy,
        [
            "envoy", "--config-path", str(arguments.configuration), "--log-level", LOG_LEVEL,
            "--concurrency", str(THREADS), "--disable-hot-restart", "--log-format-escaped",
            "--file-flush-interval-msec", str(LOG_FLUSH_MILLISECONDS),
        ],
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m devstack.edge", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="where partners reach the API")
    parser.add_argument("--gateway-port", type=int, required=True)
    parser.add_argument("--configuration", type=Path, required=True, metavar="FILE")
    parser.add_argument("--token-issuer", required=True, metavar="URL")
    parser.add_argument("--token-audience", required=True, metavar="URL")
    parser.add_argument("--jwks-cache-seconds", type=float, default=JWKS_CACHE_SECONDS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
