"""One SAP system answers after half a minute; how long payments to the other one take meanwhile."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import click
from sqlalchemy import text

from benchmarks.sap_stage import SapStage, sap_staged
from benchmarks.stage import Stage
from devstack.seed import SAP_SYSTEM

SLOW_SYSTEM = "s4-slow"
ANSWERS_AFTER_SECONDS = 30.0
LATENCY_MS = 100
PAYMENTS = 60
PAUSE_SECONDS = 0.1
# more than the slow system's window and all that may wait for it
SLOW_PAYMENTS = 100
DEADLINE_SECONDS = 60.0
# as in production: a call that is answered late is waited for
SLOW_TIMES = {"SAP_READ_TIMEOUT_SECONDS": "60"}
TOOK = text("""
    /* from acceptance to the end, in seconds */
    SELECT extract(epoch FROM completed_at - created_at) FROM operations
    WHERE payment_id = ANY(:payment_ids) AND status = 'succeeded'
""")


@dataclass(frozen=True)
class Isolation:
    """Acceptance to posting in the other system, in ms, and the calls that the slow one held meanwhile."""

    before_ms: float
    beside_ms: float
    slow_calls: int
    slow_answers: int


def beside_a_slow_system(stage: Stage, *, hard_cap: int) -> Isolation:
    """Measure payments of one system one by one, first alone, then while the other answers late."""
    systems = (SAP_SYSTEM, SLOW_SYSTEM)
    with sap_staged(stage, hard_cap=hard_cap, sap_systems=systems, sap_times=SLOW_TIMES) as sap:
        sap.faults(latency_ms=LATENCY_MS)
        _p50_ms(sap, "warm")
        before_ms = _p50_ms(sap, "before")
        sap.faults(SLOW_SYSTEM, latency_ms=int(ANSWERS_AFTER_SECONDS * 1000))
        sap.hand_over("slow", SLOW_PAYMENTS, partner=1, sap_system=SLOW_SYSTEM)
        _until(lambda: sap.stats(SLOW_SYSTEM)["calls"] >= hard_cap)
        began_at = time.monotonic()
        figures = [_p50_ms(sap, "beside")]
        while time.monotonic() - began_at < ANSWERS_AFTER_SECONDS:  # past the first answers
            figures.append(_p50_ms(sap, f"beside-{len(figures)}"))
        slow = sap.stats(SLOW_SYSTEM)
        measured = Isolation(before_ms, max(figures), slow["calls"], slow["documents"])
        click.echo(f"beside a system that answers after 30 s, p50 in ms: {figures}", err=True)
    return measured


def _p50_ms(sap: SapStage, run: str) -> float:
    made = sap.hand_over_one_by_one(run, PAYMENTS, PAUSE_SECONDS)

    def took() -> list[float]:
        with sap.owner.connect() as connection:
            return [float(found) for found in connection.execute(TOOK, {"payment_ids": made}).scalars()]

    _until(lambda: len(took()) == PAYMENTS)
    return round(statistics.median(took()) * 1000, 1)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("the payments were not posted in time")
        time.sleep(0.05)
