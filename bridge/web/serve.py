"""How every HTTP service runs: gunicorn, one worker process with threads (Cloud Run adds instances)."""

import gc
import logging
import resource
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from bridge.web.worker import Worker

# Cloud Run kills 10 s after SIGTERM.
GRACEFUL_TIMEOUT_SECONDS = 8
# Rather the client closes an idle connection than we do: it could be sending on it just then.
KEEPALIVE_SECONDS = 75
BACKLOG = 2048
# How many may be connected to one process, if it may have as many descriptors.
MAX_CONNECTIONS = 2048
# What a process opens besides: per thread a database connection and what it calls; files, pipes, channels.
DESCRIPTORS_PER_THREAD = 2
OTHER_DESCRIPTORS = 32
MAX_REQUEST_LINE_BYTES = 8190
# Larger than any header that we accept, so that validation answers an over-long one.
MAX_HEADER_BYTES = 32_768
# The worker of a killed master holds the port until it notices.
ORPHAN_SECONDS = 5.0
_POLL_SECONDS = 0.1


class _Logger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """Hands gunicorn's records to the root logger, which writes JSON; access lines are written by the app."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers = []
        self.error_log.propagate = True
        # "Starting", "Listening", "Booting" are no news
        self.error_log.setLevel(logging.WARNING)


class _Application(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    def __init__(self, app_factory: Callable[[], Flask], options: dict[str, Any]) -> None:
        self._app_factory = app_factory
        self._options = options
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Called in the worker: connections and threads made by the factory cross no fork."""
        app = self._app_factory()
        # What there is now stays for good: the collector need not look through it again and again.
        gc.freeze()
        gc.enable()
        return app


def serve(app_factory: Callable[[], Flask], *, host: str, port: int, threads: int, name: str) -> int:
    """Serve until SIGTERM, then finish what is running within 8 s. Returns the exit status.

    A port in use is one line on stderr and status 1. Call `configure_logs` before.
    """
    problem = _why_not(host, port)
    if problem is not None:
        sys.stderr.write(f"{name}: can't listen on {host}:{port}: {problem}\n")
        return 1
    connections = connection_limit(threads)
    if connections < threads:
        sys.stderr.write(f"{name}: the limit of open files (ulimit -n) is too low for {threads} threads\n")
        return 1
    _Application(
        app_factory,
        {
            "bind": f"{host}:{port}",
            "backlog": BACKLOG,
            "workers": 1,
            "worker_class": Worker,
            "worker_connections": connections,
            "threads": threads,
            "sendfile": False,
            "timeout": 0,
            "graceful_timeout": GRACEFUL_TIMEOUT_SECONDS,
            "keepalive": KEEPALIVE_SECONDS,
            "limit_request_line": MAX_REQUEST_LINE_BYTES,
            "limit_request_field_size": MAX_HEADER_BYTES,
            "preload_app": False,
            "logger_class": _Logger,
            "control_socket_disable": True,  # it would write to the home folder
            "proc_name": name,
        },
    ).run()
    return 0


def connection_limit(threads: int) -> int:
    """Raise the limit of descriptors as far as needed, and return how many connections it leaves room for."""
    reserved = OTHER_DESCRIPTORS + DESCRIPTORS_PER_THREAD * threads
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + reserved
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(MAX_CONNECTIONS, soft - reserved)


def _why_not(host: str, port: int) -> str | None:
    """Return why the port can't be had, after waiting for the orphan of a killed master."""
    deadline = time.monotonic() + ORPHAN_SECONDS
    while True:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                problem = error.strerror or str(error)
            else:
                return None
        if time.monotonic() >= deadline:
            return problem
        time.sleep(_POLL_SECONDS)
