"""The wiring of the mock."""

import time

from flask import Flask

from sap_mock.control_routes import control_routes
from sap_mock.front import Front
from sap_mock.late_commits import LateCommits
from sap_mock.ledger import Ledger
from sap_mock.odata_routes import odata_routes
from sap_mock.posting_desk import PostingDesk
from sap_mock.settings import Settings
from sap_mock.soap_routes import soap_routes
from sap_mock.traffic import Traffic

MAX_BODY_BYTES = 4 * 1024 * 1024


def create_app(settings: Settings) -> Flask:
    """Build the application; it keeps the ledger's file open. LedgerError when the file can't be used."""
    app = Flask("sap_mock")
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.json.sort_keys = False  # type: ignore[attr-defined]  # the provider is Flask's default one
    ledger = Ledger(settings.data)
    traffic = Traffic(settings.seed)
    late_commits = LateCommits()
    desk = PostingDesk(ledger, time.time)
    front = Front(traffic, settings.user, settings.password)
    app.register_blueprint(soap_routes(front, traffic, desk, late_commits))
    app.register_blueprint(odata_routes(front, ledger))
    app.register_blueprint(control_routes(traffic, ledger, late_commits))
    return app
