"""The conditions of terraform/alerts.yaml, tried on what the processes of a running stack tell.

Queries are those that Terraform gives to Cloud Monitoring (tests/terraform holds them to each other), read by
promql-parser and worked out here as far as the alerts use PromQL. Names are mapped from OpenTelemetry's,
which Google keeps, to those of the Prometheus text, as OpenTelemetry says:
https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/

Time runs faster: every duration of a condition (its range, how long it has to last, a threshold in seconds)
is divided by the alert's `speed`.
"""

import itertools
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import promql_parser
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

REPOSITORY = Path(__file__).parents[1]
SCRAPE_INTERVAL_SECONDS = 0.5
SCRAPE_TIMEOUT_SECONDS = 0.4
# An instant value is the last one of so long (https://prometheus.io/docs/prometheus/latest/querying/basics/#staleness)
LOOKBACK_SECONDS = 300.0
SEVERITIES = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
USER_METRIC = "logging_googleapis_com:user_"

# sorted: two series are the same if their labels are
Labels = tuple[tuple[str, str], ...]


def alerts():
    return yaml.safe_load((REPOSITORY / "terraform/alerts.yaml").read_text(encoding="utf-8"))


def metrics():
    return json.loads((REPOSITORY / "bridge/metrics.json").read_text(encoding="utf-8"))


def ours():
    """The alerts on what the bridge itself tells: metrics and log lines."""
    return {name: alert for name, alert in alerts().items() if "log" in alert or alert["metric"] in metrics()}


def query_of(alert):
    """What Terraform makes of one of ours (terraform/monitoring.tf); of a line, a count of it."""
    if "log" in alert:
        return f"{USER_METRIC}{metric_name(alert['log'])}{{}} > 0"
    series = f'{{"{alert["metric"]}"}}'
    if "query" in alert:
        value = alert["query"]
    elif alert["judge"] == "increase":
        value = f"sum(increase({series}[5m]))"
    else:
        value = f"max({series})"
    return f"{value} > {alert['above']}" if "above" in alert else value


def metric_name(log):
    """A name under which lines are counted."""
    return log["message"].lower().replace(" ", "_")


def prometheus_name(name):
    """The name that a metric of ours has in the Prometheus text; other names stay."""
    metric = metrics().get(name)
    if metric is None:
        return name
    unit = {"s": "_seconds"}.get(metric["unit"], "")
    return name.replace(".", "_") + unit + ("_total" if metric["instrument"] == "counter" else "")


@dataclass
class Telling:
    """What one look at everything has found, and when."""

    at: float
    values: Mapping[str, Mapping[Labels, float]]


@dataclass
class Watch:
    """Scrapes ports, and counts log lines as Cloud Logging's metrics do, until it is closed.

    `fired`: the names of the conditions that have held so far, `firing` of those that do now.
    """

    ports: Mapping[str, int]
    logs_folder: Path
    conditions: Sequence["Condition"]
    tellings: list[Telling] = field(default_factory=list)
    firing: set[str] = field(default_factory=set)
    fired: set[str] = field(default_factory=set)

    def __post_init__(self):
        self._lines = {metric_name(alert["log"]): alert["log"] for alert in ours().values() if "log" in alert}
        self._counts = dict.fromkeys(self._lines, 0)
        self._offsets = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self):
        self._stop.set()
        self._thread.join()

    def _run(self):
        while not self._stop.wait(SCRAPE_INTERVAL_SECONDS):
            values = {f"{USER_METRIC}{name}": {(): count} for name, count in self._count_lines().items()}
            for service, port in self.ports.items():
                for name, labels, value in scrape(service, port):
                    values.setdefault(name, {})[labels] = value
            self.tellings.append(Telling(time.monotonic(), values))
            self.firing = {each.name for each in self.conditions if each.is_firing(self.tellings)}
            self.fired |= self.firing

    def _count_lines(self):
        for path in self.logs_folder.glob("*.log"):
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                whole = file.read().rpartition(b"\n")[0]
            self._offsets[path] = self._offsets.get(path, 0) + len(whole) + bool(whole)
            for line in whole.splitlines():
                self._count(line)
        return self._counts

    def _count(self, line):
        try:
            entry = json.loads(line)
        except ValueError:
            return
        for name, wanted in self._lines.items():
            if isinstance(entry, dict) and entry.get("message") == wanted["message"]:
                is_severe = SEVERITIES.index(entry["severity"]) >= SEVERITIES.index(wanted["severity"])
                self._counts[name] += is_severe


def scrape(service, port):
    """The samples that a service tells, none if it does not answer."""
    try:
        answer = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=SCRAPE_TIMEOUT_SECONDS)
    except requests.RequestException:
        return []
    return [
        (sample.name, tuple(sorted({**sample.labels, "job": service}.items())), sample.value)
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    ]


@dataclass
class Condition:
    """One alert's, `speed` times as fast as in production."""

    name: str
    alert: Mapping
    speed: float

    def __post_init__(self):
        self._expression = promql_parser.parse(query_of(self.alert))
        # ages go faster; how far clocks are apart does not
        metric = self.alert.get("metric", "")
        is_time = metrics().get(metric, {}).get("unit") == "s" and not metric.startswith("bridge.clock.")
        self._unit = self.speed if is_time else 1.0

    def is_firing(self, tellings):
        """Whether it has held for `for_seconds`, at every look."""
        since = tellings[-1].at - self.alert.get("for_seconds", 0) / self.speed
        looks = [end for end in range(1, len(tellings) + 1) if tellings[end - 1].at >= since]
        if self.alert.get("for_seconds"):
            # what has held all the time held at the look before it as well
            looks = [looks[0] - 1, *looks]
        return looks[0] > 0 and all(self._worked_out(self._expression, tellings[:end]) for end in looks)

    def _worked_out(self, expression, tellings):
        """A vector as {labels: value}; a number as itself."""
        match expression:
            case promql_parser.NumberLiteral():
                return expression.val / self._unit
            case promql_parser.ParenExpr():
                return self._worked_out(expression.expr, tellings)
            case promql_parser.BinaryExpr() if str(expression.op) == ">":
                left = self._worked_out(expression.lhs, tellings)
                threshold = self._worked_out(expression.rhs, tellings)
                return {labels: value for labels, value in left.items() if value > threshold}
            case promql_parser.AggregateExpr():
                return self._aggregated(expression, tellings)
            case promql_parser.Call():
                return self._called(expression, tellings)
            case promql_parser.VectorSelector():
                runs = self._selected(expression, tellings, LOOKBACK_SECONDS / self.speed)
                return {labels: run[-1] for labels, run in runs.items()}
        raise ValueError(f"a kind of PromQL that no alert has had yet: {expression}")

    def _aggregated(self, expression, tellings):
        by = expression.modifier.labels if expression.modifier else []
        groups = {}
        for labels, value in self._worked_out(expression.expr, tellings).items():
            kept = tuple(pair for pair in labels if pair[0] in by)
            groups.setdefault(kept, []).append(value)
        join = {"max": max, "sum": sum}[str(expression.op)]
        return {labels: join(values) for labels, values in groups.items()}

    def _called(self, expression, tellings):
        [selector] = expression.args
        if expression.func.name == "abs":
            return {labels: abs(value) for labels, value in self._worked_out(selector, tellings).items()}
        seconds = selector.range.total_seconds() / self.speed
        runs = self._selected(selector.vector_selector, tellings, seconds)
        match expression.func.name:
            case "increase":
                return {labels: increase(run) for labels, run in runs.items() if len(run) > 1}
            case "absent_over_time":
                # only a window that was looked at can be empty
                is_looked_at = tellings[-1].at - tellings[0].at >= seconds
                return {} if runs or not is_looked_at else {(): 1.0}
        raise ValueError(f"a function of PromQL that no alert has had yet: {expression.func.name}")

    def _selected(self, selector, tellings, seconds):
        """The values of the last `seconds`, oldest first, by labels."""
        name = selector.name
        wanted = {}
        for matcher in selector.matchers.matchers:
            assert matcher.op == promql_parser.MatchOp.Equal, str(matcher)
            if matcher.name == "__name__":
                name = matcher.value
            else:
                wanted[matcher.name.replace(".", "_")] = matcher.value
        name = prometheus_name(name)
        runs = {}
        for telling in tellings:
            if telling.at >= tellings[-1].at - seconds:
                for labels, value in telling.values.get(name, {}).items():
                    if wanted.items() <= dict(labels).items():
                        runs.setdefault(labels, []).append(value)
        return runs


def increase(run):
    """How much a counter has grown; one that is less than before has begun anew."""
    return sum(after - before if after >= before else after for before, after in itertools.pairwise(run))


def listed_series():
    """The names and labels that the Prometheus text may have, by metrics.json."""
    suffixes = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("",), "gauge": ("",)}
    return {
        prometheus_name(name) + suffix: {label.replace(".", "_") for label in metric["attributes"]}
        | ({"le"} if suffix == "_bucket" else set())
        for name, metric in metrics().items()
        for suffix in suffixes[metric["instrument"]]
    }
