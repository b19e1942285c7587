"""Metrics: what the bridge counts and measures, by the names of metrics.json, which the alerts go by as well.

Names and units follow OpenTelemetry's semantic conventions. Without an exporter nothing is counted and
nothing of OpenTelemetry is loaded. Attributes are lanes, outcomes, routes: few values each, and never a
partner's data.
"""

import atexit
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Literal, Protocol

from bridge.environment import MAX_PORT, http_url, whole
from bridge.errors import SettingsError

Attributes = Mapping[str, str | int]
# What gauges show: by the metric's name, a value for each set of attributes.
Figures = Mapping[str, Sequence[tuple[float, Attributes]]]
Exporter = Literal["prometheus", "otlp"]
EXPORTERS: tuple[Exporter, ...] = ("prometheus", "otlp")
NONE = "none"
# OpenTelemetry's own default
PROMETHEUS_PORT = 9464


@dataclass(frozen=True, slots=True)
class Definition:
    """One entry of metrics.json. `boundaries` are a histogram's, in its unit."""

    instrument: Literal["counter", "gauge", "histogram"]
    unit: str
    attributes: Sequence[str]
    description: str
    boundaries: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """`host` and `port` are for prometheus, `endpoint` (with its path) and `resource` for otlp."""

    exporters: frozenset[Exporter]
    host: str = "127.0.0.1"
    port: int = PROMETHEUS_PORT
    endpoint: str = ""
    resource: Mapping[str, str] | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "MetricsSettings":
        """Read OpenTelemetry's own variables; SettingsError names the first one that is wrong."""
        exporters = _exporters(environ.get("OTEL_METRICS_EXPORTER", NONE))
        settings = cls(exporters)
        if "prometheus" in exporters:
            settings = cls(
                exporters,
                host=environ.get("OTEL_EXPORTER_PROMETHEUS_HOST", settings.host),
                port=whole(environ, "OTEL_EXPORTER_PROMETHEUS_PORT", PROMETHEUS_PORT, at_most=MAX_PORT),
            )
        if "otlp" in exporters:
            settings = cls(
                exporters,
                host=settings.host,
                port=settings.port,
                endpoint=http_url(environ, "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"),
                resource=_resource(environ.get("OTEL_RESOURCE_ATTRIBUTES", "")),
            )
        return settings


NO_METRICS = MetricsSettings(frozenset())


class Counter(Protocol):
    """Counts things that happened."""

    def add(self, amount: int, attributes: Attributes | None = None) -> None: ...


class Histogram(Protocol):
    """Takes measurements, in the metric's unit."""

    def record(self, amount: float, attributes: Attributes | None = None) -> None: ...


class Metrics(Protocol):
    """Makes instruments. Each asks for a metric by its name in metrics.json; KeyError for any other."""

    def counter(self, name: str) -> Counter: ...

    def histogram(self, name: str) -> Histogram: ...

    def gauges(self, names: Sequence[str], read: Callable[[], Figures]) -> None:
        """Show these of what `read` returns: it is called whenever somebody looks, once for each name."""
        ...

    def close(self) -> None:
        """Send what was counted last, within a bounded time."""
        ...


class _NullInstrument:
    def add(self, amount: int, attributes: Attributes | None = None) -> None:
        """Nobody looks."""

    def record(self, amount: float, attributes: Attributes | None = None) -> None:
        """Nobody looks."""


class NullMetrics:
    """Counts nothing."""

    def counter(self, name: str) -> Counter:
        """See Metrics."""
        definition(name)
        return _NullInstrument()

    def histogram(self, name: str) -> Histogram:
        """See Metrics."""
        definition(name)
        return _NullInstrument()

    def gauges(self, names: Sequence[str], read: Callable[[], Figures]) -> None:  # noqa: ARG002 - the port's
        """See Metrics."""
        for name in names:
            definition(name)

    def close(self) -> None:
        """Nothing waits."""


UNMEASURED = NullMetrics()


@lru_cache(maxsize=1)
def catalogue() -> Mapping[str, Definition]:
    """Return every metric there is."""
    entries = json.loads(files("bridge").joinpath("metrics.json").read_text(encoding="utf-8"))
    return {name: Definition(**entry) for name, entry in entries.items()}


def definition(name: str) -> Definition:
    """Return one metric; KeyError for what is not listed: nothing is told that nobody knows of."""
    return catalogue()[name]


def make_metrics(service: str, settings: MetricsSettings) -> Metrics:
    """Return the service's metrics. Call it after a fork: telling them has threads of its own."""
    if not settings.exporters:
        return NullMetrics()
    from bridge.gcp.metrics import OpenTelemetryMetrics  # noqa: PLC0415 - 4 MiB for who tells nothing

    metrics = OpenTelemetryMetrics(service, settings)
    atexit.register(metrics.close)  # SIGTERM ends in an ordinary exit
    return metrics


def _exporters(value: str) -> frozenset[Exporter]:
    if value == NONE:
        return frozenset()
    names = {name.strip() for name in value.split(",")}
    if not names <= set(EXPORTERS):
        raise SettingsError(f"OTEL_METRICS_EXPORTER is neither {NONE} nor some of {', '.join(EXPORTERS)}")
    return frozenset(name for name in EXPORTERS if name in names)


def _resource(value: str) -> Mapping[str, str]:
    """Read `key=value,key=value`: https://opentelemetry.io/docs/specs/otel/resource/sdk/."""
    pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
    if not all(key.strip() and is_pair for key, is_pair, _ in pairs):
        raise SettingsError("OTEL_RESOURCE_ATTRIBUTES is not a list of key=value, separated by commas")
    return {key.strip(): text.strip() for key, _, text in pairs}
