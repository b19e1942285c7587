"""How long requests take, by route and status: OpenTelemetry's http.server.request.duration.

https://opentelemetry.io/docs/specs/semconv/http/http-metrics/#metric-httpserverrequestduration
"""

import time

from flask import Flask, Response, g, request

from bridge.metrics import Metrics

# RFC 9110 and PATCH; any other method is one value, or callers would make as many time series as they like.
_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
_PROBES = frozenset({"/livez", "/readyz"})


def register_request_metrics(app: Flask, metrics: Metrics) -> None:
    """Measure every request but the probes; call it before what else looks at requests."""
    durations = metrics.histogram("http.server.request.duration")

    @app.before_request
    def start() -> None:
        g.measured_from = time.perf_counter()

    @app.after_request
    def measure(response: Response) -> Response:
        measured_from = g.pop("measured_from", None)
        # each look at the request of this thread takes as long as all the rest
        measured = request._get_current_object()  # type: ignore[attr-defined] # noqa: SLF001 - werkzeug's documented way
        if measured_from is None or measured.path in _PROBES:
            return response
        status = response.status_code
        attributes: dict[str, str | int] = {
            "http.request.method": measured.method if measured.method in _METHODS else "_OTHER",
            "url.scheme": measured.scheme,
            "http.response.status_code": status,
        }
        if measured.url_rule is not None:
            attributes["http.route"] = measured.url_rule.rule
        if status >= 500:
            attributes["error.type"] = str(status)
        durations.record(time.perf_counter() - measured_from, attributes)
        return response
