"""`python -m gateway`: settings from the environment, then gunicorn."""
# ruff: noqa: E402 - the imports themselves are what must run without the collector

import gc

# Nothing that importing makes is garbage, and looking for some is a fifth of the start. serve() enables it.
gc.disable()

import sys

from flask import Flask

from bridge.clock_metrics import register_clock_metrics
from bridge.gcp.firestore import make_partner_store
from bridge.metrics import make_metrics
from bridge.partner_directory import make_directory
from bridge.partner_mirror import PartnerMirror
from bridge.storage.accept import make_statement_engine
from bridge.storage.database_clock import DatabaseClock
from bridge.storage.engine import make_engine
from bridge.tracing import make_tracer
from bridge.web.main import run_with_keys
from gateway.app import Keys, create_app
from gateway.partner_record import PartnerRecord
from gateway.settings import Settings

# The mirror of the partner directory is asked at start and while Firestore is away, one partner at a time.
MIRROR_CONNECTIONS = 2


def main() -> int:
    """Serve until SIGTERM; status 2 and one line for a wrong setting or key."""
    return run_with_keys("gateway", Settings.from_environment, Keys.read, _build)


def _build(settings: Settings, keys: Keys) -> Flask:
    """Runs in the worker: what it opens crosses no fork."""
    clock = DatabaseClock()
    mirror = make_engine(
        settings.database, pool_size=MIRROR_CONNECTIONS, application_name="gateway-mirror", clock=clock
    )
    store = make_partner_store(settings.firestore)
    directory = make_directory(store, mirror, clock, settings.directory)
    engine = make_statement_engine(
        settings.database, pool_size=settings.threads, application_name="gateway", clock=clock
    )
    clock.refresh()
    tracer = make_tracer("gateway", settings.tracing, settings.firestore.project)
    record = PartnerRecord(store, PartnerMirror(mirror), clock)
    metrics = make_metrics("gateway", settings.metrics)
    register_clock_metrics(metrics, clock)
    return create_app(settings, keys, engine, directory, record, clock, tracer, metrics=metrics)


if __name__ == "__main__":
    sys.exit(main())
