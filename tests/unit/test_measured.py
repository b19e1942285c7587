"""Calls of SAP, publish calls and accepted payments are told by what came of them."""

import pytest
from fakes.metrics import KeptMetrics
from flask import Flask, Response
from structlog.testing import capture_logs

from bridge.errors import TransientError, UnknownOutcomeError
from bridge.web.metrics import register_request_metrics
from dispatcher.measured import MeasuredPublisher
from gateway.acceptance_metrics import register_acceptance_metrics
from gateway.idempotency import REPLAYED_HEADER
from gateway.limits import BATCH_ENDPOINT, note_accepted
from sap_adapter.connector import Posted, Refused
from sap_adapter.measured import MeasuredConnector

pytestmark = pytest.mark.unit


class Scripted:
    """A connector or publisher that gives what it was given, or raises it."""

    def __init__(self, answer):
        self._answer = answer

    def _give(self, *_arguments):
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    post = find = publish = _give


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Posted(None), "posted"),
        (Refused(()), "refused"),
        (TransientError("refused connection"), "not_posted"),
        (UnknownOutcomeError("timeout"), "unknown"),
        (ValueError("not foreseen"), "unknown"),
    ],
)
def test_a_posting_is_measured_by_its_outcome(answer, outcome):
    metrics = KeptMetrics()
    connector = MeasuredConnector(Scripted(answer), metrics, "s4-main")
    with capture_logs() as lines:
        if isinstance(answer, Exception):
            with pytest.raises(type(answer)):
                connector.post(None)
        else:
            assert connector.post(None) is answer
    [(name, _, attributes)] = metrics.told
    assert (name, attributes) == (
        "bridge.sap.request.duration",
        {"bridge.lane": "s4-main", "bridge.outcome": outcome},
    )
    [line] = lines
    assert (line["event"], line["call"], line["outcome"]) == ("sap call", "post", outcome)


@pytest.mark.parametrize(("answer", "outcome"), [([], "answered"), (TransientError("away"), "unanswered")])
def test_a_question_is_measured_by_whether_it_was_answered(answer, outcome):
    metrics = KeptMetrics()
    connector = MeasuredConnector(Scripted(answer), metrics, "s4-main")
    if isinstance(answer, Exception):
        with pytest.raises(TransientError):
            connector.find("1000", "reference")
    else:
        connector.find("1000", "reference")
    assert [attributes["bridge.outcome"] for *_, attributes in metrics.told] == [outcome]


@pytest.mark.parametrize("error", [None, TransientError("away")])
def test_messages_are_counted_by_topic_also_if_they_were_not_taken(error):
    metrics = KeptMetrics()
    publisher = MeasuredPublisher(Scripted(error), metrics)
    if error is None:
        publisher.publish("payment-events", [None, None])
    else:
        with pytest.raises(TransientError):
            publisher.publish("payment-events", [None, None])
    [(name, amount, attributes)] = metrics.told
    assert (name, amount) == ("messaging.client.sent.messages", 2)
    assert attributes["messaging.destination.name"] == "payment-events"
    assert ("error.type" in attributes) == (error is not None)


def test_payments_are_counted_alone_and_in_batches_and_once_each():
    metrics = KeptMetrics()
    app = Flask("test")
    register_request_metrics(app, metrics)
    register_acceptance_metrics(app, metrics)

    def batch():
        note_accepted(3)
        return Response(status=207)

    def replayed():
        return Response(status=202, headers={REPLAYED_HEADER: "true"})

    app.add_url_rule("/one", endpoint="create_payment", view_func=lambda: Response(status=202))
    app.add_url_rule("/batch", endpoint=BATCH_ENDPOINT, view_func=batch)
    client = app.test_client()
    client.get("/one")
    client.get("/batch")
    app.view_functions["create_payment"] = replayed
    client.get("/one")
    told = [(name, amount) for name, amount, _ in metrics.told]
    counted = [amount for name, amount in told if name == "bridge.payment.accepted"]
    assert counted == [0, 1, 3]
    assert [name for name, _ in told].count("bridge.payment.accept.duration") == 1
