"""`python -m partners`: settings from the environment, then gunicorn."""

import sys

from flask import Flask

from bridge.clock import SystemClock
from bridge.gcp.firestore import make_partner_store
from bridge.storage.engine import make_engine
from bridge.web.main import run
from partners.app import create_app
from partners.settings import Settings


def _build(settings: Settings) -> Flask:
    """Runs in the worker: what it opens crosses no fork."""
    engine = make_engine(settings.database, pool_size=settings.threads, application_name="partners")
    return create_app(settings, make_partner_store(settings.firestore), engine, SystemClock())


if __name__ == "__main__":
    sys.exit(run("partners", Settings.from_environment, _build))
