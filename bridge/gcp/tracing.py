"""Traces by OpenTelemetry: to Cloud Trace in production, to a file or the console locally."""

import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind as OtelSpanKind
from opentelemetry.trace import Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from bridge.tracing import NullSpan, Span, SpanKind, TracingSettings, Value, is_sampled

EXPORT_DELAY_MILLISECONDS = 1000
# what SIGTERM leaves of the ten seconds, once the running requests have ended
CLOSE_TIMEOUT_MILLISECONDS = 1500

_KINDS = {
    "server": OtelSpanKind.SERVER,
    "client": OtelSpanKind.CLIENT,
    "producer": OtelSpanKind.PRODUCER,
    "consumer": OtelSpanKind.CONSUMER,
    "internal": OtelSpanKind.INTERNAL,
}
_PROPAGATOR = TraceContextTextMapPropagator()
# what runs here below a trace that is not recorded
_LEFT_OUT: ContextVar[str | None] = ContextVar("left_out", default=None)


class OpenTelemetryTracer:
    """See Tracer. Thread-safe. One per process, made after its fork.

    Whether a trace is recorded is decided where it enters the bridge, by its id alone: a partner's own
    `sampled` flag neither costs us money nor hides a payment. Inside, the flag of the parent counts.
    """

    records = True

    def __init__(self, service: str, settings: TracingSettings, project: str | None = None) -> None:
        self._ratio = TraceIdRatioBased(settings.sample_ratio)
        self._is_entrance = service == "gateway"
        self._ids = _ChosenIds()
        self._provider = TracerProvider(
            resource=Resource({SERVICE_NAME: service}),
            sampler=self._ratio if self._is_entrance else ParentBased(self._ratio),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._processor = BatchSpanProcessor(
            _exporter(settings, project), schedule_delay_millis=EXPORT_DELAY_MILLISECONDS
        )
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer("bridge")

    @contextmanager
    def span(
        self,
        name: str,
        kind: SpanKind,
        *,
        parent: str | None = None,
        attributes: Mapping[str, Value] | None = None,
    ) -> Iterator[Span]:
        """See Tracer."""
        left_out = self.left_out(kind, parent)
        if left_out is not None:
            token = _LEFT_OUT.set(left_out)
            try:
                yield NullSpan(left_out)
            finally:
                _LEFT_OUT.reset(token)
            return
        context = _context(parent) if parent is not None else None
        with self._open(name, kind, context, attributes) as span:
            yield span

    def left_out(self, kind: SpanKind, parent: str | None) -> str | None:
        """See Tracer. Nine of ten are; to find that out by making a span costs as much as recording one."""
        if self._is_entrance and kind == "server":
            trace_id = int(parent.split("-")[1], 16) if parent else self._ids.generate_trace_id()
            if trace_id & TraceIdRatioBased.TRACE_ID_LIMIT >= self._ratio.bound:
                return f"00-{trace_id:032x}-{self._ids.generate_span_id():016x}-00"
            if not parent:
                self._ids.choose(trace_id)
            return None
        if parent is None:
            return _LEFT_OUT.get()
        return None if is_sampled(parent) else parent

    @contextmanager
    def publishing(self, topic: str, parents: Sequence[str | None]) -> Iterator[list[str | None]]:
        """See Tracer."""
        attributes: dict[str, Value] = {
            "messaging.system": "gcp_pubsub",
            "messaging.operation.type": "send",
            "messaging.destination.name": topic,
            "messaging.batch.message_count": len(parents),
        }
        with ExitStack() as stack:
            spans = [
                stack.enter_context(self._open(f"send {topic}", "producer", _context(parent), attributes))
                for parent in parents
            ]
            yield [span.traceparent for span in spans]

    @contextmanager
    def _open(
        self, name: str, kind: SpanKind, context: Context | None, attributes: Mapping[str, Value] | None
    ) -> Iterator[Span]:
        """Run a span below `context`; None: below whatever runs in this thread."""
        with self._tracer.start_as_current_span(
            name, context=context, kind=_KINDS[kind], attributes=attributes,
            record_exception=False, set_status_on_exception=False,
        ) as span:  # fmt: skip
            ours = _Span(span)
            try:
                yield ours
            except BaseException as error:
                # an exception's text may quote contents: its class is enough
                ours.fail(type(error).__name__)
                raise

    def close(self) -> None:
        """See Tracer."""
        self._processor.force_flush(CLOSE_TIMEOUT_MILLISECONDS)
        self._provider.shutdown()


class _ChosenIds(RandomIdGenerator):
    """Gives the next trace of this thread the id by which it was chosen to be recorded."""

    def __init__(self) -> None:
        self._chosen = threading.local()

    def choose(self, trace_id: int) -> None:
        self._chosen.trace_id = trace_id

    def generate_trace_id(self) -> int:
        """See IdGenerator."""
        chosen: int | None = self._chosen.__dict__.pop("trace_id", None)
        return chosen or super().generate_trace_id()


class _Span:
    def __init__(self, span: Any) -> None:
        self._span = span
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier)
        self._traceparent = carrier.get("traceparent")

    @property
    def traceparent(self) -> str | None:
        """See Span."""
        return self._traceparent

    def note(self, attributes: Mapping[str, Value]) -> None:
        """See Span."""
        self._span.set_attributes(attributes)

    def fail(self, error_type: str) -> None:
        """See Span."""
        self._span.set_attribute("error.type", error_type)
        self._span.set_status(Status(StatusCode.ERROR))


def _context(parent: str | None) -> Context:
    """Return the context that a `traceparent` stands for; without one, that of a new trace."""
    return _PROPAGATOR.extract({"traceparent": parent}, context=Context()) if parent else Context()


def _exporter(settings: TracingSettings, project: str | None) -> SpanExporter:
    if settings.exporter == "gcp_trace":
        from opentelemetry.exporter.cloud_trace import CloudTraceSpanExporter  # noqa: PLC0415 - in production only

        return CloudTraceSpanExporter(project_id=project)  # type: ignore[no-untyped-call]
    if settings.exporter == "file":
        return _FileExporter(str(settings.file))
    return ConsoleSpanExporter(out=sys.stdout, formatter=_one_line)


def _one_line(span: ReadableSpan) -> str:
    return f"{span.to_json(indent=None)}{os.linesep}"


class _FileExporter(ConsoleSpanExporter):
    """One line of JSON per span. Several processes may share the file: each appends, a line at a time."""

    def __init__(self, path: str) -> None:
        self._file = Path(path).open("a", encoding="utf-8", buffering=1)  # noqa: SIM115 - until shutdown
        super().__init__(out=self._file, formatter=_one_line)

    def shutdown(self) -> None:
        """See SpanExporter."""
        self._file.close()
