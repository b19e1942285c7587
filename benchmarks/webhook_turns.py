"""What one partner's endpoints cost its own healthy endpoint, and another partner, within one run.

Partner A has a healthy endpoint and 17 more, which refuse, hang or are well; partner B has one that is well.
Each round measures each of the two alone and then both at once, so that both sides of a ratio ran on the same
machine at about the same time.
"""

import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from benchmarks.report import Target
from benchmarks.webhook_stage import Partner, Services
from devstack.postgres import free_port

EXTRA_ENDPOINTS = 17
PAUSE_SECONDS = 0.2
BACKLOG_EVENTS = 1500
A_ALONE, B_ALONE = "A alone", "B alone"
REFUSING, HANGING, WELL = "17 of A refuse", "17 of A hang", "17 more of A are well"
BACKLOG = f"A has a backlog of {BACKLOG_EVENTS:,}"
MOST_OF_OWN, MOST_OF_OTHER = 3, 2


def turns(services: Services, rounds: int, seconds: int) -> tuple[list[str], list[Target]]:
    """Return what was measured, as lines, and the ratios that are asked for. `seconds`: of each phase."""
    a = services.receiver + "/ok/a"
    extra = range(EXTRA_ENDPOINTS)
    alone_a = services.partner(a)
    beside = {
        REFUSING: services.partner(a, *(f"http://127.0.0.1:{free_port()}/{number}" for number in extra)),
        HANGING: services.partner(a, *(f"{services.receiver}/hang/{number}" for number in extra)),
        WELL: services.partner(a, *(f"{services.receiver}/ok/more-{number}" for number in extra)),
    }
    backlog, b = services.partner(a), services.partner(services.receiver + "/ok/b")
    waited: dict[str, tuple[list[float], list[float]]] = {}
    for each in (alone_a, b):
        services.wait_for(each.publish(5), 5)  # connections, plans
    for _ in range(rounds):
        _add(waited, A_ALONE, {"/ok/a": alone_a}, seconds)
        _add(waited, B_ALONE, {"/ok/b": b}, seconds)
        for name, partner in beside.items():
            _add(waited, name, {"/ok/a": partner, "/ok/b": b}, seconds)
        queued = backlog.publish(BACKLOG_EVENTS)
        # measured for as long as A has a backlog
        _add(waited, BACKLOG, {"/ok/b": b}, min(seconds, 5))
        services.wait_for(queued, BACKLOG_EVENTS)
    alone = _p99_ms(waited[A_ALONE][0]), _p99_ms(waited[B_ALONE][1])
    lines = [
        "",
        "| from event to receipt | A, p50 / p99 | B, p50 / p99 | A / alone | B / alone |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, (of_a, of_b) in waited.items():
        ratios = [
            f"{_p99_ms(of) / base:.1f}" if of else "" for of, base in zip((of_a, of_b), alone, strict=True)
        ]
        lines.append(f"| {name} | {_figures(of_a)} | {_figures(of_b)} | {ratios[0]} | {ratios[1]} |")
    own, other = (_p99_ms(of) / base for of, base in zip(waited[REFUSING], alone, strict=True))
    return lines, [
        Target(f"p99 of A's healthy endpoint: {REFUSING} / alone", own, MOST_OF_OWN, at_least=False),
        Target(f"p99 of B's endpoint: {REFUSING} / alone", other, MOST_OF_OTHER, at_least=False),
    ]


def _add(
    waited: dict[str, tuple[list[float], list[float]]],
    name: str,
    partners: Mapping[str, Partner],
    seconds: int,
) -> None:
    """Have all partners' events told at once for `seconds`; keep how long each took to its path."""
    of_a, of_b = waited.setdefault(name, ([], []))
    with ThreadPoolExecutor(len(partners)) as pool:
        told = {path: pool.submit(_steady, partner, path, seconds) for path, partner in partners.items()}
    for path, seconds_waited in (("/ok/a", of_a), ("/ok/b", of_b)):
        if path in told:
            seconds_waited.extend(told[path].result())


def _steady(partner: Partner, path: str, seconds: int) -> list[float]:
    written: dict[str, float] = {}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        written |= partner.publish(1)
        time.sleep(max(0.0, PAUSE_SECONDS - (time.monotonic() - began)))
    arrived = partner.services.wait_for(written, len(written), path)
    return [at - written[event_id] for _, event_id, at in arrived]


def _p99_ms(waited: list[float]) -> float:
    return statistics.quantiles(waited, n=100)[98] * 1000


def _figures(waited: list[float]) -> str:
    return f"{statistics.median(waited) * 1000:,.0f} / {_p99_ms(waited):,.0f} ms" if waited else ""
