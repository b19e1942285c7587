"""`python -m partners`: settings from the environment, then gunicorn."""

import sys

from flask import Flask

from bridge.gcp.firestore import make_partner_store
from bridge.storage.database_clock import DatabaseClock
from bridge.storage.engine import make_engine
from bridge.web.main import run
from partners.app import create_app
from partners.settings import Settings


def _build(settings: Settings) -> Flask:
    """Runs in the worker: what it opens crosses no fork."""
    clock = DatabaseClock()
    engine = make_engine(
        settings.database, pool_size=settings.threads, application_name="partners", clock=clock
    )
    clock.refresh()
    return create_app(settings, make_partner_store(settings.firestore), engine, clock)


if __name__ == "__main__":
    sys.exit(run("partners", Settings.from_environment, _build))
