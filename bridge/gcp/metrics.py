"""Metrics by OpenTelemetry: Prometheus text on a private port; OTLP, in production to Google's endpoint."""

import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from urllib.parse import urlsplit

import requests
import structlog
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource

from bridge.gcp.http import google_session
from bridge.metrics import Counter, Figures, Histogram, MetricsSettings, definition
from bridge.web.bounded_session import bounded_session

GOOGLE_HOST = "telemetry.googleapis.com"
GOOGLE_SCOPE = "https://www.googleapis.com/auth/monitoring.write"
# The alerts look every 30 s too (terraform/monitoring.tf).
EXPORT_INTERVAL_MILLISECONDS = 30_000
EXPORT_TIMEOUT_SECONDS = 5.0
# What SIGTERM leaves of the ten seconds, once requests and traces have ended.
CLOSE_TIMEOUT_MILLISECONDS = 500
# The process before may still hold the port (bridge.web.serve), or anybody else.
BIND_PAUSE_SECONDS = 1.0

_log = structlog.get_logger(__name__)


class OpenTelemetryMetrics:
    """See Metrics. One per process, made after its fork."""

    def __init__(self, service: str, settings: MetricsSettings) -> None:
        attributes = {SERVICE_NAME: service, SERVICE_INSTANCE_ID: uuid.uuid4().hex}
        self._provider = MeterProvider(
            metric_readers=_readers(settings),
            resource=Resource({**(settings.resource or {}), **attributes}),
            exemplar_filter=AlwaysOffExemplarFilter(),
            shutdown_on_exit=False,
        )
        self._meter = self._provider.get_meter("bridge")

    def counter(self, name: str) -> Counter:
        """See Metrics."""
        about = definition(name)
        return self._meter.create_counter(name, about.unit, about.description)

    def histogram(self, name: str) -> Histogram:
        """See Metrics."""
        about = definition(name)
        return self._meter.create_histogram(
            name, about.unit, about.description, explicit_bucket_boundaries_advisory=list(about.boundaries)
        )

    def gauges(self, names: Sequence[str], read: Callable[[], Figures]) -> None:
        """See Metrics."""
        for name in names:
            about = definition(name)
            self._meter.create_observable_gauge(
                name, [_observing(name, read)], unit=about.unit, description=about.description
            )

    def close(self) -> None:
        """See Metrics."""
        self._provider.shutdown(timeout_millis=CLOSE_TIMEOUT_MILLISECONDS)


def _observing(name: str, read: Callable[[], Figures]) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, attributes) for value, attributes in read().get(name, ())]

    return observe


def _readers(settings: MetricsSettings) -> list[MetricReader]:
    readers: list[MetricReader] = []
    if "prometheus" in settings.exporters:
        readers.append(_prometheus(settings.host, settings.port))
    if "otlp" in settings.exporters:
        readers.append(_otlp(settings.endpoint))
    return readers


def _prometheus(host: str, port: int) -> MetricReader:
    from opentelemetry.exporter.prometheus import PrometheusMetricReader  # noqa: PLC0415 - not in production
    from prometheus_client import CollectorRegistry  # noqa: PLC0415 - as above

    # a registry of our own: the library's has metrics of the process that nobody has listed
    registry = CollectorRegistry()
    reader = PrometheusMetricReader(disable_target_info=True, scope_info_enabled=False, registry=registry)
    thread = threading.Thread(target=_serve, args=(host, port, registry), name="prometheus", daemon=True)
    thread.start()
    return reader


def _serve(host: str, port: int, registry: "object") -> None:
    """Serve the text as soon as the port is to be had: what is told about payments must not stop them."""
    from prometheus_client import start_http_server  # noqa: PLC0415 - as above

    pause = threading.Event()
    is_told = False
    while True:
        try:
            start_http_server(port, host, registry)  # type: ignore[arg-type] # CollectorRegistry, loaded late
        except OSError as error:
            if not is_told:
                _log.error("metrics have no port", port=port, reason=type(error).__name__)
            is_told = True
            pause.wait(BIND_PAUSE_SECONDS)
        else:
            return


def _otlp(endpoint: str) -> MetricReader:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import (  # noqa: PLC0415 - in production only
        OTLPMetricExporter,
    )

    exporter = OTLPMetricExporter(endpoint, timeout=EXPORT_TIMEOUT_SECONDS, session=_session(endpoint))
    return PeriodicExportingMetricReader(
        exporter,
        export_interval_millis=EXPORT_INTERVAL_MILLISECONDS,
        export_timeout_millis=EXPORT_TIMEOUT_SECONDS * 1000,
    )


def _session(endpoint: str) -> requests.Session:
    """Only Google is shown our token."""
    if urlsplit(endpoint).hostname != GOOGLE_HOST:
        return bounded_session(EXPORT_TIMEOUT_SECONDS)
    return google_session(GOOGLE_SCOPE, EXPORT_TIMEOUT_SECONDS)
