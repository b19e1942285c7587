"""One attempt at a delivery: claim, sign and send, record; the next attempt is scheduled by the record.

No transaction is open while the partner is called. A claim that dies leaves a lease that ends; the sweeper
then has the same attempt made again, with the same webhook-id.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Engine

from bridge.clock import Clock, certain_moment
from bridge.errors import PermanentError
from bridge.keyring import KeyRing
from bridge.ports import PartnerDirectory
from bridge.storage import webhook_attempts, webhook_claims, webhook_probes, webhook_sweeps
from bridge.storage.transactions import single_statements
from bridge.storage.webhook_attempts import StandingDelivery
from bridge.storage.webhook_claims import ClaimedEvent, Pace, PutOff
from bridge.storage.webhook_turns import Turn
from bridge.tracing import Tracer, Value
from bridge.webhook_endpoint import WebhookEndpoint
from webhooks.fan_out import FanOut
from webhooks.message import body_of, headers_of, signers_of
from webhooks.record import Attempted, RecordAttempt
from webhooks.sender import Answer, Sender
from webhooks.shares import Shares
from webhooks.tasks import EARLY_TOLERANCE, DeliveryTask, DeliveryTasks
from webhooks.turns import Turns

# The lease outlives the request, so that recording, or a machine that is slow, does not lose the claim.
LEASE_TIMEOUTS = 2.0
# Attempts above an endpoint's rate get places up to this far ahead; the rest wait in the database, so that
# a rate that is raised holds soon.
PACE_AHEAD_SECONDS = 30.0
# How late an attempt may come for its place.
PACE_LATE_SECONDS = 2.0
# Each attempt that ends calls up to so many deliveries that wait, so that more can run at once;
# at an endpoint at its rate only one comes after another.
MAX_FOLLOWERS = 2

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Told:
    """An endpoint, and how many deliveries a second it may be sent."""

    endpoint: WebhookEndpoint
    per_second: int


@dataclass(frozen=True, slots=True)
class _Claim:
    """The right to make attempt `attempt_number`, until `lease_until`."""

    delivery_id: str
    attempt_number: int
    endpoint: WebhookEndpoint
    event: ClaimedEvent
    claimed_at_monotonic: float
    lease_until: datetime


@dataclass(frozen=True, slots=True)
class _Ended:
    """How an attempt ended; None: nothing was sent.

    `followers`: how many that wait for the same endpoint may come after it. `has_opened`: it was a probe, and
    the endpoint is well again.
    """

    is_success: bool | None
    followers: int = MAX_FOLLOWERS
    has_opened: bool = False


class Deliver:
    """Use case of the task route."""

    def __init__(
        self,
        engine: Engine,
        directory: PartnerDirectory,
        key_ring: KeyRing,
        sender: Sender,
        tasks: DeliveryTasks,
        turns: Turns,
        record: RecordAttempt,
        fan_out: FanOut,
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
        self._turns = turns
        self._record = record
        self._fan_out = fan_out
        self._shares = shares
        self._clock = clock
        self._tracer = tracer
        self._timeout_seconds = timeout_seconds
        self._lease_seconds = timeout_seconds * LEASE_TIMEOUTS

    def attempt(self, delivery_id: str, attempt_number: int) -> None:
        """Make the attempt, unless it is over, running, not due or out of date, or its endpoint has no room.

        Raises TransientError when the partner's configuration can't be read or this process can't open a
        connection: nothing has happened then.
        """
        with single_statements(self._engine) as connection:
            standing = webhook_attempts.standing_delivery(connection, delivery_id)
        if standing is None:
            _log.warning("task for an unknown delivery", delivery_id=delivery_id)
            return
        # the task leaves the queue: whatever became of it, its partner has a place for another
        followers = self._take(standing, delivery_id, attempt_number)
        self._go_on(standing.partner_id, standing.endpoint_id, followers)

    def _take(self, standing: StandingDelivery, delivery_id: str, attempt_number: int) -> int:
        """Return how many that wait for the same endpoint may come next."""
        told = self._told(standing, delivery_id, attempt_number)
        if told is None:
            return 0
        if standing.probe_at is not None and self._waits_for_probe(standing, delivery_id, attempt_number):
            return 0
        endpoint_id = standing.endpoint_id
        started = self._shares.begin(
            endpoint_id, standing.partner_id, is_failing=standing.failing_since is not None
        )
        if started is None:
            self._let_wait(delivery_id, attempt_number)
            # the endpoint's last attempt may have ended just before this one began to wait
            return self._shares.room(endpoint_id, standing.partner_id)
        ended = _Ended(is_success=None)
        try:
            ended = self._attempt(standing, told, delivery_id, attempt_number)
        finally:
            room = self._shares.end(endpoint_id, started, is_success=ended.is_success)
        if ended.has_opened:
            self._fan_out.fan_out(standing.partner_id)  # its events have stayed in the feed meanwhile
        return min(room, ended.followers)

    def probe(self, endpoint_id: str) -> None:
        """Make the next attempt of the delivery that has waited longest for the endpoint, if one does.

        Raises TransientError as `attempt` does.
        """
        with single_statements(self._engine) as connection:
            waiting = webhook_sweeps.take_waiting(connection, endpoint_id, now=self._clock.now(), limit=1)
        for delivery in waiting:
            self.attempt(delivery.delivery_id, delivery.attempts + 1)

    def _told(self, standing: StandingDelivery, delivery_id: str, attempt_number: int) -> _Told | None:
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
        if partner is None or endpoint is None:
            return None
        return _Told(endpoint, partner.limits.deliveries_per_second)

    def _attempt(
        self, standing: StandingDelivery, told: _Told, delivery_id: str, attempt_number: int
    ) -> _Ended:
        """Claim, send, record; or put the attempt off to its place in the endpoint's rate."""
        claim = self._claim(standing, told, delivery_id, attempt_number)
        if claim is None and self._waits_for_probe(standing, delivery_id, attempt_number):
            return _Ended(None, followers=0)
        if claim is None:
            # if it is still to be made, then all places are given out: whoever is sent at one calls the next
            is_waiting = self._let_wait(delivery_id, attempt_number)
            return _Ended(None, followers=0 if is_waiting else MAX_FOLLOWERS)
        if isinstance(claim, PutOff):
            self._tasks.create([DeliveryTask(delivery_id, attempt_number, claim.sweep, claim.slot_at)])
            return _Ended(None, followers=0)  # at its place it will be followed by one
        started_at, started_monotonic = self._clock.now(), self._clock.monotonic()
        waited_seconds = started_monotonic - claim.claimed_at_monotonic
        if self._lease_seconds - waited_seconds < self._timeout_seconds:
            # the process was stopped for that long: somebody else may be about to take the attempt
            _log.warning("claim too old to send", delivery_id=delivery_id, attempt=attempt_number)
            return _Ended(None)
        try:
            answer = self._send(claim, started_at)
        except Exception:
            self._release(standing.endpoint_id, claim)
            raise
        duration_ms = round((self._clock.monotonic() - started_monotonic) * 1000)
        attempted = Attempted(
            delivery_id=delivery_id,
            attempt_number=attempt_number,
            standing=standing,
            event=claim.event,
            lease_until=claim.lease_until,
            started_at=started_at,
            duration_ms=duration_ms,
            answer=answer,
        )
        may_go_on = self._record(attempted)
        followers = 1 if claim.event.was_put_off else MAX_FOLLOWERS
        has_opened = claim.event.is_probe and answer.is_success
        return _Ended(answer.is_success, followers if may_go_on else 0, has_opened=has_opened)

    def _claim(
        self, standing: StandingDelivery, told: _Told, delivery_id: str, attempt_number: int
    ) -> _Claim | PutOff | None:
        monotonic = self._clock.monotonic()
        with single_statements(self._engine) as connection:
            at = certain_moment(self._clock)
            now, lease_until = at.now, at.latest + timedelta(seconds=self._lease_seconds)
            claimed = webhook_claims.claim_attempt(
                connection,
                standing.endpoint_id,
                delivery_id,
                attempt_number,
                pace=Pace(told.per_second, PACE_AHEAD_SECONDS, PACE_LATE_SECONDS),
                now=now,
                due_by=now + EARLY_TOLERANCE,
                lease_until=lease_until,
            )
        if claimed is None or isinstance(claimed, PutOff):
            return claimed
        return _Claim(delivery_id, attempt_number, told.endpoint, claimed, monotonic, lease_until)

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

    def _release(self, endpoint_id: str, claim: _Claim) -> None:
        with self._engine.begin() as connection:
            if claim.event.is_probe:
                webhook_probes.return_probe(
                    connection, endpoint_id, lease_until=claim.lease_until, now=self._clock.now()
                )
            webhook_claims.release_claim(
                connection, claim.delivery_id, claim.attempt_number, lease_until=claim.lease_until
            )

    def _waits_for_probe(self, standing: StandingDelivery, delivery_id: str, attempt_number: int) -> bool:
        """Have the attempt wait if its endpoint fails and no probe is due yet; False if it is not so."""
        if standing.is_test:
            return False
        now = self._clock.now()
        with self._engine.begin() as connection:
            return webhook_probes.wait_for_probe(
                connection,
                standing.endpoint_id,
                delivery_id,
                attempt_number,
                now=now,
                due_by=now + EARLY_TOLERANCE,
            )

    def _let_wait(self, delivery_id: str, attempt_number: int) -> bool:
        """Have the attempt wait without a task; False if it is not to be made now anyway."""
        now = self._clock.now()
        with self._engine.begin() as connection:
            return webhook_claims.let_wait(
                connection, delivery_id, attempt_number, now=now, due_by=now + EARLY_TOLERANCE
            )

    def _go_on(self, partner_id: str, endpoint_id: str, followers: int) -> None:
        """Call the partner's next, and whoever has waited for the workers that all slow endpoints share."""
        self._turns.call(Turn(partner_id, endpoint_id, max(followers, 0), MAX_FOLLOWERS))
        self._turns.call_refused()
