"""Metrics: named as is listed, told as text and by OTLP, and loading nothing where they are off."""

import json
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import requests
from flask import Flask
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client.parser import text_string_to_metric_families
from stand_ins import REPOSITORY
from structlog.testing import capture_logs
from waiting import DEADLINE_SECONDS, wait_until

from bridge.errors import SettingsError
from bridge.gcp.metrics import OpenTelemetryMetrics
from bridge.metrics import NO_METRICS, MetricsSettings, NullMetrics, catalogue, make_metrics
from bridge.web.metrics import register_request_metrics
from devstack.postgres import free_port

pytestmark = pytest.mark.unit


def told(port):
    """The samples that are told: by name and labels."""
    text = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=DEADLINE_SECONDS).text
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def is_there(port):
    try:
        return bool(requests.get(f"http://127.0.0.1:{port}/metrics", timeout=1))
    except requests.RequestException:
        return False


@pytest.fixture
def prometheus():
    settings = MetricsSettings(frozenset({"prometheus"}), port=free_port())
    metrics = OpenTelemetryMetrics("test", settings)
    wait_until(lambda: is_there(settings.port), what="the port")
    yield metrics, settings.port
    metrics.close()


def test_what_is_counted_and_measured_is_told_as_text(prometheus):
    metrics, port = prometheus
    metrics.counter("bridge.webhook.attempts").add(2, {"bridge.outcome": "failed"})
    metrics.histogram("bridge.payment.accept.duration").record(0.03)
    lane = {"bridge.lane": "s4-main"}
    metrics.gauges(["bridge.outbox.age", "bridge.feed.lag"], lambda: {"bridge.outbox.age": [(7.5, lane)]})
    samples = told(port)
    assert samples["bridge_webhook_attempts_total", ("bridge_outcome", "failed")] == 2
    assert samples["bridge_payment_accept_duration_seconds_bucket", ("le", "0.025")] == 0
    assert samples["bridge_payment_accept_duration_seconds_bucket", ("le", "0.05")] == 1
    assert samples["bridge_outbox_age_seconds", ("bridge_lane", "s4-main")] == 7.5
    # nothing of the process that nobody has listed, and no gauge without a figure
    assert {name.split("_")[0] for name, *_ in samples} == {"bridge"}
    assert not any(name.startswith("bridge_feed") for name, *_ in samples)


@pytest.mark.parametrize("metrics", [NullMetrics(), OpenTelemetryMetrics("test", NO_METRICS)])
def test_a_metric_that_is_not_listed_does_not_exist(metrics):
    for ask in (metrics.counter, metrics.histogram, lambda name: metrics.gauges([name], dict)):
        with pytest.raises(KeyError):
            ask("bridge.payments.acceptd")


def test_metrics_go_by_otlp_to_where_they_are_told_to():
    received = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, self.headers.get("Authorization"), body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = MetricsSettings.from_environment(
        {
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"http://127.0.0.1:{server.server_port}/v1/metrics",
            "OTEL_RESOURCE_ATTRIBUTES": "cloud.region=europe-west3,gcp.project_id=a-project",
        }
    )
    metrics = OpenTelemetryMetrics("gateway", settings)
    metrics.counter("bridge.payment.accepted").add(3)
    # SIGTERM: what was counted last is not lost
    metrics.close()
    server.shutdown()
    server.server_close()
    [(path, authorization, body)] = received
    assert (path, authorization) == ("/v1/metrics", None)
    [of_resource] = ExportMetricsServiceRequest.FromString(body).resource_metrics
    resource = {each.key: each.value.string_value for each in of_resource.resource.attributes}
    assert resource.pop("service.instance.id")
    assert resource == {
        "cloud.region": "europe-west3",
        "gcp.project_id": "a-project",
        "service.name": "gateway",
    }
    [metric] = of_resource.scope_metrics[0].metrics
    assert (metric.name, metric.unit, metric.sum.data_points[0].as_int) == (
        "bridge.payment.accepted",
        "{payment}",
        3,
    )


def test_requests_are_measured_by_route_and_status_and_probes_are_not(prometheus):
    metrics, port = prometheus
    app = Flask("test")
    register_request_metrics(app, metrics)
    app.add_url_rule("/livez", view_func=lambda: "ok")
    app.add_url_rule("/things/<name>", endpoint="thing", view_func=lambda **_name: ("no", 503))
    client = app.test_client()
    client.get("/livez")
    client.get("/things/Erika-Mustermann")
    client.open("/elsewhere", method="BREW")
    counts = {
        tuple(value for _, value in labels): value
        for (name, *labels), value in told(port).items()
        if name == "http_server_request_duration_seconds_count"
    }
    assert counts == {
        ("503", "GET", "503", "/things/<name>", "http"): 1,
        ("", "_OTHER", "404", "", "http"): 1,
    }


def test_a_port_that_is_taken_stops_nothing_and_is_taken_when_it_is_free():
    with socket.create_server(("127.0.0.1", 0)) as before, capture_logs() as lines:
        port = before.getsockname()[1]
        metrics = OpenTelemetryMetrics("second", MetricsSettings(frozenset({"prometheus"}), port=port))
        metrics.counter("bridge.payment.accepted").add(1)
        wait_until(lambda: lines, what="its failure")
    assert [line["event"] for line in lines] == ["metrics have no port"]
    wait_until(lambda: is_there(port), what="the port")
    assert told(port) == {("bridge_payment_accepted_total",): 1}
    metrics.close()


def test_without_an_exporter_nothing_of_opentelemetry_is_loaded():
    code = (
        "import sys\n"
        "from bridge.metrics import NO_METRICS, make_metrics\n"
        "make_metrics('gateway', NO_METRICS).counter('bridge.payment.accepted').add(1)\n"
        "print([name for name in sys.modules if 'opentelemetry' in name or 'prometheus' in name])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, check=True)
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"OTEL_METRICS_EXPORTER": "statsd"}, "OTEL_METRICS_EXPORTER"),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"),
        (
            {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT": "none"},
            "OTEL_EXPORTER_PROMETHEUS_PORT",
        ),
        (
            {
                "OTEL_METRICS_EXPORTER": "prometheus, otlp",
                "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://collector:4318/v1/metrics",
                "OTEL_RESOURCE_ATTRIBUTES": "europe",
            },
            "OTEL_RESOURCE_ATTRIBUTES",
        ),
    ],
)
def test_a_wrong_setting_is_named(environ, said):
    with pytest.raises(SettingsError, match=said):
        MetricsSettings.from_environment(environ)


def test_what_is_not_asked_for_is_not_made():
    assert MetricsSettings.from_environment({}).exporters == frozenset()
    assert isinstance(make_metrics("gateway", MetricsSettings.from_environment({})), NullMetrics)
    assert all(metric.boundaries for metric in catalogue().values() if metric.instrument == "histogram")
