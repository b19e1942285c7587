"""The table that `make bench-sap` prints: what was measured, against what is asked."""

import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.isolation import Isolation
from benchmarks.outage import CAPACITY_CALLS, SETTLED_SECONDS, Outage
from benchmarks.report import Target

# the adapter's default; an open circuit is probed no more often
PROBE_INTERVAL_SECONDS = 1.0
Row = tuple[str, str]


@dataclass
class RelayRounds:
    """Messages or jobs per second, one number per round; the sides of a round had the same neighbours."""

    relay: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)


@dataclass
class Measured:
    """What a run has measured so far; None: that part was left out. `load_average`: before it began."""

    load_average: float
    backlog: int
    hard_cap: int
    settings: Mapping[str, str] = field(default_factory=dict)
    relay: RelayRounds | None = None
    idle_statements: float = 0.0
    published_after_ms: Sequence[float] = ()
    outage: Outage | None = None
    isolation: Isolation | None = None


def table(measured: Measured) -> str:
    """Return the report as Markdown."""
    words = ", ".join(f"{name} {value}" for name, value in measured.settings.items())
    return "\n".join(
        [
            f"{os.cpu_count()} cores, load average before {measured.load_average:.1f}; PostgreSQL: {words}",
            "",
            "| what | measured |",
            "| --- | ---: |",
            *(f"| {name} | {value} |" for name, value in _rows(measured)),
            "",
            "| target | measured | asked | |",
            "| --- | ---: | ---: | --- |",
            *(target.line() for target in _targets(measured)),
        ]
    )


def _rows(measured: Measured) -> Iterator[Row]:
    if measured.relay is not None:
        relay = measured.relay
        yield "relay, messages/s", f"{statistics.median(relay.relay):,.0f}"
        yield "the same publish RPCs without a database, messages/s", f"{statistics.median(relay.bare):,.0f}"
        peer = statistics.median(relay.peer)
        yield "PgQueuer's dequeue (asyncpg, jobs that do nothing), jobs/s", f"{peer:,.0f}"
    if measured.outage is not None:
        yield from _outage_rows(measured.outage, measured.backlog, measured.hard_cap)
    if measured.isolation is not None:
        isolation = measured.isolation
        between = f"{isolation.before_ms:.0f} / {isolation.beside_ms:.0f}"
        yield "accepted → posted in one system, alone / while another answers after 30 s, p50, ms", between
        yield "calls of that other one, answered by then", f"{isolation.slow_calls}, {isolation.slow_answers}"


def _outage_rows(outage: Outage, backlog: int, hard_cap: int) -> Iterator[Row]:
    first, last = outage.drained()
    yield f"what SAP takes from {CAPACITY_CALLS} direct callers, calls/s", f"{outage.capacity:.1f}"
    yield f"drain of {backlog:,}, hard cap {hard_cap}, payments/s", f"{outage.drain_per_second:.1f}"
    yield "measured over, s", f"{last.seconds - first.seconds:.0f}"
    yield "processor time per payment, adapter / dispatcher, ms", outage.cpu_ms_per_payment()
    yield "outage, s", f"{outage.outage_seconds:.0f}"
    yield "calls to SAP in it", f"{outage.calls_during}"
    yield "202 p99 before / in the outage, ms", f"{outage.before.p99_ms:.1f} / {outage.during.p99_ms:.1f}"


def _targets(measured: Measured) -> Iterator[Target]:
    if measured.relay is not None:
        relay = measured.relay
        yield Target("relay / bare publish RPCs", _ratio(relay.relay, relay.bare), 0.6, at_least=True)
        yield Target("relay / PgQueuer's dequeue", _ratio(relay.relay, relay.peer), 2, at_least=True)
        yield Target("statements while idle", measured.idle_statements, 5, at_least=False, unit="/s")
    if measured.published_after_ms:
        after = sorted(measured.published_after_ms)
        p50, p99 = statistics.median(after), after[min(len(after) - 1, round(0.99 * len(after)))]
        yield Target("commit → published, idle, p50", p50, 10, at_least=False, unit=" ms")
        yield Target("commit → published, idle, p99", p99, 50, at_least=False, unit=" ms")
    if measured.outage is not None:
        yield from _outage_targets(measured.outage)
    if measured.isolation is not None:
        isolation = measured.isolation
        yield Target(
            "p50 of one system, another answering after 30 s / alone",
            isolation.beside_ms / isolation.before_ms,
            1.5,
            at_least=False,
        )


def _outage_targets(outage: Outage) -> Iterator[Target]:
    used = outage.drain_per_second / outage.capacity
    allowed = 2 * outage.window_before + outage.outage_seconds / PROBE_INTERVAL_SECONDS
    calls = outage.calls_during / allowed
    p99 = outage.during.p99_ms / outage.before.p99_ms
    small = outage.small_partner_seconds
    settled = f"SAP's capacity used, from {SETTLED_SECONDS:.0f} s after recovery on"
    probes = "calls in the outage / (twice the window + a probe per interval)"
    yield Target(settled, used, 0.9, at_least=True)
    yield Target("refused calls", 100 * outage.refused_share, 2, at_least=False, unit=" %")
    yield Target(probes, calls, 1, at_least=False)
    yield Target("pushes not acknowledged", float(outage.nacked), 0, at_least=False, unit="")
    yield Target("202 p99, outage / before", p99, 1.2, at_least=False)
    behind = "20 payments behind another partner's backlog, after recovery"
    yield Target(behind, small, 5, at_least=False, unit=" s")


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
