"""The table that `make bench-accept` prints: what was measured, as ratios, against what is asked."""

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.load import Result

# the gateway once more, in the same rounds
TELEMETRY = "telemetry"
NAMES = {
    "constant": "bare Flask route (ceiling)",
    "storage": "our storage part behind a bare route",
    "pgqueuer": "PgQueuer enqueue behind a bare route",
    "gateway": "gateway, everything on but telemetry",
    TELEMETRY: "gateway with metrics and a tenth of the traces",
}


@dataclass(frozen=True)
class Measured:
    """All rounds. `cpu_ms`: of the worker per request, 16 connections; `pgbench` in statements per second."""

    settings: Mapping[str, str]
    generator: str
    rounds: int
    load_average: float
    many: Mapping[str, Sequence[Result]]
    one: Mapping[str, Sequence[Result]]
    cpu_ms: Mapping[str, float]
    pgbench: float
    rss_mib: Mapping[str, float]
    start_seconds: Mapping[str, float]


@dataclass(frozen=True)
class Target:
    """A number that is asked for: at least `bound`, or at most."""

    what: str
    value: float
    bound: float
    at_least: bool
    unit: str = "x"

    def line(self) -> str:
        is_met = self.value >= self.bound if self.at_least else self.value <= self.bound
        asked = f"{'≥' if self.at_least else '≤'} {self.bound:g}{self.unit}"
        return f"| {self.what} | {self.value:.2f}{self.unit} | {asked} | {'met' if is_met else 'MISSED'} |"


def table(measured: Measured) -> str:
    """Return the report as Markdown."""
    ceiling = _median(measured.many["constant"], lambda result: result.per_second)
    settings = ", ".join(f"{name} {value}" for name, value in measured.settings.items())
    lines = [
        (
            f"{os.cpu_count()} cores, load average {measured.load_average:.1f}; PostgreSQL: {settings}; "
            f"generator: {measured.generator}; medians of {measured.rounds} rounds"
        ),
        "",
        "| route | req/s, 16 conn. | ratio | p99 ms | CPU ms/req | p50 ms, 1 conn. | worker MiB | failed |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for route, name in NAMES.items():
        many, one = measured.many[route], measured.one[route]
        per_second = _median(many, lambda result: result.per_second)
        lines.append(
            f"| {name} | {per_second:,.0f} | {per_second / ceiling:.2f} | {_p99(many):.1f} "
            f"| {measured.cpu_ms[route]:.2f} | {_p50(one):.2f}"
            f" | {measured.rss_mib[route]:.0f} | {sum(r.failed for r in (*many, *one))} |"
        )
    lines += [
        (
            f"| pgbench, our accept statement prepared | {measured.pgbench:,.0f} "
            f"| {measured.pgbench / ceiling:.2f} | | | | | |"
        ),
        "",
        "| target | measured | asked | |",
        "| --- | ---: | ---: | --- |",
        *(target.line() for target in targets(measured)),
    ]
    return "\n".join(lines)


def targets(measured: Measured) -> list[Target]:
    """Ratios are medians of the rounds' own ratios: both sides of one had the same neighbours."""
    many, one = measured.many, measured.one
    start = measured.start_seconds
    return [
        Target(
            "throughput, 16 connections: gateway / bare Flask",
            _ratio(many["gateway"], many["constant"], lambda result: result.per_second),
            0.20,
            at_least=True,
        ),
        Target(
            "throughput: our storage part / PgQueuer",
            _ratio(many["storage"], many["pgqueuer"], lambda result: result.per_second),
            1.2,
            at_least=True,
        ),
        Target(
            "p99, 16 connections: gateway / bare Flask",
            _ratio(many["gateway"], many["constant"], lambda result: result.p99_ms),
            4,
            at_least=False,
        ),
        Target(
            "p50, 1 connection: gateway / bare Flask",
            _ratio(one["gateway"], one["constant"], lambda result: result.p50_ms),
            6,
            at_least=False,
        ),
        Target(
            "throughput, 16 connections: with telemetry / without",
            _ratio(many[TELEMETRY], many["gateway"], lambda result: result.per_second),
            0.9,
            at_least=True,
        ),
        Target(
            "resident memory of the gateway's worker",
            measured.rss_mib["gateway"],
            120,
            at_least=False,
            unit=" MiB",
        ),
        Target(
            "the same with telemetry",
            measured.rss_mib[TELEMETRY],
            120,
            at_least=False,
            unit=" MiB",
        ),
        Target(
            f"process start → ready: gateway ({start['gateway']:.2f} s) / bare Flask",
            start["gateway"] / start["constant"],
            5,
            at_least=False,
        ),
    ]


def _ratio(ours: Sequence[Result], theirs: Sequence[Result], of: Callable[[Result], float]) -> float:
    return statistics.median(of(a) / of(b) for a, b in zip(ours, theirs, strict=True))


def _median(results: Sequence[Result], of: Callable[[Result], float]) -> float:
    return statistics.median(of(result) for result in results)


def _p50(results: Sequence[Result]) -> float:
    return _median(results, lambda result: result.p50_ms)


def _p99(results: Sequence[Result]) -> float:
    return _median(results, lambda result: result.p99_ms)
