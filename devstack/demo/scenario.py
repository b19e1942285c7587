"""One scenario: payments go in while SAP is in some state, then everything is left to drain."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import requests
from sqlalchemy.exc import SQLAlchemyError

from devstack.demo.instructions import Instructions
from devstack.demo.partner_client import PartnerClient, Sent
from devstack.demo.progress import Progress, count_leftovers, read_progress
from devstack.demo.sender import Sender
from devstack.evidence import CALL_TIMEOUT_SECONDS, get_json
from devstack.invariants import Accepted
from devstack.running_stack import RunningStack

DRAIN_TIMEOUT_SECONDS = 60.0
LEFTOVERS_TIMEOUT_SECONDS = 30.0
SAMPLE_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Scenario:
    """`trouble`: SAP's faults while the payments are sent and until `trouble_seconds` have passed."""

    name: str
    title: str
    payments: int
    per_second: float
    trouble: Mapping[str, Any] = field(default_factory=dict)
    trouble_seconds: float = 0.0


SCENARIOS = (
    Scenario("happy", "SAP is well", payments=100, per_second=25.0),
    Scenario(
        "overloaded",
        "SAP is overloaded: slow, every second call 503; then well again",
        payments=100,
        per_second=20.0,
        trouble={"mode": "overloaded"},
        trouble_seconds=8.0,
    ),
    Scenario(
        "down",
        "SAP is down, payments go on being accepted; then SAP is back",
        payments=100,
        per_second=20.0,
        trouble={"mode": "down"},
        trouble_seconds=6.0,
    ),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """`at_seconds` since the scenario began."""

    at_seconds: float
    sap: str
    progress: Progress


@dataclass
class Run:
    """What a scenario has shown so far; complete once `ended_seconds` is set."""

    scenario: Scenario
    sap: str = "up"
    samples: list[Sample] = field(default_factory=list)
    sent: Sequence[Sent] = ()
    accepted: Sequence[Accepted] = ()
    # how many payments were accepted while SAP was in trouble
    accepted_in_trouble: int = 0
    trouble_ended_seconds: float | None = None
    ended_seconds: float | None = None
    drained: bool = False

    @property
    def latest(self) -> Progress | None:
        return self.samples[-1].progress if self.samples else None

    @property
    def refusals(self) -> list[str]:
        """Whatever was answered instead of 202, tries that a retry made good included."""
        return [refusal for sent in self.sent for refusal in sent.refusals]

    def latency_ms(self, percent: int) -> float:
        """The latency of the 202s that so many percent of them did not exceed."""
        latencies = [sent.latency_ms for sent in self.sent]
        if len(latencies) < 2:
            return latencies[0] if latencies else 0.0
        return statistics.quantiles(latencies, n=100, method="inclusive")[percent - 1]


class Stage:
    """Where scenarios are played: a running stack, its partners, and somebody who looks on."""

    def __init__(
        self, stack: RunningStack, instructions: Instructions, show: Callable[[Run], None] = lambda _run: None
    ) -> None:
        self._stack = stack
        self._instructions = instructions
        self._show = show
        self._clients = [PartnerClient(stack.api, credentials) for credentials in stack.partners]

    def clear(self) -> None:
        """Let end what an earlier run has left on its way, or it would be counted with the first scenario."""
        self._put_faults({})
        _wait(lambda: None, lambda: count_leftovers(self._stack) == 0, LEFTOVERS_TIMEOUT_SECONDS)

    def play(self, scenario: Scenario) -> Run:
        """Play it to the end, or until it has not drained in time (`drained` tells)."""
        run = Run(scenario)
        started = time.monotonic()
        since = datetime.now(UTC)
        documents_before = get_json(self._stack.sap_mock, "stats")["documents"]
        sender = Sender(self._clients, self._instructions)

        def look() -> None:
            at_seconds = time.monotonic() - started
            if run.samples and at_seconds < run.samples[-1].at_seconds + SAMPLE_SECONDS:
                return
            run.sent = sender.sent
            try:
                progress = read_progress(self._stack, since=since, documents_before=documents_before)
            except (SQLAlchemyError, requests.RequestException):
                return  # it is looked at again at once; what is lost here, the check at the end finds
            run.samples.append(Sample(at_seconds, run.sap, progress))
            self._show(run)

        def is_drained() -> bool:
            latest = run.latest
            return latest is not None and latest.payments >= scenario.payments and latest.is_drained

        try:
            self._sap_is(run, scenario.trouble)
            sender.send(scenario.name, scenario.payments, per_second=scenario.per_second, meanwhile=look)
            run.accepted_in_trouble = len(sender.accepted) if scenario.trouble else 0
            _wait(look, lambda: time.monotonic() - started >= scenario.trouble_seconds, DRAIN_TIMEOUT_SECONDS)
        finally:
            self._sap_is(run, {})
            run.trouble_ended_seconds = time.monotonic() - started
            run.sent, run.accepted = sender.sent, sender.accepted
        run.drained = _wait(look, is_drained, DRAIN_TIMEOUT_SECONDS)
        run.ended_seconds = time.monotonic() - started
        self._show(run)
        return run

    def _sap_is(self, run: Run, faults: Mapping[str, Any]) -> None:
        self._put_faults(faults)
        run.sap = str(faults.get("mode", "up"))

    def _put_faults(self, faults: Mapping[str, Any]) -> None:
        answer = requests.put(
            f"{self._stack.sap_mock}/_control/faults", json=dict(faults), timeout=CALL_TIMEOUT_SECONDS
        )
        answer.raise_for_status()


def _wait(look: Callable[[], None], until: Callable[[], bool], timeout_seconds: float) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while not until():
        if time.monotonic() > deadline:
            return False
        look()
        time.sleep(SAMPLE_SECONDS / 5)
    return True
