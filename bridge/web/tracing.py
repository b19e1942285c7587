"""A span per HTTP request, continuing the caller's trace; its ids stand in the request's log lines."""

from flask import Flask, Response, g, request
from structlog.contextvars import bind_contextvars

from bridge.tracing import Tracer, is_sampled
from bridge.web.request_id import sent_traceparent

# Cloud Logging's names: https://cloud.google.com/logging/docs/structured-logging#structured_logging_special_fields
TRACE_FIELD = "logging.googleapis.com/trace"
SPAN_FIELD = "logging.googleapis.com/spanId"
SAMPLED_FIELD = "logging.googleapis.com/trace_sampled"
_UNTRACED = frozenset({"/livez", "/readyz"})


def register_tracing(app: Flask, tracer: Tracer, project: str) -> None:
    """Run every request but the probes under a server span; call it before what else looks at requests."""
    if not tracer.records:
        return

    @app.before_request
    def begin() -> None:
        if request.path in _UNTRACED:
            return
        parent = sent_traceparent()
        left_out = tracer.left_out("server", parent)
        if left_out is not None:
            # nothing below a request looks for a span that runs: what follows from it is handed this
            g.traceparent = left_out
            bind_trace(left_out, project)
            return
        route = request.url_rule.rule if request.url_rule else None
        g.span_context = tracer.span(
            f"{request.method} {route}" if route else request.method,
            "server",
            parent=parent,
            attributes={"http.request.method": request.method, **({"http.route": route} if route else {})},
        )
        g.span = g.span_context.__enter__()
        g.traceparent = g.span.traceparent
        bind_trace(g.traceparent, project)

    @app.after_request
    def note_status(response: Response) -> Response:
        if "span" in g:
            g.span.note({"http.response.status_code": response.status_code})
            if response.status_code >= 500:
                g.span.fail(str(response.status_code))
        return response

    @app.teardown_request
    def end(_error: BaseException | None) -> None:
        if "span_context" in g:
            g.pop("span", None)
            g.pop("span_context").__exit__(None, None, None)


def bind_trace(traceparent: str | None, project: str) -> None:
    """Put the trace's ids into the log lines that follow in this request."""
    if traceparent is None:
        return
    _, trace_id, span_id, _ = traceparent.split("-")
    bind_contextvars(
        **{
            TRACE_FIELD: f"projects/{project}/traces/{trace_id}",
            SPAN_FIELD: span_id,
            SAMPLED_FIELD: is_sampled(traceparent),
        }
    )
