"""Alerts name metrics that exist, lines that are logged, and runbooks that can be read."""

import json
import re
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.contract

REPOSITORY = Path(__file__).parents[2]
RUNBOOKS = REPOSITORY / "docs/runbooks"
# https://cloud.google.com/monitoring/api/metrics_gcp: those of its list that we rely on
GOOGLES = {
    "cloudsql.googleapis.com/database/cpu/utilization",
    "cloudsql.googleapis.com/database/disk/utilization",
    "cloudsql.googleapis.com/database/postgresql/num_backends",
    "cloudtasks.googleapis.com/queue/depth",
    "monitoring.googleapis.com/uptime_check/check_passed",
    "pubsub.googleapis.com/subscription/dead_letter_message_count",
    "pubsub.googleapis.com/subscription/oldest_unacked_message_age",
    "router.googleapis.com/nat/dropped_sent_packets_count",
    "run.googleapis.com/job/completed_execution_count",
    "run.googleapis.com/request_count",
    "run.googleapis.com/request_latencies",
}
FIELDS = {"says", "severity", "runbook"}
OF_A_METRIC = {"metric", "for_seconds"}
OPTIONAL = {"where", "judge", "query", "above"}
# https://opentelemetry.io/docs/specs/semconv/general/metrics/: dots between names, underscores in them, units
# of UCUM with what is counted in braces
NAME = re.compile(r"bridge(\.[a-z]+(_[a-z]+)*)+")
# https://opentelemetry.io/docs/specs/semconv/: those of its metrics and attributes that we have
OPENTELEMETRYS = {
    *("http.server.request.duration", "messaging.client.sent.messages"),
    *("http.request.method", "http.response.status_code", "http.route", "url.scheme", "error.type"),
    *("messaging.system", "messaging.operation.name", "messaging.destination.name"),
}
UNIT = re.compile(r"s|\{[a-z]+\}")
# what a person begins, and no alert
PLANNED = {"key-rotation", "restore", "region-loss"}
# what has to be watched, whatever it is called
PROMISES = {
    *("outbox-age", "lane-closed", "dead-letters", "pushes-not-taken", "parked", "unknown-outcomes"),
    *("webhook-exhausted", "gateway-errors", "gateway-slow", "database-connections", "database-disk"),
}


@pytest.fixture(scope="module")
def alerts():
    return yaml.safe_load((REPOSITORY / "terraform/alerts.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def metrics():
    return json.loads((REPOSITORY / "bridge/metrics.json").read_text(encoding="utf-8"))


def test_what_was_promised_is_watched(alerts):
    assert set(alerts) >= PROMISES
    for name, alert in alerts.items():
        assert alert["severity"] in ("CRITICAL", "ERROR", "WARNING"), name
        if "log" in alert:
            assert alert.keys() == FIELDS | {"log"}, name
            continue
        assert alert.keys() >= FIELDS | OF_A_METRIC, name
        assert alert.keys() <= FIELDS | OF_A_METRIC | OPTIONAL, name
        assert ("query" in alert) != ("judge" in alert), name
        assert "above" in alert or "absent" in alert["query"], name
        assert alert.get("judge", "max") in ("max", "increase"), name


def test_each_metric_is_ours_or_googles(alerts, metrics):
    used = {alert["metric"] for alert in alerts.values() if "log" not in alert}
    assert used <= metrics.keys() | GOOGLES
    assert used >= GOOGLES


def test_each_line_that_is_waited_for_is_written_by_the_code(alerts):
    source = "".join(
        path.read_text(encoding="utf-8")
        for package in ("bridge", "gateway", "dispatcher", "sap_adapter", "webhooks", "partners")
        for path in (REPOSITORY / package).rglob("*.py")
    )
    logged = [alert["log"] for alert in alerts.values() if "log" in alert]
    assert logged
    for log in logged:
        level, message = log["severity"], re.escape(log["message"])
        # as a call of that level, or of the level that was just chosen
        written = rf'(\b{level.lower()}\(|logging\.{level}\b[^"]{{0,200}})\s*"{message}"'
        assert re.search(written, source), log


def test_names_and_units_are_those_of_opentelemetry(metrics):
    for name, metric in metrics.items():
        assert NAME.fullmatch(name) or name in OPENTELEMETRYS, name
        assert UNIT.fullmatch(metric["unit"]), name
        assert metric["instrument"] in ("counter", "gauge", "histogram"), name
        attributes = set(metric["attributes"]) - OPENTELEMETRYS
        assert all(NAME.fullmatch(attribute) for attribute in attributes), name
        assert metric["description"].endswith("."), name


def test_each_alert_has_its_runbook_and_each_runbook_an_alert(alerts):
    named = {alert["runbook"] for alert in alerts.values()}
    written = {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"}
    assert named == written - PLANNED
    index = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    for name, alert in alerts.items():
        runbook = (RUNBOOKS / f"{alert['runbook']}.md").read_text(encoding="utf-8")
        assert f"`{name}`" in runbook, name
        assert f"({alert['runbook']}.md)" in index


def test_runbooks_link_what_exists():
    for path in RUNBOOKS.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), (path.name, target)
