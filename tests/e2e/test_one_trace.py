"""One payment, one trace: from the partner's `traceparent` to the webhook's attempt, in four services."""

import json

import pytest
from waiting import wait_until

pytestmark = pytest.mark.e2e

# The lower half of the id is small enough for any share of traces that is recorded.
TRACE_ID = "4bf92f3577b34da60000000000000001"
PARTNERS_SPAN = "00f067aa0ba902b7"
PAYMENT = {
    "external_id": "TRACED-1",
    "amount": {"value": "7.00", "currency": "EUR"},
    "capture": "automatic",
    "debtor": {"name": "Quintessa Vollmers", "account": {"iban": "DE89370400440532013000"}},
}


def spans_of_the_trace(stack):
    """Return the trace's spans by id; every span is one line, maybe not yet written to its end."""
    spans = {}
    for line in stack.layout.traces_file.read_text().splitlines():
        if TRACE_ID in line and line.endswith("}"):
            span = json.loads(line)
            spans[span["context"]["span_id"]] = span
    return spans


def described(span):
    return f"{span['resource']['attributes']['service.name']}: {span['name']}"


def ancestry(spans, span):
    """Return the span and what it came from, up to the partner's own."""
    path = [described(span)]
    while span["parent_id"] != f"0x{PARTNERS_SPAN}":
        span = spans[span["parent_id"]]
        path.append(described(span))
    return path


def test_a_payments_trace_reaches_from_the_partner_to_the_webhook(stack):
    token = stack.token()
    headers = {"Idempotency-Key": "traced-1", "traceparent": f"00-{TRACE_ID}-{PARTNERS_SPAN}-00"}
    accepted = stack.request("POST", "/v1/payments", token, json=PAYMENT, headers=headers)
    assert accepted.status_code == 202, accepted.text

    def is_whole():
        """Each process writes its spans when it likes: until every parent is there, and all leaves are."""
        spans = spans_of_the_trace(stack)
        names = [span["name"] for span in spans.values()]
        parents = {span["parent_id"] for span in spans.values()}
        return (
            parents <= set(spans) | {f"0x{PARTNERS_SPAN}"}
            and names.count("POST webhook") == names.count("process payment-events-push") == 2
            and "post journal entry" in names
        )

    wait_until(is_whole, what="all spans of the trace")
    spans = spans_of_the_trace(stack)
    for span in sorted(spans.values(), key=lambda span: span["start_time"]):
        print(span["start_time"], " ← ".join(ancestry(spans, span)))  # noqa: T201 - the trace, to read
    accepting = "gateway: POST /v1/payments"
    adapter = [
        "sap_adapter: process payment-operations-s4-main-push",
        "dispatcher: send payment-operations-s4-main",
        accepting,
    ]
    paths = [ancestry(spans, span) for span in spans.values()]
    assert ["sap_adapter: post journal entry", *adapter] in paths
    assert sorted(path for path in paths if path[0] == "webhooks: POST webhook") == sorted(
        [["webhooks: POST webhook", accepting], ["webhooks: POST webhook", *adapter]]
    )
    for doorbell in ([accepting], adapter):
        rung = ["webhooks: process payment-events-push", "dispatcher: send payment-events", *doorbell]
        assert rung in paths
    assert "Quintessa" not in json.dumps(spans)
    assert all(span["status"]["status_code"] != "ERROR" for span in spans.values())
