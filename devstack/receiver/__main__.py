"""`python -m devstack.receiver --data FILE --secrets FILE [--host --port]`."""

import argparse
import sqlite3
import sys
from pathlib import Path
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication

from devstack.preflight import StartError, require_free_port
from devstack.receiver.app import create_app
from devstack.receiver.secrets_file import SecretsFileError, read_verifiers
from devstack.receiver.store import Store

THREADS = 16
GRACEFUL_TIMEOUT_SECONDS = 1
ORPHAN_SECONDS = 2.0  # how long a worker may outlive its master's kill -9


class Receiver(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """One worker (the delivery counts are read and written in one process) with threads."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        super().__init__()

    def load_config(self) -> None:
        settings: dict[str, Any] = {
            "bind": f"{self._arguments.host}:{self._arguments.port}",
            "workers": 1,
            "worker_class": "gthread",
            "threads": THREADS,
            "timeout": 0,
            "graceful_timeout": GRACEFUL_TIMEOUT_SECONDS,
            "control_socket_disable": True,  # it would write to the home folder
            "proc_name": "receiver",
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Called in the worker, so that its SQLite connection crosses no fork."""
        return create_app(self._arguments.data, self._arguments.secrets)


def main() -> int:
    arguments = _parser().parse_args()
    try:
        require_free_port(arguments.host, arguments.port, patience_seconds=ORPHAN_SECONDS)
        _require_usable(arguments.secrets)
        _open_once(arguments.data)
        Receiver(arguments).run()
    except StartError as error:
        sys.stderr.write(f"receiver: {error}\n")
        return 1
    return 0


def _open_once(data: Path) -> None:
    """Fail here with one line rather than in every worker that gunicorn would start again and again."""
    try:
        Store(data).close()
    except sqlite3.Error as error:
        raise StartError(f"can't use {data}: {error}") from error


def _require_usable(secrets: Path) -> None:
    """The file may come later, once the partners are known; a wrong one is better found now."""
    try:
        read_verifiers(secrets)
    except FileNotFoundError:
        return
    except (OSError, SecretsFileError) as error:
        raise StartError(f"can't use {secrets}: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m devstack.receiver", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8091)
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="SQLite file, made if missing"
    )
    parser.add_argument(
        "--secrets", type=Path, required=True, metavar="FILE", help='JSON: {"<partner id>": "whsec_…"}'
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
