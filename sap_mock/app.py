"""The wiring of the mock: one Flask application per SAP system, the first of them before the others."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flask import Flask
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from sap_mock.control_routes import control_routes
from sap_mock.front import Front
from sap_mock.odata_routes import odata_routes
from sap_mock.settings import Settings
from sap_mock.soap_routes import soap_routes
from sap_mock.system import System

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

MAX_BODY_BYTES = 4 * 1024 * 1024


def create_app(settings: Settings) -> Flask:
    """Build the application; it keeps the ledgers' files open. LedgerError when one can't be used.

    Each system is at `/systems/<name>`; without that prefix stand the services of the first one, and a
    control side for all of them together.
    """
    systems = {name: System.open(settings.data_of(name), settings.seed) for name in settings.systems}
    first, *_ = systems.values()
    app = _one_app(settings, first, list(systems.values()))
    mounts: dict[str, WSGIApplication] = {
        f"/systems/{name}": _one_app(settings, system, [system]) for name, system in systems.items()
    }
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, mounts)  # type: ignore[method-assign]  # Flask's own way
    return app


def _one_app(settings: Settings, system: System, controlled: Sequence[System]) -> Flask:
    app = Flask("sap_mock")
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.json.sort_keys = False  # type: ignore[attr-defined]  # the provider is Flask's default one
    front = Front(system.traffic, settings.user, settings.password)
    app.register_blueprint(soap_routes(front, system))
    app.register_blueprint(odata_routes(front, system.ledger))
    app.register_blueprint(control_routes(controlled))
    return app
