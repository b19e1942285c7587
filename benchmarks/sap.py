"""`make bench-sap`: the relay beside its ceilings, and a backlog that drains after an outage, in one run."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import structlog

from benchmarks.broker import bare_broker
from benchmarks.isolation import Isolation, beside_a_slow_system
from benchmarks.load import WRK_MISSING, Load
from benchmarks.outage import Outage, play
from benchmarks.relay import RelayBench, idle_statements_per_second
from benchmarks.sap_picture import draw
from benchmarks.sap_report import Measured, RelayRounds, table
from benchmarks.sap_stage import SapStage, sap_staged
from benchmarks.servers import running
from benchmarks.stage import Stage, staged
from devstack.preflight import StartError

HARD_CAP_CALLS = 16
MESSAGES = 20_000
IDLE_SECONDS = 10.0
LATENCY_PAUSE_SECONDS = 0.1
PICTURE = Path(__file__).parents[1] / "docs" / "outage.svg"
PARTS = ("relay", "latency", "outage", "isolation")


@click.command()
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, help="Only these; default: all.")
@click.option("--rounds", type=click.IntRange(1, 20), default=3, show_default=True, help="Of the relay.")
@click.option("--backlog", type=click.IntRange(500, 100_000), default=5_000, show_default=True)
@click.option("--seconds", type=click.IntRange(2, 60), default=10, show_default=True, help="Of each load.")
@click.option(
    "--payments", type=click.IntRange(20, 1_000), default=200, show_default=True, help="One by one."
)
@click.option(
    "--picture", type=click.Path(path_type=Path), default=PICTURE, help="Where the outage is drawn."
)
def main(parts: Sequence[str], rounds: int, backlog: int, seconds: int, payments: int, picture: Path) -> None:
    """Measure the SAP side; draw the outage."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    wanted = parts or PARTS
    measured = Measured(os.getloadavg()[0], backlog, HARD_CAP_CALLS)
    try:
        with staged() as stage:
            measured.settings = stage.settings
            if "relay" in wanted:
                measured.relay = _relay(stage, rounds)
                measured.idle_statements = idle_statements_per_second(stage, IDLE_SECONDS)
                _show(measured)
            if "latency" in wanted or "outage" in wanted:
                with sap_staged(stage, hard_cap=HARD_CAP_CALLS) as sap:
                    if "latency" in wanted:
                        measured.published_after_ms = sap.published_after_ms(payments, LATENCY_PAUSE_SECONDS)
                        _show(measured)
                    sap.stop_watching()
                    if "outage" in wanted:
                        measured.outage = _outage(sap, backlog, seconds)
                        draw(measured.outage, picture)
                        _show(measured)
        if "isolation" in wanted:
            measured.isolation = _isolation()
        click.echo(table(measured))
    except (StartError, OSError) as error:
        click.echo(f"bench-sap: {error}", err=True)
        sys.exit(1)


def _show(measured: Measured) -> None:
    """What there is so far: a run that is cut short has not been in vain."""
    click.echo(table(measured), err=True)


def _relay(stage: Stage, rounds: int) -> RelayRounds:
    """Each round measures all three, one after the other."""
    measured = RelayRounds()
    with bare_broker(stage) as broker:
        bench = RelayBench(stage, broker)
        for number in range(rounds + 1):
            click.echo(f"relay, round {number} of {rounds}", err=True)
            figures = (
                bench.relay_per_second(MESSAGES),
                bench.bare_per_second(MESSAGES),
                bench.peer_per_second(MESSAGES),
            )
            if number:  # the first one warms the broker's and Python's code up
                series = (measured.relay, measured.bare, measured.peer)
                for one, figure in zip(series, figures, strict=True):
                    one.append(figure)
        bench.close()
    return measured


def _outage(sap: SapStage, backlog: int, seconds: int) -> Outage:
    log = sap.stage.folder / "gateway.log"
    with running(
        "gateway", ["gateway"], sap.stage.environment() | {"THREADS": "16"}, "/readyz", log
    ) as gateway:
        load = Load(sap.stage.token(gateway.port))
        if load.generator != "wrk":
            click.echo(WRK_MISSING, err=True)
        return play(sap, load, gateway.port, backlog=backlog, seconds=seconds)


def _isolation() -> Isolation:
    """On a stage of its own, whose calls to SAP may take as long as in production."""
    with staged(with_peer=False) as stage:
        return beside_a_slow_system(stage, hard_cap=HARD_CAP_CALLS)


if __name__ == "__main__":
    main()
