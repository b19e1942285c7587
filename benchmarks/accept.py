"""`make bench-accept`: what accepting a payment durably costs, beside its ceilings, all in one run.

Every round takes each of the routes in turn, so that whatever else the machine does falls on all of them;
each number is the median of its rounds. Only the ratios mean something beyond this machine.
"""

import contextlib
import os
import statistics
import sys
import time
from collections.abc import Iterator

import click

from benchmarks.load import WRK_MISSING, Load, Result
from benchmarks.pgbench import accepts_per_second
from benchmarks.report import TELEMETRY, Measured, table
from benchmarks.routes import THREADS
from benchmarks.servers import Server, running
from benchmarks.stage import Stage, staged
from devstack.postgres import free_port
from devstack.preflight import StartError

ROUTES = ("constant", "storage", "pgqueuer", "gateway", TELEMETRY)
CONNECTIONS = 16
WARM_UP_SECONDS = 2
# Statistics of empty tables make bad plans; what is prepared is planned once for good.
SETTLE_SECONDS = 1.0


@click.command()
@click.option("--rounds", type=click.IntRange(1, 50), default=5, show_default=True)
@click.option("--seconds", type=click.IntRange(1, 60), default=4, show_default=True, help="Of each round.")
@click.option("--starts", type=click.IntRange(1, 50), default=5, show_default=True)
def main(rounds: int, seconds: int, starts: int) -> None:
    """Measure accepting beside a bare Flask route, pgbench and PgQueuer."""
    try:
        with staged() as stage:
            measured = _measure(stage, rounds, seconds, starts)
            click.echo(table(measured))
    except (StartError, OSError) as error:
        click.echo(f"bench-accept: {error}", err=True)
        sys.exit(1)


def _measure(stage: Stage, rounds: int, seconds: int, starts: int) -> Measured:
    start_seconds = _starts(stage, starts)
    with _servers(stage) as servers:
        load = Load(stage.token(servers["gateway"].port))
        if load.generator != "wrk":
            click.echo(WRK_MISSING, err=True)
        for server in servers.values():
            load.run(server.port, connections=CONNECTIONS, seconds=WARM_UP_SECONDS)
        many: dict[str, list[Result]] = {route: [] for route in ROUTES}
        one: dict[str, list[Result]] = {route: [] for route in ROUTES}
        cpu_ms: dict[str, list[float]] = {route: [] for route in ROUTES}
        pgbench: list[float] = []
        for number in range(1, rounds + 1):
            click.echo(f"round {number} of {rounds}", err=True)
            # what a round leaves to do for the database falls on another route in the next one
            in_turn = list(servers.items())[:: 1 if number % 2 else -1]
            for route, server in in_turn:
                time.sleep(SETTLE_SECONDS)
                used_before = server.worker_cpu_seconds()
                result = load.run(server.port, connections=CONNECTIONS, seconds=seconds)
                cpu_ms[route].append((server.worker_cpu_seconds() - used_before) * 1000 / result.requests)
                many[route].append(result)
            for route, server in in_turn:
                one[route].append(load.run(server.port, connections=1, seconds=max(1, seconds // 2)))
            pgbench.append(accepts_per_second(stage, connections=CONNECTIONS, seconds=seconds))
        rss_mib = {route: server.worker_rss_mib() for route, server in servers.items()}
    return Measured(
        settings=stage.settings,
        generator=load.generator,
        rounds=rounds,
        load_average=os.getloadavg()[1],
        many=many,
        one=one,
        cpu_ms={route: statistics.median(used) for route, used in cpu_ms.items()},
        pgbench=statistics.median(pgbench),
        rss_mib=rss_mib,
        start_seconds={route: statistics.median(taken) for route, taken in start_seconds.items()},
    )


@contextlib.contextmanager
def _servers(stage: Stage) -> Iterator[dict[str, Server]]:
    with contextlib.ExitStack() as stack:
        yield {route: stack.enter_context(_server(stage, route)) for route in ROUTES}


def _server(stage: Stage, route: str) -> contextlib.AbstractContextManager[Server]:
    environment = stage.environment() | {"THREADS": str(THREADS)}
    log = stage.folder / f"{route}.log"
    if route in ("gateway", TELEMETRY):
        told = _telemetry(stage) if route == TELEMETRY else {}
        return running(route, ["gateway"], environment | told, "/readyz", log)
    return running(route, ["benchmarks.routes", route, "{port}"], environment, "/", log)


def _telemetry(stage: Stage) -> dict[str, str]:
    """Every metric, and a tenth of the traces, as in production; both stay on this machine."""
    return {
        "OTEL_METRICS_EXPORTER": "prometheus",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(free_port()),
        "OTEL_TRACES_EXPORTER": "file",
        "OTEL_TRACES_SAMPLER_ARG": "0.1",
        "TRACES_FILE": str(stage.folder / "traces.jsonl"),
    }


def _starts(stage: Stage, starts: int) -> dict[str, list[float]]:
    """Start a bare Flask and the gateway in turn; the first of each only fills the disk's cache."""
    taken: dict[str, list[float]] = {"constant": [], "gateway": []}
    for number in range(starts + 1):
        for route, seconds in taken.items():
            with _server(stage, route) as server:
                if number:
                    seconds.append(server.start_seconds)
    return taken


if __name__ == "__main__":
    main()
