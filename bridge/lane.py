"""A SAP lane's guard, decided: how many calls may run at once, and when nobody may call.

The window grows by single steps and shrinks by half, as TCP's does (RFC 5681): what was refused (429, 503)
or took too long says that it was too large. After an outage it starts with one call and doubles up to what
last worked. Pure: the adapter that sees a failure and the relay that sees the rest decide by the same rules.
docs/decisions/0016-the-law-of-the-window.md
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from bridge.environment import seconds, whole

# The way through the broker and back: what SAP can begin meanwhile may be on its way beyond the calls allowed
# at once, as many again at most. More would only find no permit and come back.
WAY_SECONDS = 0.2
# From the last refusal to the first step above what worked; each further step waits half as long.
GROWTH_PAUSE_SECONDS = 5.0
MIN_GROWTH_PAUSE_SECONDS = 0.5
# Where calls are slow, the pause is as long as about so many of them take: one step in so many is refused.
CALLS_BETWEEN_STEPS = 100
# The same where the limit is only a guess: the steps begin as if so many had been made.
GUESS_PAUSE_SECONDS = 1.0
GUESS_STEPS = 3
# The sums of the permits are looked at this often, however often the relay goes round.
FOLD_SECONDS = 0.05
# The rate is taken over at least this long, and smoothed over about so many seconds.
RATE_SECONDS = 1.0
RATE_MEMORY_SECONDS = 10.0
# Latency is smoothed: so much of the new mean enters at each fold.
LATENCY_WEIGHT = 0.3
MAX_BACKOFF_DOUBLINGS = 16
MAX_PROBE_INTERVAL_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """When a lane's circuit opens, and how often it is probed while it is open."""

    failing_operations_to_open: int = 3
    probe_interval_seconds: float = 1.0
    max_probe_interval_seconds: float = 1.5

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "GuardSettings":
        """Read the environment; SettingsError names the first variable that is wrong."""
        plain = cls()
        return cls(
            whole(environ, "SAP_FAILING_OPERATIONS_TO_OPEN", plain.failing_operations_to_open, at_most=100),
            seconds(
                environ, "SAP_PROBE_INTERVAL_SECONDS", plain.probe_interval_seconds,
                at_most=MAX_PROBE_INTERVAL_SECONDS,
            ),
            seconds(
                environ, "SAP_MAX_PROBE_INTERVAL_SECONDS", plain.max_probe_interval_seconds,
                at_most=MAX_PROBE_INTERVAL_SECONDS,
            ),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class FailedCall:
    """A call that ended without a definite answer.

    `began_at`: when its claim began. `is_overload`: SAP said that it has too much to do (429, 503).
    `retry_after_seconds` is SAP's own wish; 0: none.
    """

    operation_id: str
    began_at: datetime
    is_overload: bool
    retry_after_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Answers:
    """Postings that SAP has answered clearly, counted since ever, and how long they took together."""

    count: int = 0
    latency_ms: int = 0


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast the lane drains. `since`: it has been behind since then; None: it keeps up."""

    per_second: float | None = None
    count: int = 0
    since: datetime | None = None

    def measured(self, answers: Answers, *, is_behind: bool, now: datetime) -> "Rate":
        """Return the rate after a look at the answers so far; a lane that keeps up shows no speed."""
        if not is_behind:
            return replace(self, since=None) if self.since else self
        if self.since is None or now < self.since:
            return replace(self, count=answers.count, since=now)
        seconds = (now - self.since).total_seconds()
        if seconds < RATE_SECONDS:
            return self
        fresh = (answers.count - self.count) / seconds
        weight = min(1.0, seconds / RATE_MEMORY_SECONDS)
        smoothed = fresh if self.per_second is None else self.per_second + weight * (fresh - self.per_second)
        return Rate(smoothed, answers.count, now)


@dataclass(frozen=True, slots=True)
class Lane:
    """The guard of one SAP system.

    `call_window`: calls allowed at once; 0: the circuit is open; 1 with failed probes: half-open.
    `growth_limit`: what last worked, up to which the window doubles; None: no limit but the cap is known.
    `closed_at`: since when nothing but probes has gone out; None: the lane is open.
    """

    hard_cap: int
    call_window: int
    held: bool = False
    growth_limit: int | None = None
    grow_not_before: datetime | None = None
    growth_steps: int = 0
    shrunk_at: datetime | None = None
    probe_not_before: datetime | None = None
    failed_probes: int = 0
    closed_at: datetime | None = None
    failing_operations: tuple[str, ...] = ()
    folded: Answers = Answers()
    folded_at: datetime | None = None
    latency_ms: float | None = None
    rate: Rate = Rate()

    @property
    def is_half_open(self) -> bool:
        return self.call_window == 1 and self.failed_probes > 0

    @property
    def limit(self) -> int:
        """The largest window that is believed to work, in calls."""
        return self.hard_cap if self.growth_limit is None else min(self.growth_limit, self.hard_cap)

    def is_probe_due(self, now: datetime) -> bool:
        """Whether the open circuit may be tried by one call."""
        if self.held or self.call_window > 0:
            return False
        return self.probe_not_before is None or self.probe_not_before <= now

    def probing(self) -> "Lane":
        """Return the guard half-open: one call at a time, in the whole fleet."""
        return replace(self, call_window=1, failed_probes=max(self.failed_probes, 1))

    def is_probed_by_question(self) -> bool:
        """Whether the probe is preferably a question, the gentlest call: the first is, then every second.

        Questions that SAP can't answer must not keep a lane closed that takes postings.
        """
        return self.is_half_open and self.failed_probes % 2 == 1

    def room(self, *, out: int, calls: int, settling: int) -> int:
        """Return how many more operations may go out.

        `out` are dispatched and not yet claimed. Of the permits within the window `calls` are with callers
        and `settling` are kept for lost calls: what those block can't be used however long one waits.
        """
        if self.held:
            return 0
        usable = self.call_window - settling
        wanted = usable if self.is_half_open else usable + self._ahead(usable)
        return max(0, wanted - out - calls)

    def _ahead(self, usable: int) -> int:
        if self.latency_ms is None:
            return usable
        return min(usable, math.ceil(usable * WAY_SECONDS * 1000 / max(self.latency_ms, 1.0)))

    def after_failure(self, failure: FailedCall, settings: GuardSettings, now: datetime) -> "Lane":
        """Return the guard after a call that SAP did not answer.

        Overload halves the window, once for all calls that had begun before. The circuit opens when that
        many distinct operations have failed with no success between, or at once if the call was a probe.
        One poisonous operation alone never closes a lane to the others.
        """
        if self.call_window == 0:
            return self.later(now + timedelta(seconds=failure.retry_after_seconds))
        if failure.is_overload and self.is_old_news(failure.began_at):
            return self
        lane = self.shrunk(failure.retry_after_seconds, now) if failure.is_overload else self
        failing = lane.failing_operations
        if failure.operation_id not in failing:
            failing = (*failing, failure.operation_id)[-settings.failing_operations_to_open :]
        lane = replace(lane, failing_operations=failing)
        if lane.failed_probes == 0 and len(failing) < settings.failing_operations_to_open:
            return lane
        return lane.opened(failure.retry_after_seconds, settings, now)

    def after_success(self) -> "Lane":
        """Return the guard after an answered posting: a lane that was closed starts again with one call."""
        if self.call_window > 0 and self.failed_probes == 0:
            return replace(self, failing_operations=()) if self.failing_operations else self
        return replace(
            self,
            call_window=1,
            probe_not_before=None,
            failed_probes=0,
            closed_at=None,
            failing_operations=(),
            grow_not_before=None,
            growth_steps=0,
        )

    def after_question(self) -> "Lane":
        """Return the guard after an answered question: half-open as it is, its next probe is a posting.

        It says nothing of SAP's posting side: it neither opens the window nor forgives failed postings.
        """
        if not self.is_probed_by_question():
            return self
        return replace(self, failed_probes=self.failed_probes + 1)

    def folded_with(
        self, answers: Answers, *, is_behind: bool, latency_target_seconds: float, now: datetime
    ) -> "Lane":
        """Return the guard after a look at all answers so far: grown if they were good, shrunk if slow.

        `is_behind`: there is more to do than the window lets through; a window that nobody fills proves
        nothing by its answers.
        """
        fresh = answers.count - self.folded.count
        looked_just_now = self.folded_at is not None and abs(now - self.folded_at) < timedelta(
            seconds=FOLD_SECONDS
        )
        if looked_just_now or (fresh <= 0 and is_behind == (self.rate.since is not None)):
            return self
        lane = replace(
            self,
            folded=answers,
            folded_at=now,
            rate=self.rate.measured(answers, is_behind=is_behind, now=now),
        )
        if fresh <= 0:
            return lane
        mean_ms = (answers.latency_ms - self.folded.latency_ms) / fresh
        before = mean_ms if self.latency_ms is None else self.latency_ms
        lane = replace(lane, latency_ms=before + LATENCY_WEIGHT * (mean_ms - before))
        began_at = now - timedelta(milliseconds=mean_ms)
        if lane.call_window == 0 or lane.is_half_open or lane.is_old_news(began_at):
            return lane
        if mean_ms > latency_target_seconds * 1000:
            return lane.shrunk(0.0, now)
        return lane.grown(fresh, now) if is_behind else lane

    def is_old_news(self, began_at: datetime) -> bool:
        """Whether a call began in the larger window that has been shrunk since."""
        return self.shrunk_at is not None and began_at <= self.shrunk_at

    def grown(self, answers: int, now: datetime) -> "Lane":
        """Return the guard with a window that is larger by an answer each, or by one step above the limit."""
        if self.call_window < self.limit:
            larger = min(self.limit, self.call_window + min(answers, self.call_window))
            pause = self.grow_not_before or now + timedelta(seconds=GROWTH_PAUSE_SECONDS)
            return replace(self, call_window=larger, grow_not_before=pause)
        if self.call_window >= self.hard_cap or (self.grow_not_before and now < self.grow_not_before):
            return self
        pause_seconds = max(GROWTH_PAUSE_SECONDS / 2 ** (self.growth_steps + 1), MIN_GROWTH_PAUSE_SECONDS)
        return replace(
            self,
            call_window=self.call_window + 1,
            growth_limit=self.call_window,
            growth_steps=min(self.growth_steps + 1, MAX_BACKOFF_DOUBLINGS),
            grow_not_before=now + timedelta(seconds=pause_seconds),
        )

    def shrunk(self, retry_after_seconds: float, now: datetime) -> "Lane":
        """Return the guard with half the window, never less than one call.

        A step above the limit that was too large confirms it: the next one waits. A window below it that was
        too large makes the limit a guess, which is soon tried.
        """
        half = max(1, self.call_window // 2)
        is_confirmed = self.call_window > self.limit
        pause_seconds = self._confirmed_pause_seconds() if is_confirmed else GUESS_PAUSE_SECONDS
        return replace(
            self,
            call_window=half,
            growth_limit=self.limit if is_confirmed else half,
            growth_steps=0 if is_confirmed else GUESS_STEPS,
            grow_not_before=now + timedelta(seconds=max(pause_seconds, retry_after_seconds)),
            shrunk_at=now,
        )

    def _confirmed_pause_seconds(self) -> float:
        latency_seconds = (self.latency_ms or 0.0) / 1000
        return max(GROWTH_PAUSE_SECONDS, CALLS_BETWEEN_STEPS * latency_seconds / self.limit)

    def opened(self, retry_after_seconds: float, settings: GuardSettings, now: datetime) -> "Lane":
        doublings = min(self.failed_probes, MAX_BACKOFF_DOUBLINGS)
        pause_seconds = min(
            settings.probe_interval_seconds * 2**doublings, settings.max_probe_interval_seconds
        )
        return replace(
            self,
            call_window=0,
            failed_probes=self.failed_probes + 1,
            closed_at=self.closed_at or now,
            probe_not_before=now + timedelta(seconds=max(pause_seconds, retry_after_seconds)),
        )

    def later(self, probe_not_before: datetime) -> "Lane":
        """A late answer of a call from before: SAP's wish to be left alone still counts."""
        if self.probe_not_before is None or probe_not_before <= self.probe_not_before:
            return self
        return replace(self, probe_not_before=probe_not_before)
