"""The composition root of the partners service."""

from flask import Flask
from sqlalchemy import Engine

from bridge.clock import Clock, certain_moment
from bridge.gcp.operators import make_operator_authenticator
from bridge.ports import PartnerStore
from bridge.storage.engine import ping
from bridge.web.health import register_health
from bridge.web.logs import register_request_log
from bridge.web.problems import register_problems
from bridge.web.request_id import register_request_id
from bridge.web.strict import register_strict_requests
from partners.change import Partners
from partners.routes import register_routes
from partners.settings import Settings

# No partner has it; asking for it shows whether the store answers.
NOBODY = f"par_{'0' * 26}"


def create_app(settings: Settings, store: PartnerStore, engine: Engine, clock: Clock) -> Flask:
    """Put the routes before the use cases."""
    app = Flask("partners")
    register_request_id(app)
    register_request_log(app)
    register_problems(app)
    register_strict_requests(app)
    authenticate = make_operator_authenticator(settings.operators, clock)
    register_routes(app, Partners(store, engine, clock), authenticate)
    checks = {
        "database": lambda: ping(engine),
        "clock": lambda: certain_moment(clock),
        "firestore": lambda: _answers(store),
    }
    register_health(app, checks)
    return app


def _answers(store: PartnerStore) -> None:
    store.get(NOBODY)
