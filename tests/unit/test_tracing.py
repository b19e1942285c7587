"""Spans as they are written down: one trace across processes, parents right, no texts; or nothing at all."""

import io
import json
import logging
import subprocess
import sys

import pytest
import structlog
from flask import Flask
from plain_logs import log_plainly

from bridge.errors import SettingsError
from bridge.messages import EventMessage
from bridge.tracing import NullTracer, TracingSettings, is_sampled, make_tracer
from bridge.web.logs import configure_logs, register_request_log
from bridge.web.push import register_push
from bridge.web.request_id import current_traceparent, register_request_id
from bridge.web.tracing import register_tracing
from dispatcher.traced import TracedPublisher

PARTNERS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


@pytest.fixture
def exported(tmp_path):
    """Make tracers that write to one file; `exported()` closes them and reads the spans by name."""
    path, tracers = tmp_path / "spans.jsonl", []

    class Exported:
        def tracer(self, service, sample_ratio="1"):
            settings = TracingSettings.from_environment(
                {
                    "OTEL_TRACES_EXPORTER": "file",
                    "OTEL_TRACES_SAMPLER_ARG": sample_ratio,
                    "TRACES_FILE": str(path),
                }
            )
            tracers.append(make_tracer(service, settings))
            return tracers[-1]

        def __call__(self):
            for tracer in tracers:
                tracer.close()
            lines = path.read_text().splitlines()
            return {span["name"]: span for span in map(json.loads, lines)}

    return Exported()


def ids(span):
    return span["context"]["trace_id"], span["context"]["span_id"], span["parent_id"]


def test_a_trace_goes_from_the_partner_through_two_services(exported):
    gateway, adapter = exported.tracer("gateway"), exported.tracer("sap_adapter")
    with gateway.span("POST /v1/payments", "server", parent=PARTNERS) as accepted:
        carried = accepted.traceparent
    with (
        adapter.span("process operations", "consumer", parent=carried),
        adapter.span("POST SAP", "client", attributes={"http.response.status_code": 200}),
    ):
        pass
    spans = exported()
    trace, accepted_id, from_partner = ids(spans["POST /v1/payments"])
    assert (trace, from_partner) == ("0x0af7651916cd43dd8448eb211c80319c", "0xb7ad6b7169203331")
    assert ids(spans["process operations"])[::2] == (trace, accepted_id)
    assert ids(spans["POST SAP"])[::2] == (trace, ids(spans["process operations"])[1])
    assert spans["POST SAP"]["kind"] == "SpanKind.CLIENT"
    assert spans["POST SAP"]["attributes"]["http.response.status_code"] == 200
    assert spans["POST SAP"]["resource"]["attributes"]["service.name"] == "sap_adapter"


def test_every_message_of_a_batch_continues_its_own_trace(exported):
    dispatcher = exported.tracer("dispatcher")
    other = PARTNERS.replace("0af7", "1af7")[:-2] + "01"
    with dispatcher.publishing("payment-events", [PARTNERS, None, other]) as carried:
        traces = [traceparent.split("-")[1] for traceparent in carried]
    assert traces[0] == PARTNERS.split("-")[1]
    assert traces[2] == other.split("-")[1]
    assert traces[1] not in (traces[0], traces[2])


def test_what_fails_is_marked_by_its_class_and_never_by_its_text(exported):
    with pytest.raises(ValueError, match="Muster"), exported.tracer("webhooks").span("attempt", "client"):
        raise ValueError("Muster GmbH")
    span = exported()["attempt"]
    assert span["status"]["status_code"] == "ERROR"
    assert span["attributes"]["error.type"] == "ValueError"
    assert "Muster" not in json.dumps(span)


def test_whether_a_trace_is_recorded_is_our_decision_and_holds_in_every_service(exported):
    sampled_by_the_partner = PARTNERS[:-2] + "01"
    gateway, adapter = exported.tracer("gateway", "0"), exported.tracer("sap_adapter", "1")
    with gateway.span("accept", "server", parent=sampled_by_the_partner) as span:
        assert span.traceparent.endswith("-00")
        assert span.traceparent.split("-")[1] == PARTNERS.split("-")[1]
    with adapter.span("process", "consumer", parent=span.traceparent):
        pass
    assert exported() == {}


def test_nothing_below_a_trace_that_is_left_out_is_recorded_and_what_comes_after_it_is(exported):
    adapter = exported.tracer("sap_adapter")
    with (
        adapter.span("process", "consumer", parent=PARTNERS[:-2] + "02") as outer,
        adapter.span("POST SAP", "client") as inner,
    ):
        assert inner.traceparent == outer.traceparent == PARTNERS[:-2] + "02"
        inner.note({"bridge.sap.outcome": "posted"})
        inner.fail("503")
    with adapter.span("another", "internal"):
        pass
    assert set(exported()) == {"another"}


def test_of_requests_without_a_trace_a_share_is_recorded_under_the_ids_that_they_carry_on(exported):
    gateway = exported.tracer("gateway", "0.5")
    carried = {}
    for number in range(400):
        with gateway.span(f"request {number}", "server") as span:
            carried[f"request {number}"] = span.traceparent
    spans = exported()
    assert {name for name, traceparent in carried.items() if is_sampled(traceparent)} == set(spans)
    # one of 10^9 runs is outside
    assert 130 < len(spans) < 270
    for name, span in spans.items():
        trace, span_id, _ = ids(span)
        assert carried[name].startswith(f"00-{trace[2:]}-{span_id[2:]}-")
    assert len({traceparent.split("-")[1] for traceparent in carried.values()}) == 400


def test_without_an_exporter_the_callers_traceparent_goes_on_and_nothing_is_loaded():
    code = (
        "import sys\n"
        "from bridge.tracing import TracingSettings, make_tracer\n"
        "tracer = make_tracer('gateway', TracingSettings.from_environment({}))\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    tracer = NullTracer()
    with tracer.span("x", "server", parent=PARTNERS) as span:
        assert span.traceparent == PARTNERS
    with tracer.publishing("topic", [PARTNERS, None]) as carried:
        assert carried == [PARTNERS, None]


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER"),
        ({"OTEL_TRACES_EXPORTER": "file"}, "TRACES_FILE"),
        ({"OTEL_TRACES_SAMPLER_ARG": "1.1"}, "OTEL_TRACES_SAMPLER_ARG"),
        ({"OTEL_TRACES_SAMPLER_ARG": "nan"}, "OTEL_TRACES_SAMPLER_ARG"),
        ({"OTEL_TRACES_SAMPLER_ARG": "all"}, "OTEL_TRACES_SAMPLER_ARG"),
    ],
)
def test_a_wrong_setting_is_named(environment, named):
    with pytest.raises(SettingsError, match=named):
        TracingSettings.from_environment(environment)


@pytest.fixture
def log_lines():
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure_logs("test", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers, root.level = before, level
    log_plainly()
    structlog.contextvars.clear_contextvars()


def test_a_request_runs_under_a_span_whose_ids_stand_in_its_log_line(exported, log_lines):
    app = Flask("gateway")
    register_tracing(app, exported.tracer("gateway"), "p")
    register_request_id(app)
    register_request_log(app)
    carried = []

    @app.post("/v1/things/<thing_id>")
    def take(thing_id):
        carried.append(current_traceparent())
        return "", 503 if thing_id == "broken" else 202

    client = app.test_client()
    assert client.post("/v1/things/erika", headers={"traceparent": PARTNERS}).status_code == 202
    assert client.post("/v1/things/broken", headers={"traceparent": "not one"}).status_code == 503
    assert client.get("/livez").status_code == 404
    (first, second, *_) = log_lines()
    assert carried[0] == f"00-{PARTNERS.split('-')[1]}-{first['logging.googleapis.com/spanId']}-01"
    assert first["logging.googleapis.com/trace"] == f"projects/p/traces/{PARTNERS.split('-')[1]}"
    assert first["logging.googleapis.com/trace_sampled"] is True
    assert second["logging.googleapis.com/trace_sampled"] is True
    assert second["logging.googleapis.com/trace"] != first["logging.googleapis.com/trace"]
    spans = exported()
    assert set(spans) == {"POST /v1/things/<thing_id>"}
    assert "erika" not in json.dumps(spans)


def test_a_pushed_message_is_handled_under_a_span_of_its_trace_and_carries_it_on(exported):
    app, received = Flask("adapter"), []
    register_push(app, "/push", received.append, lambda _header: None, exported.tracer("sap_adapter"))
    message = {"data": "", "attributes": {"traceparent": PARTNERS[:-2] + "01"}, "messageId": "7"}
    pushed = {"message": message, "subscription": "projects/p/subscriptions/payment-events-push"}
    assert app.test_client().post("/push", json=pushed).status_code == 204
    span = exported()["process payment-events-push"]
    trace, span_id, parent = ids(span)
    assert (trace, parent) == ("0x" + PARTNERS.split("-")[1], "0x" + PARTNERS.split("-")[2])
    assert received[0].attributes["traceparent"] == f"00-{trace[2:]}-{span_id[2:]}-01"


class Kept:
    def __init__(self):
        self.messages = []

    def publish(self, _topic, messages):
        self.messages.extend(messages)


def test_a_published_message_carries_the_span_of_its_publishing(exported):
    kept = Kept()
    publisher = TracedPublisher(kept, exported.tracer("dispatcher"))
    publisher.publish("payment-events", [EventMessage("evt_1", "par_1", 7, PARTNERS[:-2] + "01")])
    trace, span_id, parent = ids(exported()["send payment-events"])
    assert kept.messages[0].traceparent == f"00-{trace[2:]}-{span_id[2:]}-01"
    assert (trace, parent) == ("0x" + PARTNERS.split("-")[1], "0x" + PARTNERS.split("-")[2])
