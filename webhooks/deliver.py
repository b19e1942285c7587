"""One attempt at a delivery: claim, sign and send, record; the next attempt is scheduled by the record.

No transaction is open while the partner is called. A claim that dies leaves a lease that ends; the sweeper
then has the same attempt made again, with the same webhook-id.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Engine

from bridge.clock import Clock
from bridge.errors import PermanentError
from bridge.keyring import KeyRing
from bridge.partner import WebhookEndpoint
from bridge.ports import PartnerDirectory
from bridge.storage import webhook_attempts
from bridge.storage.webhook_attempts import AttemptRecord, ClaimedEvent
from webhooks.message import body_of, headers_of, secrets_of
from webhooks.retries import RetrySchedule
from webhooks.sender import Answer, Sender
from webhooks.tasks import DeliveryTask, DeliveryTasks

# How far the clocks of the task queue and of the database's writers may be apart.
EARLY_TOLERANCE = timedelta(seconds=2)
# The lease outlives the request, so that recording, or a machine that is slow, does not lose the claim.
LEASE_TIMEOUTS = 2.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Claim:
    """The right to make attempt `attempt_number`, until `lease_until`."""

    delivery_id: str
    attempt_number: int
    endpoint: WebhookEndpoint
    event: ClaimedEvent
    claimed_at_monotonic: float
    lease_until: datetime


class Deliver:
    """Use case of the task route."""

    def __init__(
        self,
        engine: Engine,
        directory: PartnerDirectory,
        key_ring: KeyRing,
        sender: Sender,
        tasks: DeliveryTasks,
        schedule: RetrySchedule,
        clock: Clock,
        *,
        timeout_seconds: float,
        directory_fresh_seconds: float,
    ) -> None:
        """`directory_fresh_seconds`: how long the directory may go on serving a copy that has changed."""
        self._engine = engine
        self._directory = directory
        self._key_ring = key_ring
        self._sender = sender
        self._tasks = tasks
        self._schedule = schedule
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._lease_seconds = timeout_seconds * LEASE_TIMEOUTS
        self._hold_after = timedelta(seconds=directory_fresh_seconds) + EARLY_TOLERANCE

    def attempt(self, delivery_id: str, attempt_number: int) -> None:
        """Make the attempt, unless it is over, running, not due or out of date.

        Raises TransientError when the partner's configuration can't be read: nothing has happened then.
        """
        claim = self._claim(delivery_id, attempt_number)
        if claim is None:
            return
        started_at, started_monotonic = self._clock.now(), self._clock.monotonic()
        waited_seconds = started_monotonic - claim.claimed_at_monotonic
        if self._lease_seconds - waited_seconds < self._timeout_seconds:
            # the process was stopped for that long: somebody else may be about to take the attempt
            _log.warning("claim too old to send", delivery_id=delivery_id, attempt=attempt_number)
            return
        answer = self._send(claim, started_at)
        duration_ms = round((self._clock.monotonic() - started_monotonic) * 1000)
        self._record(claim, answer, started_at, duration_ms)

    def _claim(self, delivery_id: str, attempt_number: int) -> _Claim | None:
        with self._engine.begin() as connection:
            owner = webhook_attempts.delivery_owner(connection, delivery_id)
        if owner is None:
            _log.warning("task for an unknown delivery", delivery_id=delivery_id)
            return None
        partner = self._directory.partner(owner.partner_id)
        endpoint = partner.endpoint(owner.endpoint_id) if partner else None
        now, monotonic = self._clock.now(), self._clock.monotonic()
        if endpoint is None or endpoint.status == "disabled":
            # Whoever made the delivery knew the endpoint as enabled. Until this process must know it too,
            # the attempt is left to the sweeper.
            with self._engine.begin() as connection:
                webhook_attempts.hold_delivery(
                    connection, delivery_id, attempt_number, now=now, due_by=now - self._hold_after
                )
            return None
        lease_until = now + timedelta(seconds=self._lease_seconds)
        with self._engine.begin() as connection:
            event = webhook_attempts.claim_attempt(
                connection,
                delivery_id,
                attempt_number,
                now=now,
                due_by=now + EARLY_TOLERANCE,
                lease_until=lease_until,
            )
        if event is None:
            return None
        return _Claim(delivery_id, attempt_number, endpoint, event, monotonic, lease_until)

    def _send(self, claim: _Claim, now: datetime) -> Answer:
        body = body_of(claim.event)
        try:
            secrets = secrets_of(claim.endpoint, self._key_ring)
            headers = headers_of(claim.event.event_id, body, secrets, now)
        except (PermanentError, ValueError) as error:
            _log.error(
                "webhook can't be signed",
                endpoint_id=claim.endpoint.endpoint_id,
                reason=str(error) if isinstance(error, PermanentError) else type(error).__name__,
            )
            return Answer(None, "unsignable")
        return self._sender.post(claim.endpoint.url, body, headers)

    def _record(self, claim: _Claim, answer: Answer, started_at: datetime, duration_ms: int) -> None:
        now = self._clock.now()
        status, next_attempt_at = self._what_follows(claim, answer, now)
        record = AttemptRecord(
            delivery_id=claim.delivery_id,
            attempt_number=claim.attempt_number,
            lease_until=claim.lease_until,
            started_at=started_at,
            ended_at=now,
            duration_ms=duration_ms,
            response_status=answer.status,
            error_class=answer.error_class,
            status=status,
            next_attempt_at=next_attempt_at,
        )
        with self._engine.begin() as connection:
            is_recorded = webhook_attempts.record_attempt(connection, record)
        _log.info(
            "webhook attempt",
            delivery_id=claim.delivery_id,
            endpoint_id=claim.endpoint.endpoint_id,
            event_id=claim.event.event_id,
            attempt=claim.attempt_number,
            response_status=answer.status,
            error_class=answer.error_class,
            duration_ms=duration_ms,
            delivery_status=status if is_recorded else "taken over by another claim",
        )
        if is_recorded and next_attempt_at is not None:
            task = DeliveryTask(claim.delivery_id, claim.attempt_number + 1, 0, next_attempt_at)
            self._tasks.create([task])

    def _what_follows(self, claim: _Claim, answer: Answer, now: datetime) -> tuple[str, datetime | None]:
        if answer.is_success:
            return "delivered", None
        delay_seconds = self._schedule.delay_seconds(claim.attempt_number, answer.retry_after_seconds)
        if delay_seconds is None:
            return "exhausted", None
        return "pending", now + timedelta(seconds=delay_seconds)
