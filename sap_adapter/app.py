"""The adapter's composition root and its one route: Pub/Sub pushes operations here."""

from collections.abc import Mapping

from flask import Flask
from sqlalchemy import Engine
from structlog.contextvars import bind_contextvars

from bridge.clock import Clock, certain_moment
from bridge.gcp.identity import make_authenticator
from bridge.keyring import KeyRing
from bridge.messages import decode_operation
from bridge.metrics import UNMEASURED, Metrics
from bridge.ports import PartnerDirectory
from bridge.storage.engine import ping
from bridge.storage.wake import Waker
from bridge.tracing import Tracer
from bridge.web.health import register_health
from bridge.web.logs import register_request_log
from bridge.web.metrics import register_request_metrics
from bridge.web.problems import register_problems
from bridge.web.push import PushedMessage, register_push
from bridge.web.strict import register_strict_requests
from sap_adapter.classifier import Classifier
from sap_adapter.connector import Connector
from sap_adapter.measured import MeasuredConnector
from sap_adapter.permits import PermitQueue
from sap_adapter.posting import Posting
from sap_adapter.read_lag import ReadLag, ReadLagSettings
from sap_adapter.record import Recorder
from sap_adapter.s4hana import S4HanaConnector
from sap_adapter.settings import Settings
from sap_adapter.traced import TracedConnector

PUSH_PATH = "/pubsub/operations"
# Of the threads, so many may wait for a permit of one SAP system: one in this.
WAITING_SHARE = 4


def create_app(
    settings: Settings,
    key_ring: KeyRing,
    directory: PartnerDirectory,
    engine: Engine,
    clock: Clock,
    tracer: Tracer,
    metrics: Metrics = UNMEASURED,
) -> Flask:
    """Wire the adapter: one pooled session per SAP system, one waker, one use case."""
    waker = Waker(engine)
    recorder = Recorder(engine, key_ring, Classifier.from_package(), clock, settings.record, waker.wake)
    connectors = make_connectors(settings, clock, tracer, metrics)
    lag_settings = ReadLagSettings(settings.record.read_lag_seconds, settings.posting.lease_seconds)
    posting = Posting(
        engine,
        directory,
        connectors,
        key_ring,
        recorder,
        clock,
        settings.posting,
        {
            sap_system: PermitQueue(max(1, settings.threads // WAITING_SHARE))
            for sap_system in settings.sap_connections
        },
        {
            sap_system: ReadLag(engine, connector, clock, sap_system, lag_settings)
            for sap_system, connector in connectors.items()
        },
    )

    def handle(message: PushedMessage) -> None:
        operation = decode_operation(message.data, message.attributes)
        bind_contextvars(
            partner_id=operation.partner_id,
            payment_id=operation.payment_id,
            operation_id=operation.operation_id,
            dispatch_number=operation.dispatch_number,
        )
        posting.handle(operation)

    app = Flask("sap_adapter")
    register_request_metrics(app, metrics)
    register_request_log(app)
    register_problems(app)
    register_strict_requests(app)
    register_push(app, PUSH_PATH, handle, make_authenticator(settings.callers, clock), tracer)
    register_health(app, {"database": lambda: ping(engine), "clock": lambda: certain_moment(clock)})
    return app


def make_connectors(
    settings: Settings, clock: Clock, tracer: Tracer, metrics: Metrics
) -> Mapping[str, Connector]:
    """Return one connector per SAP system that is configured."""
    return {
        sap_system: TracedConnector(
            MeasuredConnector(
                S4HanaConnector(connection, settings.timeouts, max_calls=settings.threads, clock=clock),
                metrics,
                sap_system,
            ),
            tracer,
            sap_system,
        )
        for sap_system, connection in settings.sap_connections.items()
    }
