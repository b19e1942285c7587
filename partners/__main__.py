"""`python -m partners`: settings from the environment, then gunicorn."""

import os
import sys

from flask import Flask

from bridge.clock import SystemClock
from bridge.errors import SettingsError
from bridge.gcp.firestore import make_partner_store
from bridge.storage.engine import make_engine
from bridge.web.logs import configure_logs
from bridge.web.serve import serve
from partners.app import create_app
from partners.settings import Settings


def main() -> int:
    """Serve until SIGTERM; status 2 and one line for a wrong setting."""
    configure_logs("partners")
    try:
        settings = Settings.from_environment(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"partners: {error}\n")
        return 2
    return serve(
        lambda: _build(settings),
        host=settings.host,
        port=settings.port,
        threads=settings.threads,
        name="partners",
    )


def _build(settings: Settings) -> Flask:
    """Runs in the worker: what it opens crosses no fork."""
    engine = make_engine(settings.database, pool_size=settings.threads, application_name="partners")
    return create_app(settings, make_partner_store(settings.firestore), engine, SystemClock())


if __name__ == "__main__":
    sys.exit(main())
