"""`python -m backoffice`: settings from the environment, then gunicorn."""

import sys

from flask import Flask

from backoffice.app import create_app
from backoffice.settings import Settings
from bridge.clock_metrics import register_clock_metrics
from bridge.metrics import make_metrics
from bridge.storage.database_clock import DatabaseClock
from bridge.storage.engine import make_engine
from bridge.web.main import run

# The waker rings beside the requests, and the gauges are read.
SPARE_CONNECTIONS = 2


def _build(settings: Settings) -> Flask:
    """Runs in the worker: what it opens crosses no fork."""
    clock = DatabaseClock()
    engine = make_engine(
        settings.database,
        pool_size=settings.threads + SPARE_CONNECTIONS,
        application_name="backoffice",
        clock=clock,
    )
    clock.refresh()
    metrics = make_metrics("backoffice", settings.metrics)
    register_clock_metrics(metrics, clock)
    return create_app(settings, engine, clock, metrics)


if __name__ == "__main__":
    sys.exit(run("backoffice", Settings.from_environment, _build))
