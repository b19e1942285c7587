"""A SAP with a capacity and the lane in front of it, simulated with a seed: no threads, no clock but its own.

A permit is held a little longer than its call (claim before it, record after it), and is taken again a hop
later: as with the real adapter.
"""

import heapq
import itertools
import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from fakes.accepted import NOW

from bridge.lane import Answers, FailedCall, GuardSettings, Lane

CLAIM_SECONDS, RECORD_SECONDS, HOP_SECONDS, FOLD_SECONDS = 0.004, 0.008, 0.005, 0.05
GUARD = GuardSettings(
    failing_operations_to_open=3, probe_interval_seconds=1.0, max_probe_interval_seconds=5.0
)


@dataclass
class SimulatedSap:
    """`capacity` calls at once, the others are refused; `down`: no call gets an answer; times in seconds."""

    capacity: int = 8
    latency: float = 0.1
    jitter: float = 0.1
    down: bool = False
    refuses_all: bool = False
    retry_after: float = 1.0
    timeout: float = 0.05
    inside: int = 0
    most_inside: int = 0
    served: int = 0
    refused: int = 0
    calls: list = field(default_factory=list)


class SimulatedLane:
    def __init__(
        self, lane: Lane, sap: SimulatedSap, *, seed: int = 1, backlog: int = 10**9, target: float = 5.0
    ):
        self.lane, self.sap, self.target, self.backlog = lane, sap, target, backlog
        self.now = NOW
        self.answers = Answers()
        self.in_flight = 0
        self.windows: list[tuple[datetime, int]] = []
        self.most_over_window = 0
        self._dice = random.Random(seed)  # noqa: S311 - a seeded test
        self._order = itertools.count()
        self._operations = itertools.count()
        self._events: list = []
        self._at(0.0, self._fold)

    def _at(self, seconds, action):
        heapq.heappush(self._events, (self.now + timedelta(seconds=seconds), next(self._order), action))

    def run(self, seconds):
        end = self.now + timedelta(seconds=seconds)
        while self._events and self._events[0][0] <= end:
            self.now, _, action = heapq.heappop(self._events)
            action()
            if not self.windows or self.windows[-1][1] != self.lane.call_window:
                self.windows.append((self.now, self.lane.call_window))
        self.now = end

    def _fold(self):
        if self.lane.is_probe_due(self.now):
            self.lane = self.lane.probing()
        is_behind = self.backlog > 0
        self.lane = self.lane.folded_with(
            self.answers, is_behind=is_behind, latency_target_seconds=self.target, now=self.now
        )
        self._fill()
        self._at(FOLD_SECONDS, self._fold)

    def _fill(self):
        while self.backlog > 0 and self.in_flight < self.lane.call_window:
            self.backlog -= 1
            self.in_flight += 1
            self._start(f"op_{next(self._operations)}", self.now)

    def _start(self, operation_id, began_at):
        self._at(CLAIM_SECONDS, lambda: self._call(operation_id, began_at))

    def _call(self, operation_id, began_at):
        sap = self.sap
        sap.calls.append(self.now)
        if sap.down:
            self._at(sap.timeout, lambda: self._failed(operation_id, began_at, is_overload=False))
            return
        if sap.inside >= sap.capacity or sap.refuses_all:
            sap.refused += 1
            self._at(0.001, lambda: self._failed(operation_id, began_at, is_overload=True))
            return
        sap.inside += 1
        sap.most_inside = max(sap.most_inside, sap.inside)
        latency = sap.latency * self._dice.uniform(1 - sap.jitter, 1 + sap.jitter)
        self._at(latency, lambda: self._answered(began_at))

    def _answered(self, began_at):
        self.sap.inside -= 1
        self.sap.served += 1
        self._at(RECORD_SECONDS, lambda: self._record_answer(began_at))

    def _record_answer(self, began_at):
        latency_ms = round((self.now - began_at).total_seconds() * 1000)
        self.answers = Answers(self.answers.count + 1, self.answers.latency_ms + latency_ms)
        self.lane = self.lane.after_success()
        self._give_back()

    def _failed(self, operation_id, began_at, *, is_overload):
        def record():
            retry_after = self.sap.retry_after if is_overload else 0.0
            failure = FailedCall(operation_id, began_at, is_overload, retry_after)
            self.lane = self.lane.after_failure(failure, GUARD, self.now)
            self.backlog += 1
            self._give_back()

        self._at(RECORD_SECONDS, record)

    def _give_back(self):
        self.in_flight -= 1
        self._at(HOP_SECONDS, self._fill)
