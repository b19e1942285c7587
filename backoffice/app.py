"""The composition root of the backoffice service: what operators do, and the trail of it."""

from flask import Blueprint, Flask
from sqlalchemy import Engine

from backoffice.change_operation import Operations
from backoffice.dead_letter_routes import register_dead_letters
from backoffice.dead_letters import DeadLetters
from backoffice.lane_routes import register_lanes
from backoffice.lanes import Lanes
from backoffice.payment_routes import register_payments
from backoffice.recover import Recover
from backoffice.recovery_routes import register_recoveries, register_unplaced_documents
from backoffice.settings import Settings
from backoffice.state_metrics import StateMetrics
from backoffice.status import register_status
from backoffice.unplaced import UnplacedDocuments
from bridge.clock import Clock, certain_moment
from bridge.gcp.operators import make_operator_authenticator
from bridge.metrics import UNMEASURED, Metrics
from bridge.storage.engine import ping
from bridge.storage.wake import Waker
from bridge.web.health import register_health
from bridge.web.logs import register_request_log
from bridge.web.metrics import register_request_metrics
from bridge.web.problems import register_problems
from bridge.web.request_id import register_request_id
from bridge.web.strict import register_strict_requests


def create_app(settings: Settings, engine: Engine, clock: Clock, metrics: Metrics = UNMEASURED) -> Flask:
    """Put the routes before the use cases."""
    app = Flask("backoffice")
    register_request_metrics(app, metrics)
    StateMetrics(engine, clock, settling_seconds=settings.settling_seconds).register(metrics)
    register_request_id(app)
    register_request_log(app)
    register_problems(app)
    register_strict_requests(app)
    authenticate = make_operator_authenticator(settings.operators, clock)
    wake = Waker(engine).wake
    operations = Operations(engine, clock, wake, settling_seconds=settings.settling_seconds)
    admin = Blueprint("admin", __name__, url_prefix="/admin")
    register_payments(admin, engine, clock, operations, authenticate)
    lanes = Lanes(engine, clock, wake)
    register_lanes(admin, lanes, authenticate)
    register_status(admin, engine, clock, lanes, authenticate, settling_seconds=settings.settling_seconds)
    register_dead_letters(admin, DeadLetters(engine, clock, wake, operations), authenticate)
    register_recoveries(admin, Recover(engine, clock), clock, authenticate)
    register_unplaced_documents(admin, UnplacedDocuments(engine, clock, wake), authenticate)
    app.register_blueprint(admin)
    register_health(app, {"database": lambda: ping(engine), "clock": lambda: certain_moment(clock)})
    return app
