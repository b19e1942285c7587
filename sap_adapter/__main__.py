"""`python -m sap_adapter`: settings from the environment, then gunicorn."""

import sys
from collections.abc import Mapping

from flask import Flask

from bridge.clock_metrics import register_clock_metrics
from bridge.gcp.firestore import make_partner_store
from bridge.key_ring_file import open_key_ring
from bridge.keyring import KeyRing
from bridge.metrics import make_metrics
from bridge.partner_directory import make_directory
from bridge.storage.database_clock import DatabaseClock
from bridge.storage.engine import make_engine
from bridge.storage.restores import hold_lanes_of_a_restored_database
from bridge.tracing import make_tracer
from bridge.web.main import run_with_keys
from sap_adapter.app import create_app
from sap_adapter.classifier import Classifier
from sap_adapter.recall import recall_unclaimed
from sap_adapter.settings import Settings

# Each request uses one connection at a time; the waker and the directory's refresh may want one as well.
SPARE_CONNECTIONS = 2


def _read(environ: Mapping[str, str]) -> Settings:
    settings = Settings.from_environment(environ)
    Classifier.from_package()
    return settings


def _read_keys(settings: Settings) -> KeyRing:
    return open_key_ring(settings.party_key_ring)


def _build(settings: Settings, key_ring: KeyRing) -> Flask:
    """Runs in the worker: what it opens crosses no fork."""
    clock = DatabaseClock()
    engine = make_engine(
        settings.database,
        pool_size=settings.threads + SPARE_CONNECTIONS,
        application_name="sap_adapter",
        prepared=True,
        clock=clock,
    )
    hold_lanes_of_a_restored_database(engine)
    store = make_partner_store(settings.firestore)
    directory = make_directory(store, engine, clock, settings.directory)
    tracer = make_tracer("sap_adapter", settings.tracing, settings.firestore.project)
    metrics = make_metrics("sap_adapter", settings.metrics)
    register_clock_metrics(metrics, clock)
    # the port is open already: what goes out now waits for us there
    recall_unclaimed(engine, settings.sap_connections, clock)
    return create_app(settings, key_ring, directory, engine, clock, tracer, metrics)


if __name__ == "__main__":
    sys.exit(run_with_keys("sap_adapter", _read, _read_keys, _build))
