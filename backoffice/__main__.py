"""`python -m backoffice`: settings from the environment, then gunicorn."""

import sys

from flask import Flask

from backoffice.app import create_app
from backoffice.settings import Settings
from bridge.clock import SystemClock
from bridge.metrics import make_metrics
from bridge.storage.engine import make_engine
from bridge.web.main import run

# The waker rings beside the requests, and the gauges are read.
SPARE_CONNECTIONS = 2


def _build(settings: Settings) -> Flask:
    """Runs in the worker: what it opens crosses no fork."""
    engine = make_engine(
        settings.database,
        pool_size=settings.threads + SPARE_CONNECTIONS,
        application_name="backoffice",
    )
    return create_app(settings, engine, SystemClock(), make_metrics("backoffice", settings.metrics))


if __name__ == "__main__":
    sys.exit(run("backoffice", Settings.from_environment, _build))
