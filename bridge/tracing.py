"""Traces: one per payment, from the partner's request to the webhook's attempt (W3C Trace Context).

Services make spans through `Tracer`. Without an exporter nothing is recorded and nothing of OpenTelemetry is
loaded: `NullTracer` passes the caller's `traceparent` on as it came. Names and attributes follow
OpenTelemetry's semantic conventions; they carry ids, states and amounts, never names, accounts or texts.
"""

import atexit
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

from bridge.errors import SettingsError

SpanKind = Literal["server", "client", "producer", "consumer", "internal"]
Value = str | int | float | bool
Exporter = Literal["none", "console", "file", "gcp_trace"]
EXPORTERS: tuple[Exporter, ...] = ("none", "console", "file", "gcp_trace")
DEFAULT_SAMPLE_RATIO = 0.1
# last hexadecimal digits with the lowest bit set
_SAMPLED = frozenset("13579bdf")


@dataclass(frozen=True, slots=True)
class TracingSettings:
    """`sample_ratio`: the share of traces, 0 to 1, that are recorded; `file` is for the exporter file."""

    exporter: Exporter
    sample_ratio: float
    file: str | None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "TracingSettings":
        """Read OTEL_TRACES_EXPORTER, OTEL_TRACES_SAMPLER_ARG and TRACES_FILE.

        The first two are OpenTelemetry's own; SettingsError for values that are not known here.
        """
        exporter = environ.get("OTEL_TRACES_EXPORTER", "none")
        if exporter not in EXPORTERS:
            raise SettingsError(f"OTEL_TRACES_EXPORTER is none of {', '.join(EXPORTERS)}")
        file = environ.get("TRACES_FILE")
        if exporter == "file" and not file:
            raise SettingsError("TRACES_FILE is missing: where OTEL_TRACES_EXPORTER=file writes")
        return cls(exporter, _ratio(environ.get("OTEL_TRACES_SAMPLER_ARG")), file)


NO_TRACES = TracingSettings("none", DEFAULT_SAMPLE_RATIO, None)


class Span(Protocol):
    """One piece of work, while it runs."""

    @property
    def traceparent(self) -> str | None:
        """What continues the trace from here: stored, sent with messages and requests."""
        ...

    def note(self, attributes: Mapping[str, Value]) -> None:
        """Add attributes that are known only now."""
        ...

    def fail(self, error_type: str) -> None:
        """Mark the span as failed; `error_type` is an exception's class or a status, never a text."""
        ...


class Tracer(Protocol):
    """Makes spans. `parent` is a `traceparent` from outside; without one the span that runs is the parent."""

    @property
    def records(self) -> bool:
        """Whether anything comes of it; who would only make spans may leave it."""
        ...

    def span(
        self,
        name: str,
        kind: SpanKind,
        *,
        parent: str | None = None,
        attributes: Mapping[str, Value] | None = None,
    ) -> AbstractContextManager[Span]:
        """Run a piece of work under a span. An exception that leaves it marks it as failed."""
        ...

    def left_out(self, kind: SpanKind, parent: str | None) -> str | None:
        """Return what carries on a trace that is not recorded: it needs no span. None: it does."""
        ...

    def publishing(
        self, topic: str, parents: Sequence[str | None]
    ) -> AbstractContextManager[list[str | None]]:
        """Run one publish call under a span per message; what each message carries on is returned."""
        ...

    def close(self) -> None:
        """Send what is still waiting, within a bounded time."""
        ...


class NullSpan:
    """See Span; only carries the trace on."""

    def __init__(self, traceparent: str | None) -> None:
        self.traceparent = traceparent

    def note(self, attributes: Mapping[str, Value]) -> None:
        """Nobody looks."""

    def fail(self, error_type: str) -> None:
        """Nobody looks."""


class NullTracer:
    """Records nothing, and passes on what came in."""

    records = False

    @contextmanager
    def span(
        self,
        name: str,  # noqa: ARG002 - the port's
        kind: SpanKind,  # noqa: ARG002
        *,
        parent: str | None = None,
        attributes: Mapping[str, Value] | None = None,  # noqa: ARG002
    ) -> Iterator[Span]:
        """See Tracer."""
        yield NullSpan(parent)

    def left_out(self, kind: SpanKind, parent: str | None) -> str | None:  # noqa: ARG002 - the port's
        """See Tracer."""
        return parent

    @contextmanager
    def publishing(
        self,
        topic: str,  # noqa: ARG002 - the port's
        parents: Sequence[str | None],
    ) -> Iterator[list[str | None]]:
        """See Tracer."""
        yield list(parents)

    def close(self) -> None:
        """Nothing waits."""


UNTRACED = NullTracer()


def make_tracer(service: str, settings: TracingSettings, project: str | None = None) -> Tracer:
    """Return the service's tracer. Call it after a fork: recording has a thread of its own."""
    if settings.exporter == "none":
        return NullTracer()
    from bridge.gcp.tracing import OpenTelemetryTracer  # noqa: PLC0415 - 7 MiB that few processes need

    tracer = OpenTelemetryTracer(service, settings, project)
    atexit.register(tracer.close)  # SIGTERM ends in an ordinary exit
    return tracer


def is_sampled(traceparent: str) -> bool:
    """Whether the trace is recorded: the lowest flag (the next one says that its id is random).

    https://www.w3.org/TR/trace-context-2/#trace-flags
    """
    return traceparent[-1:] in _SAMPLED


def _ratio(value: str | None) -> float:
    if value is None:
        return DEFAULT_SAMPLE_RATIO
    try:
        ratio = float(value)
    except ValueError:
        ratio = -1.0
    if not 0.0 <= ratio <= 1.0:
        raise SettingsError("OTEL_TRACES_SAMPLER_ARG is not a share from 0 to 1")
    return ratio
