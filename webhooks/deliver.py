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
from bridge.ports import PartnerDirectory
from bridge.storage import webhook_attempts, webhook_sweeps
from bridge.storage.webhook_attempts import ClaimedEvent, StandingDelivery
from bridge.tracing import Tracer, Value
from bridge.webhook_endpoint import WebhookEndpoint
from webhooks.message import body_of, headers_of, signers_of
from webhooks.record import Attempted, RecordAttempt
from webhooks.sender import Answer, Sender
from webhooks.shares import Shares
from webhooks.tasks import DeliveryTasks, tasks_for

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
    standing: StandingDelivery
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
        record: RecordAttempt,
        shares: Shares,
        clock: Clock,
        tracer: Tracer,
        *,
        timeout_seconds: float,
    ) -> None:
        self._engine = engine
        self._directory = directory
        self._key_ring = key_ring
        self._sender = sender
        self._tasks = tasks
        self._record = record
        self._shares = shares
        self._clock = clock
        self._tracer = tracer
        self._timeout_seconds = timeout_seconds
        self._lease_seconds = timeout_seconds * LEASE_TIMEOUTS

    def attempt(self, delivery_id: str, attempt_number: int) -> None:
        """Make the attempt, unless it is over, running, not due or out of date, or its endpoint has no room.

        Raises TransientError when the partner's configuration can't be read: nothing has happened then.
        """
        with self._engine.begin() as connection:
            standing = webhook_attempts.standing_delivery(connection, delivery_id)
        if standing is None:
            _log.warning("task for an unknown delivery", delivery_id=delivery_id)
            return
        endpoint = self._endpoint(standing, delivery_id, attempt_number)
        if endpoint is None:
            return
        started = self._shares.begin(endpoint.endpoint_id, is_failing=standing.failing_since is not None)
        if started is None:
            self._let_wait(endpoint.endpoint_id, delivery_id, attempt_number)
            return
        is_success = False
        try:
            is_success = self._attempt(standing, endpoint, delivery_id, attempt_number)
        finally:
            room = self._shares.end(endpoint.endpoint_id, started, is_success=is_success)
        self._go_on(endpoint.endpoint_id, room)

    def _endpoint(
        self, standing: StandingDelivery, delivery_id: str, attempt_number: int
    ) -> WebhookEndpoint | None:
        """Return the endpoint to send to; None if nothing is to be sent, which is noted then."""
        if standing.endpoint_status == "disabled" and not standing.is_test:
            with self._engine.begin() as connection:
                webhook_attempts.hold_delivery(
                    connection, standing.endpoint_id, delivery_id, attempt_number, now=self._clock.now()
                )
            return None
        if standing.endpoint_status == "deleted":
            return None  # the sweeper cancels it
        partner = self._directory.partner(
            standing.partner_id, at_least_version=standing.configuration_version
        )
        endpoint = partner.endpoint(standing.endpoint_id) if partner else None
        if endpoint is None:
            # gone from the record by another way than the API: the sweeper ends its cursor
            _log.warning("endpoint is not in the partner's document", endpoint_id=standing.endpoint_id)
        return endpoint

    def _attempt(
        self, standing: StandingDelivery, endpoint: WebhookEndpoint, delivery_id: str, attempt_number: int
    ) -> bool:
        """Claim, send, record; return whether the receiver has taken the event, now or before."""
        claim = self._claim(standing, endpoint, delivery_id, attempt_number)
        if claim is None:
            return True  # nothing to hold against the endpoint
        started_at, started_monotonic = self._clock.now(), self._clock.monotonic()
        waited_seconds = started_monotonic - claim.claimed_at_monotonic
        if self._lease_seconds - waited_seconds < self._timeout_seconds:
            # the process was stopped for that long: somebody else may be about to take the attempt
            _log.warning("claim too old to send", delivery_id=delivery_id, attempt=attempt_number)
            return True
        answer = self._send(claim, started_at)
        duration_ms = round((self._clock.monotonic() - started_monotonic) * 1000)
        attempted = Attempted(
            delivery_id=delivery_id,
            attempt_number=attempt_number,
            standing=standing,
            event_id=claim.event.event_id,
            lease_until=claim.lease_until,
            started_at=started_at,
            duration_ms=duration_ms,
            answer=answer,
        )
        self._record(attempted)
        return answer.is_success

    def _claim(
        self, standing: StandingDelivery, endpoint: WebhookEndpoint, delivery_id: str, attempt_number: int
    ) -> _Claim | None:
        now, monotonic = self._clock.now(), self._clock.monotonic()
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
        return _Claim(delivery_id, attempt_number, standing, endpoint, event, monotonic, lease_until)

    def _send(self, claim: _Claim, now: datetime) -> Answer:
        body = body_of(claim.event)
        try:
            signers = signers_of(claim.endpoint, self._key_ring, now)
            headers = headers_of(claim.event.event_id, body, signers, now)
        except (PermanentError, ValueError) as error:
            _log.error(
                "webhook can't be signed",
                endpoint_id=claim.endpoint.endpoint_id,
                reason=str(error) if isinstance(error, PermanentError) else type(error).__name__,
            )
            return Answer(None, "unsignable")
        attributes: dict[str, Value] = {
            "http.request.method": "POST",
            "http.request.resend_count": claim.attempt_number - 1,
            "bridge.delivery.id": claim.delivery_id,
            "bridge.webhook_endpoint.id": claim.endpoint.endpoint_id,
        }
        with self._tracer.span(
            "POST webhook", "client", parent=claim.event.traceparent, attributes=attributes
        ) as span:
            answer = self._sender.post(claim.endpoint.url, body, headers)
            if answer.status is not None:
                span.note({"http.response.status_code": answer.status})
            if answer.error_class is not None:
                span.fail(answer.error_class)
            return answer

    def _let_wait(self, endpoint_id: str, delivery_id: str, attempt_number: int) -> None:
        now = self._clock.now()
        with self._engine.begin() as connection:
            webhook_attempts.let_wait(
                connection, delivery_id, attempt_number, now=now, due_by=now + EARLY_TOLERANCE
            )
        # the endpoint's last attempt may have ended just before this one began to wait
        self._go_on(endpoint_id, self._shares.room(endpoint_id))

    def _go_on(self, endpoint_id: str, room: int) -> None:
        """Make the tasks of deliveries that have waited for room at the endpoint."""
        if room < 1:
            return
        now = self._clock.now()
        with self._engine.begin() as connection:
            waiting = webhook_sweeps.take_waiting(connection, endpoint_id, now=now, limit=room)
        self._tasks.create(tasks_for(waiting, now))
