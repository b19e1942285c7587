"""`python -m webhooks`: settings from the environment, then gunicorn."""

import sys

from flask import Flask

from bridge.clock_metrics import register_clock_metrics
from bridge.gcp.firestore import make_partner_store
from bridge.gcp.tasks import make_task_queue
from bridge.key_ring_file import open_key_ring
from bridge.keyring import KeyRing
from bridge.messages import WEBHOOK_QUEUE
from bridge.metrics import make_metrics
from bridge.partner_directory import make_directory
from bridge.storage.database_clock import DatabaseClock
from bridge.storage.engine import make_engine
from bridge.tracing import make_tracer
from bridge.web.main import run_with_keys
from webhooks.app import create_app, make_use_cases
from webhooks.settings import Settings

# Beside one per request: the sweeper, and the directory's refresh.
SPARE_CONNECTIONS = 2
# A push or a task waits no longer for a queue that is away; the sweeper makes the task then.
TASK_RETRY_TIMEOUT_SECONDS = 3.0
# A call takes a round trip; a page of the feed is a hundred of them.
TASK_CALLS_AT_ONCE = 8


def _read_keys(settings: Settings) -> KeyRing:
    return open_key_ring(settings.webhook_key_ring)


def _build(settings: Settings, key_ring: KeyRing) -> Flask:
    """Runs in the worker: what it opens, and the sweeper's thread, cross no fork."""
    clock = DatabaseClock()
    engine = make_engine(
        settings.database,
        pool_size=settings.threads + SPARE_CONNECTIONS,
        application_name="webhooks",
        prepared=True,
        clock=clock,
    )
    clock.refresh()
    directory = make_directory(make_partner_store(settings.firestore), engine, clock, settings.directory)
    queue = make_task_queue(
        settings.tasks.project,
        settings.tasks.location,
        WEBHOOK_QUEUE,
        emulator_host=settings.tasks.emulator_host,
        service_account_email=settings.tasks.service_account_email,
        # tasks come back to us: one audience for all our callers
        audience=settings.callers.audience or None,
        retry_timeout_seconds=TASK_RETRY_TIMEOUT_SECONDS,
    )
    tracer = make_tracer("webhooks", settings.tracing, settings.firestore.project)
    metrics = make_metrics("webhooks", settings.metrics)
    register_clock_metrics(metrics, clock)
    use_cases = make_use_cases(
        settings,
        key_ring,
        engine,
        directory,
        queue,
        clock,
        tracer=tracer,
        metrics=metrics,
        task_calls_at_once=TASK_CALLS_AT_ONCE,
    )
    use_cases.sweeper.start()
    return create_app(settings, engine, use_cases, clock, tracer, metrics)


if __name__ == "__main__":
    sys.exit(run_with_keys("webhooks", Settings.from_environment, _read_keys, _build))
