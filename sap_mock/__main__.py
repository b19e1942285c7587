"""`python -m sap_mock`: settings from the environment, gunicorn with one worker of many threads."""

import ctypes
import os
import signal
import socket
import sys
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication

from sap_mock.app import create_app
from sap_mock.ledger import Ledger, LedgerError
from sap_mock.settings import Settings, SettingsError

BACKLOG = 1024
GRACEFUL_TIMEOUT_SECONDS = 8
# longer than clients keep idle connections, so that a reused one is rarely just being closed
KEEPALIVE_SECONDS = 75
PR_SET_PDEATHSIG = 1


class _Gunicorn(BaseApplication):  # type: ignore[misc]  # gunicorn ships no types
    def __init__(self, settings: Settings, listener: int) -> None:
        self._settings = settings
        self._listener = listener
        super().__init__()

    def load_config(self) -> None:
        for name, value in {
            # bound by us: gunicorn would try a taken port five times and print more than one line
            "bind": f"fd://{self._listener}",
            "worker_class": "gthread",
            "workers": 1,
            "threads": self._settings.threads,
            "timeout": 0,
            "graceful_timeout": GRACEFUL_TIMEOUT_SECONDS,
            "keepalive": KEEPALIVE_SECONDS,
            "loglevel": "warning",
            "control_socket_disable": True,
            "post_fork": _die_with_the_master,
        }.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Run in the worker: the ledger's connections must not cross a fork."""
        return create_app(self._settings)


def main() -> int:
    try:
        settings = Settings.from_environment(os.environ)
        for system in settings.systems:
            Ledger(settings.data_of(system)).close()
        if "--check" in sys.argv[1:]:
            return 0
        listener = _listen(settings.host, settings.port)
    except (SettingsError, LedgerError) as error:
        return _give_up(str(error))
    except OSError as error:
        return _give_up(f"can't listen on {settings.host}:{settings.port}: {os.strerror(error.errno or 0)}")
    _Gunicorn(settings, listener).run()
    return 0


def _listen(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    return listener.detach()


def _give_up(why: str) -> int:
    sys.stderr.write(f"sap_mock: {why}\n")
    return 1


def _die_with_the_master(_server: Any, worker: Any) -> None:
    """A worker that outlived a killed master would hold the port against the next start."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != worker.ppid:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
