"""The table that `make bench-sap` prints: what was measured, against what is asked."""

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.outage import CAPACITY_CALLS, SETTLED_SECONDS, Outage
from benchmarks.report import Target

# the adapter's default; an open circuit is probed no more often
PROBE_INTERVAL_SECONDS = 1.0


@dataclass(frozen=True)
class RelayRounds:
    """Messages or jobs per second, one number per round; the sides of a round had the same neighbours."""

    relay: Sequence[float]
    bare: Sequence[float]
    peer: Sequence[float]
    published_after_ms: Sequence[float]
    idle_statements_per_second: float


def table(
    settings: Mapping[str, str], relay: RelayRounds, outage: Outage, *, backlog: int, hard_cap: int
) -> str:
    """Return the report as Markdown."""
    words = ", ".join(f"{name} {value}" for name, value in settings.items())
    first, last = outage.drained()
    rows = [
        ("relay, messages/s", f"{statistics.median(relay.relay):,.0f}"),
        ("the same publish RPCs without a database, messages/s", f"{statistics.median(relay.bare):,.0f}"),
        (
            "PgQueuer's dequeue (asyncpg, jobs that do nothing), jobs/s",
            f"{statistics.median(relay.peer):,.0f}",
        ),
        (f"what SAP takes from {CAPACITY_CALLS} direct callers, calls/s", f"{outage.capacity:.1f}"),
        (f"drain of {backlog:,}, hard cap {hard_cap}, payments/s", f"{outage.drain_per_second:.1f}"),
        ("measured over, s", f"{last.seconds - first.seconds:.0f}"),
        ("outage, s", f"{outage.outage_seconds:.0f}"),
        ("calls to SAP in it", f"{outage.calls_during}"),
        ("202 p99 before / in the outage, ms", f"{outage.before.p99_ms:.1f} / {outage.during.p99_ms:.1f}"),
    ]
    return "\n".join(
        [
            f"{os.cpu_count()} cores, load average {os.getloadavg()[1]:.1f}; PostgreSQL: {words}",
            "",
            "| what | measured |",
            "| --- | ---: |",
            *(f"| {name} | {value} |" for name, value in rows),
            "",
            "| target | measured | asked | |",
            "| --- | ---: | ---: | --- |",
            *(target.line() for target in (*relay_targets(relay), *outage_targets(outage))),
        ]
    )


def relay_targets(relay: RelayRounds) -> list[Target]:
    after = sorted(relay.published_after_ms)
    p99 = after[min(len(after) - 1, round(0.99 * len(after)))]
    return [
        Target("relay / bare publish RPCs", _ratio(relay.relay, relay.bare), 0.6, at_least=True),
        Target("relay / PgQueuer's dequeue", _ratio(relay.relay, relay.peer), 2, at_least=True),
        Target("commit → published, idle, p50", statistics.median(after), 10, at_least=False, unit=" ms"),
        Target("commit → published, idle, p99", p99, 50, at_least=False, unit=" ms"),
        Target("statements while idle", relay.idle_statements_per_second, 5, at_least=False, unit="/s"),
    ]


def outage_targets(outage: Outage) -> list[Target]:
    allowed = 2 * outage.window_before + outage.outage_seconds / PROBE_INTERVAL_SECONDS
    return [
        Target(
            f"SAP's capacity used, from {SETTLED_SECONDS:.0f} s after recovery on",
            outage.drain_per_second / outage.capacity,
            0.9,
            at_least=True,
        ),
        Target("refused calls", 100 * outage.refused_share, 2, at_least=False, unit=" %"),
        Target(
            "calls in the outage / (twice the window + a probe per interval)",
            outage.calls_during / allowed,
            1,
            at_least=False,
        ),
        Target("pushes not acknowledged", float(outage.nacked), 0, at_least=False, unit=""),
        Target("202 p99, outage / before", outage.during.p99_ms / outage.before.p99_ms, 1.2, at_least=False),
        Target(
            "20 payments behind another partner's backlog, after recovery",
            outage.small_partner_seconds,
            5,
            at_least=False,
            unit=" s",
        ),
    ]


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
