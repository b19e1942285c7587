"""`python -m sap_adapter`: settings from the environment, then gunicorn."""

import os
import sys

from flask import Flask

from bridge.clock import SystemClock
from bridge.errors import SettingsError
from bridge.gcp.firestore import make_partner_store
from bridge.partner_directory import make_directory
from bridge.storage.engine import make_engine
from bridge.web.logs import configure_logs
from bridge.web.serve import serve
from sap_adapter.app import create_app
from sap_adapter.settings import Settings

# Each request uses one connection at a time; the waker and the directory's refresh may want one as well.
SPARE_CONNECTIONS = 2


def main() -> int:
    """Serve until SIGTERM; status 2 and one line for a wrong setting."""
    configure_logs("sap_adapter")
    try:
        settings = Settings.from_environment(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"sap_adapter: {error}\n")
        return 2
    return serve(
        lambda: _build(settings),
        host=settings.host,
        port=settings.port,
        threads=settings.threads,
        name="sap_adapter",
    )


def _build(settings: Settings) -> Flask:
    """Runs in the worker: what it opens crosses no fork."""
    clock = SystemClock()
    engine = make_engine(
        settings.database,
        pool_size=settings.threads + SPARE_CONNECTIONS,
        application_name="sap_adapter",
    )
    store = make_partner_store(settings.firestore)
    directory = make_directory(store, engine, clock, settings.directory)
    return create_app(settings, directory, engine, clock)


if __name__ == "__main__":
    sys.exit(main())
