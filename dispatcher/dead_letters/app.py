"""The dead-letter service's wiring."""

from flask import Flask

from bridge.clock import Clock, certain_moment
from bridge.gcp.identity import make_authenticator
from bridge.storage.database_clock import DatabaseClock
from bridge.storage.engine import make_engine, ping
from bridge.storage.wake import Waker
from bridge.web.health import register_health
from bridge.web.logs import register_request_log
from bridge.web.problems import register_problems
from bridge.web.push import register_push
from bridge.web.strict import register_strict_requests
from dispatcher.dead_letters.record import DeadLetterRecorder
from dispatcher.dead_letters.settings import Settings


def create_app(settings: Settings, clock: Clock | None = None) -> Flask:
    """Return the application; it connects at first use."""
    database_clock = DatabaseClock()
    engine = make_engine(
        settings.database, pool_size=settings.threads, application_name="dead_letters", clock=database_clock
    )
    clock = clock or database_clock
    app = Flask("dead_letters")
    register_request_log(app)
    register_problems(app)
    register_strict_requests(app)
    register_health(app, {"database": lambda: ping(engine), "clock": lambda: certain_moment(clock)})
    recorder = DeadLetterRecorder(engine, clock, Waker(engine))
    register_push(app, "/pubsub/dead-letters", recorder.record, make_authenticator(settings.caller, clock))
    return app
