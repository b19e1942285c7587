"""`python -m dispatcher`: the worker. Its only HTTP is /livez; SIGTERM and SIGINT stop it within 8 s."""

import os
import signal
import sys
import threading

from bridge.clock_metrics import register_clock_metrics
from bridge.environment import only_check
from bridge.errors import SettingsError
from bridge.gcp.firestore_mark import make_mark_store
from bridge.gcp.pubsub import PubSubPublisher
from bridge.metrics import make_metrics
from bridge.storage.database_clock import DatabaseClock
from bridge.storage.engine import make_engine
from bridge.storage.restores import hold_lanes_of_a_restored_database
from bridge.tracing import make_tracer
from bridge.web.logs import configure_logs
from dispatcher.app import Dispatcher
from dispatcher.liveness import LivenessServer
from dispatcher.mark_keeper import MarkKeeper
from dispatcher.measured import MeasuredPublisher, register_mark_metrics
from dispatcher.settings import Settings
from dispatcher.traced import TracedPublisher


def main() -> int:
    """Run until told to stop."""
    try:
        settings = Settings.from_environment(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"dispatcher: {error}\n")
        return 2
    if only_check(sys.argv):
        return 0
    configure_logs("dispatcher")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    clock = DatabaseClock()
    engine = make_engine(
        settings.database,
        pool_size=settings.database_connections,
        application_name="dispatcher",
        prepared=True,
        clock=clock,
    )
    hold_lanes_of_a_restored_database(engine)
    publisher = PubSubPublisher(
        settings.project,
        emulator_host=settings.pubsub_emulator_host,
        timeout_seconds=settings.publish_timeout_seconds,
    )
    tracer = make_tracer("dispatcher", settings.tracing, settings.project)
    metrics = make_metrics("dispatcher", settings.metrics)
    register_clock_metrics(metrics, clock)
    observed = MeasuredPublisher(TracedPublisher(publisher, tracer), metrics)
    store = make_mark_store(settings.firestore)
    keeper = MarkKeeper(engine, store, clock, settings.mark)
    register_mark_metrics(metrics, keeper.age_seconds)
    dispatcher = Dispatcher(settings, engine, observed, clock, stop, keeper)
    if settings.liveness is not None:
        try:
            LivenessServer(*settings.liveness, dispatcher.stuck)
        except OSError as error:
            sys.stderr.write(f"dispatcher: LIVENESS_PORT {settings.liveness[1]} can't be used: {error}\n")
            return 2
    is_clean = dispatcher.run()
    publisher.close()
    engine.dispose()
    return 0 if is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
