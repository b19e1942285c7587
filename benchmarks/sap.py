"""`make bench-sap`: the relay beside its ceilings, and a backlog that drains after an outage, in one run."""

import logging
import sys
from pathlib import Path

import click
import structlog

from benchmarks.load import WRK_MISSING, Load
from benchmarks.outage import Outage, play
from benchmarks.relay import RelayBench, idle_statements_per_second
from benchmarks.sap_picture import draw
from benchmarks.sap_report import RelayRounds, table
from benchmarks.sap_stage import SapStage, bare_broker, sap_staged
from benchmarks.servers import running
from benchmarks.stage import Stage, staged
from devstack.preflight import StartError

HARD_CAP_CALLS = 16
MESSAGES = 20_000
IDLE_SECONDS = 10.0
LATENCY_PAUSE_SECONDS = 0.1
PICTURE = Path(__file__).parents[1] / "docs" / "outage.svg"


@click.command()
@click.option("--rounds", type=click.IntRange(1, 20), default=3, show_default=True, help="Of the relay.")
@click.option("--backlog", type=click.IntRange(500, 100_000), default=5_000, show_default=True)
@click.option("--seconds", type=click.IntRange(2, 60), default=10, show_default=True, help="Of each load.")
@click.option(
    "--payments", type=click.IntRange(20, 1_000), default=200, show_default=True, help="One by one."
)
def main(rounds: int, backlog: int, seconds: int, payments: int) -> None:
    """Measure the SAP side; draw the outage into docs/outage.svg."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    try:
        with staged() as stage:
            relayed = _relay(stage, rounds)
            idle = idle_statements_per_second(stage, IDLE_SECONDS)
            with sap_staged(stage, hard_cap=HARD_CAP_CALLS) as sap:
                after_ms = sap.published_after_ms(payments, LATENCY_PAUSE_SECONDS)
                outage = _outage(sap, backlog, seconds)
            draw(outage, PICTURE)
            measured = RelayRounds(*relayed, after_ms, idle)
            click.echo(table(stage.settings, measured, outage, backlog=backlog, hard_cap=HARD_CAP_CALLS))
    except (StartError, OSError) as error:
        click.echo(f"bench-sap: {error}", err=True)
        sys.exit(1)


def _relay(stage: Stage, rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Each round measures all three, one after the other."""
    with bare_broker(stage) as broker:
        bench = RelayBench(stage, broker)
        relay: list[float] = []
        bare: list[float] = []
        peer: list[float] = []
        for number in range(rounds + 1):
            click.echo(f"relay, round {number} of {rounds}", err=True)
            measured = (
                bench.relay_per_second(MESSAGES),
                bench.bare_per_second(MESSAGES),
                bench.peer_per_second(MESSAGES),
            )
            if number:  # the first one warms the broker's and Python's code up
                for series, value in zip((relay, bare, peer), measured, strict=True):
                    series.append(value)
        bench.close()
    return relay, bare, peer


def _outage(sap: SapStage, backlog: int, seconds: int) -> Outage:
    log = sap.stage.folder / "gateway.log"
    with running(
        "gateway", ["gateway"], sap.stage.environment() | {"THREADS": "16"}, "/readyz", log
    ) as gateway:
        load = Load(sap.stage.token(gateway.port))
        if load.generator != "wrk":
            click.echo(WRK_MISSING, err=True)
        return play(sap, load, gateway.port, backlog=backlog, seconds=seconds)


if __name__ == "__main__":
    main()
