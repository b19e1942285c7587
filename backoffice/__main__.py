"""`python -m backoffice`: settings from the environment, then gunicorn."""

import sys

from flask import Flask

from backoffice.app import create_app
from backoffice.settings import Settings
from bridge.clock import SystemClock
from bridge.storage.engine import make_engine
from bridge.web.main import run

# The waker rings beside the requests.
SPARE_CONNECTIONS = 1


def _build(settings: Settings) -> Flask:
    """Runs in the worker: what it opens crosses no fork."""
    engine = make_engine(
        settings.database,
        pool_size=settings.threads + SPARE_CONNECTIONS,
        application_name="backoffice",
    )
    return create_app(settings, engine, SystemClock())


if __name__ == "__main__":
    sys.exit(run("backoffice", Settings.from_environment, _build))
