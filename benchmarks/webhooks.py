"""`make bench-webhooks`: deliveries through the real task path, beside a bare HTTP client loop, in one run.

The webhooks service, the Cloud Tasks stand-in and a receiver are processes; events are written to PostgreSQL
and the service's doorbell is rung by this process. Only the ratios mean something beyond this machine.
"""

import os
import statistics
import sys
import time

import click
import requests

from benchmarks.report import Target
from benchmarks.stage import staged
from benchmarks.webhook_stage import Partner, Services, services_on
from benchmarks.webhook_turns import turns
from devstack.preflight import StartError

ENDPOINTS = 10
HANGING = 2
BARE_POSTS = 500
IDLE_EVENTS = 30
PAUSE_SECONDS = 0.25


def _partner(services: Services, hanging: int) -> Partner:
    """Make a partner with ENDPOINTS endpoints; the last `hanging` of them hang."""
    kinds = ["ok"] * (ENDPOINTS - hanging) + ["hang"] * hanging
    return services.partner(*(f"{services.receiver}/{kind}/{number}" for number, kind in enumerate(kinds)))


def _bare_posts_per_second(receiver: str) -> float:
    """What an HTTP client does in a loop, with a body like ours and no signature."""
    body = b'{"data":{"payment":{"amount":{"value":"1250.00"},"id":"pay_01kaf3nyt8h8w5s2m6r7v9x4cd"}}}' * 3
    with requests.Session() as session:
        session.post(f"{receiver}/ok/bare", data=body, timeout=30)
        started = time.perf_counter()
        for _ in range(BARE_POSTS):
            session.post(f"{receiver}/ok/bare", data=body, timeout=30).raise_for_status()
        return BARE_POSTS / (time.perf_counter() - started)


def _burst(partner: Partner, events: int) -> tuple[float, dict[str, float]]:
    """Return deliveries per second, and the milliseconds of processor time of one, by process."""
    services = partner.services
    used_before = services.cpu_seconds()
    written = partner.publish(events)
    found = services.wait_for(written, events * ENDPOINTS)
    used = services.cpu_seconds()
    milliseconds = {name: (used[name] - used_before[name]) * 1000 / len(found) for name in used}
    return len(found) / (max(at for *_, at in found) - min(written.values())), milliseconds


def _idle_p50_ms(partner: Partner) -> float:
    waited = []
    for _ in range(IDLE_EVENTS):
        written = partner.publish(1)
        ((event_id, since),) = written.items()
        found = partner.services.wait_for({event_id: since}, ENDPOINTS)
        waited.append(min(at for *_, at in found) - since)
    return statistics.median(waited) * 1000


def _steady_p99_ms(partner: Partner, seconds: int, healthy: int) -> float:
    """Return the p99 of event to arrival at the first `healthy` endpoints, under a steady load."""
    written: dict[str, float] = {}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        written |= partner.publish(1)
        time.sleep(PAUSE_SECONDS)
    paths = {f"/ok/{number}" for number in range(healthy)}
    arrived = partner.services.wait_for(written, len(written) * healthy)
    waited = [at - written[event_id] for path, event_id, at in arrived if path in paths]
    return statistics.quantiles(waited, n=100)[98] * 1000


@click.command()
@click.option("--events", type=click.IntRange(1, 5000), default=60, show_default=True, help="Of the burst.")
@click.option("--seconds", type=click.IntRange(5, 600), default=30, show_default=True, help="Of steady load.")
@click.option(
    "--rounds", type=click.IntRange(1, 50), default=3, show_default=True, help="Of partners' turns."
)
@click.option("--only-turns", is_flag=True, help="Measure nothing but partners' turns.")
def main(events: int, seconds: int, rounds: int, only_turns: bool) -> None:
    """Measure webhooks beside a bare client loop, beside endpoints that hang, and beside other partners."""
    try:
        with staged(with_peer=False) as stage:
            if not only_turns:
                with services_on(stage) as services:
                    throughput = _throughput(services, events, seconds)
            with services_on(stage) as services:
                turn_lines, turn_targets = turns(services, rounds, max(5, seconds // 2))
    except (StartError, OSError) as error:
        click.echo(f"bench-webhooks: {error}", err=True)
        sys.exit(1)
    click.echo(f"{os.cpu_count()} cores, load average {os.getloadavg()[1]:.1f}")
    targets = []
    if not only_turns:
        lines, targets = throughput
        click.echo("\n".join(lines))
    click.echo("\n".join(turn_lines))
    click.echo("\n| target | measured | asked | |\n| --- | ---: | ---: | --- |")
    for target in targets + turn_targets:
        click.echo(target.line())


def _throughput(services: Services, events: int, seconds: int) -> tuple[list[str], list[Target]]:
    healthy = ENDPOINTS - HANGING
    partner = _partner(services, 0)
    services.wait_for(partner.publish(5), 5 * ENDPOINTS)  # connections, plans
    idle_ms = _idle_p50_ms(partner)
    bare = _bare_posts_per_second(services.receiver)
    burst, cpu_ms = _burst(partner, events)
    well_ms = _steady_p99_ms(partner, seconds, healthy)
    beside = _partner(services, HANGING)
    services.wait_for(beside.publish(5), 5 * healthy)
    beside_ms = _steady_p99_ms(beside, seconds, healthy)
    by_process = ", ".join(f"{name} {used:.1f} ms" for name, used in cpu_ms.items())
    lines = [
        f"bare loop {bare:,.0f} posts/s, deliveries {burst:,.0f}/s",
        f"p99 of steady load {well_ms:.0f} ms, beside hanging {beside_ms:.0f} ms",
        f"processor time of one delivery: {by_process}; {sum(cpu_ms.values()):.1f} ms in all",
    ]
    return lines, [
        Target("throughput: deliveries / bare HTTP client loop", burst / bare, 0.25, at_least=True),
        Target(
            f"p99 of {healthy} endpoints: beside {HANGING} that hang 15 s / without",
            beside_ms / well_ms,
            2,
            at_least=False,
        ),
        Target("event to first attempt, idle, p50", idle_ms, 100, at_least=False, unit=" ms"),
    ]


if __name__ == "__main__":
    main()
