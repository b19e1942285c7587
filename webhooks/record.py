"""What an attempt came to, in one transaction: the delivery, the log, and how the endpoint stands."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from bridge.clock import Clock
from bridge.metrics import UNMEASURED, Metrics
from bridge.storage import audit, webhook_attempts, webhook_endpoints, webhook_probes
from bridge.storage.failures import is_passing
from bridge.storage.transactions import single_statements
from bridge.storage.webhook_attempts import AttemptRecord, StandingDelivery
from bridge.storage.webhook_claims import ClaimedEvent
from bridge.storage.webhook_endpoints import DisabledReason
from bridge.storage.webhook_probes import Failure
from webhooks.excerpt import excerpt_of
from webhooks.retries import RetrySchedule
from webhooks.sender import Answer
from webhooks.tasks import DeliveryTask, DeliveryTasks, ProbeTask

GONE = 410
ACTOR = "webhooks"
DELIVERED = {"bridge.outcome": "delivered"}
FAILED = {"bridge.outcome": "failed"}
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Attempted:
    """An attempt that is over, under a lease. `standing` is how it stood before it was claimed as `event`."""

    delivery_id: str
    attempt_number: int
    standing: StandingDelivery
    event: ClaimedEvent
    lease_until: datetime
    started_at: datetime
    duration_ms: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class _Health:
    """Why the attempt disabled the endpoint, if it did; `probe_at`: when it may be probed, if it fails."""

    disabled: DisabledReason | None = None
    probe_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What the delivery is now, and how its endpoint stands after this attempt."""

    status: str
    next_attempt_at: datetime | None
    endpoint: _Health


_WELL = _Health()


def _sleep(seconds: float) -> None:
    threading.Event().wait(seconds)


class RecordAttempt:
    """Tries for as long as the lease lasts: a database that is away for a moment costs no second request."""

    def __init__(
        self,
        engine: Engine,
        tasks: DeliveryTasks,
        schedule: RetrySchedule,
        clock: Clock,
        *,
        disable_after: timedelta,
        metrics: Metrics = UNMEASURED,
        sleep: Callable[[float], None] = _sleep,
    ) -> None:
        """`disable_after`: how long every attempt may fail before the endpoint is disabled."""
        self._engine = engine
        self._tasks = tasks
        self._schedule = schedule
        self._clock = clock
        self._disable_after = disable_after
        self._sleep = sleep
        self._attempts = metrics.counter("bridge.webhook.attempts")
        for outcome in (DELIVERED, FAILED):
            # a rate can only be told of what was there before
            self._attempts.add(0, outcome)

    def __call__(self, attempted: Attempted) -> bool:
        """Record the attempt and have the next one made at its time; nothing if the claim was lost.

        Return whether the endpoint may be sent what waits for it.
        """
        ended_at = self._clock.now()
        outcome = self._persistently(attempted, ended_at)
        standing, answer = attempted.standing, attempted.answer
        self._attempts.add(1, DELIVERED if answer.is_success else FAILED)
        _log.info(
            "webhook attempt",
            delivery_id=attempted.delivery_id,
            endpoint_id=standing.endpoint_id,
            event_id=attempted.event.event_id,
            attempt=attempted.attempt_number,
            response_status=answer.status,
            error_class=answer.error_class,
            duration_ms=attempted.duration_ms,
            delivery_status=outcome.status if outcome else "taken over by another claim",
        )
        if outcome is None:
            return True
        if outcome.endpoint.disabled:
            # one line for all the attempts that failed: this is what operators are alerted by
            _log.error(
                "webhook endpoint disabled",
                partner_id=standing.partner_id,
                endpoint_id=standing.endpoint_id,
                reason=outcome.endpoint.disabled,
            )
        tasks: list[DeliveryTask | ProbeTask] = []
        if outcome.next_attempt_at is not None:
            number = attempted.attempt_number + 1
            tasks.append(DeliveryTask(attempted.delivery_id, number, 0, outcome.next_attempt_at))
        if outcome.endpoint.probe_at is not None:
            tasks.append(ProbeTask(standing.endpoint_id, outcome.endpoint.probe_at))
        self._tasks.create(tasks)
        return outcome.endpoint == _WELL

    def _persistently(self, attempted: Attempted, ended_at: datetime) -> _Outcome | None:
        pause_seconds = FIRST_PAUSE_SECONDS
        is_repeated = False
        while True:
            try:
                return self._once(attempted, ended_at, is_repeated=is_repeated)
            except (DBAPIError, PoolTimeoutError) as error:
                passing = isinstance(error, PoolTimeoutError) or is_passing(error)
                is_over = self._clock.now() + timedelta(seconds=pause_seconds) >= attempted.lease_until
                if not passing or is_over:
                    raise
            is_repeated = True
            self._sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, LONGEST_PAUSE_SECONDS)

    def _once(self, attempted: Attempted, ended_at: datetime, *, is_repeated: bool) -> _Outcome | None:
        standing = attempted.standing
        is_well = standing.failing_since is None and not attempted.event.is_probe
        if attempted.answer.is_success and (standing.is_test or is_well):
            # nothing to write but what one statement can: most attempts end so
            outcome = _Outcome("delivered", None, _WELL)
            record = _record(attempted, outcome, ended_at)
            with single_statements(self._engine) as connection:
                if webhook_attempts.record_delivered(connection, record):
                    return outcome
            return outcome if is_repeated and self._is_recorded(record) else None
        with self._engine.begin() as connection:
            health = self._note_health(connection, attempted, ended_at)
            outcome = self._outcome(attempted, health, ended_at)
            record = _record(attempted, outcome, ended_at)
            if webhook_attempts.record_attempt(connection, record):
                return outcome
            connection.rollback()
        return outcome if is_repeated and self._is_recorded(record) else None

    def _is_recorded(self, record: AttemptRecord) -> bool:
        """Tell whether the commit succeeded whose answer was lost."""
        with self._engine.begin() as connection:
            return webhook_attempts.is_recorded(connection, record)

    def _note_health(self, connection: Connection, attempted: Attempted, now: datetime) -> _Health:
        """Write how the endpoint stands after this attempt, and return it."""
        standing, answer = attempted.standing, attempted.answer
        if standing.is_test:
            return _WELL
        endpoint_id = standing.endpoint_id
        if answer.is_success:
            webhook_probes.open_gate(connection, endpoint_id)
            return _WELL
        failure = Failure(
            endpoint_id,
            since=attempted.started_at,
            is_probe=attempted.event.is_probe,
            first_pause_seconds=self._schedule.first_delay_seconds,
            retry_after_seconds=answer.retry_after_seconds,
        )
        probe_at = webhook_probes.note_failure(connection, failure, now=now)
        reason: DisabledReason | None = None
        if answer.status == GONE:
            reason = "gone" if webhook_endpoints.disable(connection, endpoint_id, "gone") else None
        elif webhook_endpoints.disable_failing(connection, endpoint_id, failing_by=now - self._disable_after):
            reason = "failing"
        if reason is not None:
            audit.append(
                connection,
                actor=ACTOR,
                action="webhook_endpoint.disable",
                subject=endpoint_id,
                reason=reason,
                now=now,
            )
        return _Health(reason, probe_at if reason is None else None)

    def _outcome(self, attempted: Attempted, health: _Health, now: datetime) -> _Outcome:
        standing, answer = attempted.standing, attempted.answer
        if answer.is_success:
            return _Outcome("delivered", None, health)
        if standing.is_test:
            return _Outcome("exhausted", None, health)
        if health.disabled is not None:
            return _Outcome("held", None, health)
        # as it was when the attempt was claimed: it may have been asked for again just before
        failed = attempted.attempt_number - attempted.event.attempts_before
        delay_seconds = self._schedule.delay_seconds(failed, answer.retry_after_seconds)
        if delay_seconds is None:
            return _Outcome("exhausted", None, health)
        return _Outcome("pending", now + timedelta(seconds=delay_seconds), health)


def _record(attempted: Attempted, outcome: _Outcome, ended_at: datetime) -> AttemptRecord:
    return AttemptRecord(
        delivery_id=attempted.delivery_id,
        attempt_number=attempted.attempt_number,
        lease_until=attempted.lease_until,
        started_at=attempted.started_at,
        ended_at=ended_at,
        duration_ms=attempted.duration_ms,
        response_status=attempted.answer.status,
        error_class=attempted.answer.error_class,
        response_excerpt=excerpt_of(attempted.answer.body),
        status=outcome.status,
        next_attempt_at=outcome.next_attempt_at,
    )
