"""How much a caller may ask for: requests per partner, payments per day, tokens per client and address.

Windows are aligned to the clock, so that all instances that share counters count in the same one. Answers
carry `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from flask import Flask, Response, g, request

from bridge.clock import Clock
from bridge.errors import RejectedError
from bridge.partner import PartnerConfiguration
from gateway.caller_address import CallerAddress
from gateway.counters import Counters
from gateway.idempotency import HEADER as IDEMPOTENCY_HEADER
from gateway.idempotency import REPLAYED_HEADER

REQUEST_WINDOW_SECONDS = 10
DAY_SECONDS = 86_400
TOKEN_WINDOW_SECONDS = 60
# Routes that make payments; the daily quota is looked at before them.
ONE_PAYMENT_ENDPOINT, BATCH_ENDPOINT = "create_payment", "create_payments"
PAYMENT_ENDPOINTS = frozenset({ONE_PAYMENT_ENDPOINT, BATCH_ENDPOINT})


class Policy(NamedTuple):
    """`quota` of whatever is counted in each window."""

    name: str
    quota: int
    window_seconds: int


class Reading(NamedTuple):
    """What is left of a policy's quota in this window; `exceeded`: more was asked for than it allows."""

    policy: Policy
    remaining: int
    exceeded: bool
    resets_in_seconds: int


class Limits:
    """Counts, and says what is left. Thread-safe."""

    def __init__(self, counters: Counters, clock: Clock) -> None:
        self._counters = counters
        self._clock = clock

    def take(self, policy: Policy, who: str, amount: int = 1) -> Reading:
        """Count `amount` for `who`; 0 only reads."""
        window, position = divmod(int(self._clock.now().timestamp()), policy.window_seconds)
        # twice as long as the window: instances' clocks differ a little
        count = self._counters.add(
            f"{policy.name}:{who}:{window}", amount, keep_seconds=2 * policy.window_seconds
        )
        left = policy.quota - count
        return Reading(policy, max(left, 0), left < 0, policy.window_seconds - position)


class PartnerRequests:
    """Counts each authorised request for its partner, and tells it in the answer.

    `is_known_key(partner_id, idempotency_key)`: what was accepted is told again, whatever the quota; of a
    batch that is found out where its keys are read (`quota_problem`). The quota is looked at before a request
    and counted after it: what is under way at that moment, and the batch that crosses it, are taken whole.
    """

    def __init__(self, limits: Limits, is_known_key: Callable[[str, str], bool]) -> None:
        self._limits = limits
        self._is_known_key = is_known_key

    def register(self, app: Flask) -> None:
        """Call it after register_authorization: it counts for the partner that was found there."""
        app.before_request(self._count)
        app.after_request(self._tell)

    def _count(self) -> None:
        partner: PartnerConfiguration | None = g.get("partner")
        if partner is None:
            return
        reading = self._limits.take(_requests(partner.limits.requests_per_second), partner.partner_id)
        g.readings = [reading]
        if reading.exceeded:
            raise _too_many_requests(reading, "The partner's requests come too fast.")
        if request.endpoint in PAYMENT_ENDPOINTS:
            self._look_at_the_quota(partner)

    def _look_at_the_quota(self, partner: PartnerConfiguration) -> None:
        reading = self._limits.take(_daily(partner), partner.partner_id, 0)
        g.readings.append(reading)
        if reading.remaining > 0:
            return
        headers = {"Retry-After": str(reading.resets_in_seconds)}
        problem = RejectedError("quota-exceeded", 429, "The day's payments are used up.", headers=headers)
        if request.endpoint == BATCH_ENDPOINT:
            g.quota_problem = problem
            return
        key = request.headers.get(IDEMPOTENCY_HEADER)
        if key is None or not key.isascii() or not self._is_known_key(partner.partner_id, key):
            raise problem

    def _tell(self, answer: Response) -> Response:
        readings: list[Reading] = g.get("readings", [])
        if readings:
            accepted = g.newly_accepted = accepted_payments(answer)
            if accepted:
                readings[-1] = self._limits.take(_daily(g.partner), g.partner.partner_id, accepted)
            answer.headers["RateLimit-Policy"] = ", ".join([_shown(one.policy) for one in readings])
            answer.headers["RateLimit"] = ", ".join(
                [f'"{one.policy.name}";r={one.remaining};t={one.resets_in_seconds}' for one in readings]
            )
        return answer


def quota_problem() -> RejectedError | None:
    """Return why this batch may add no payment, None if it may."""
    problem: RejectedError | None = g.get("quota_problem")
    return problem


def note_accepted(count: int) -> None:
    """Tell how many payments this request has made, where that is not one per 202."""
    g.accepted_payments = count


def accepted_payments(answer: Response) -> int:
    """Return how many payments this request has made; what an earlier one made does not count."""
    if request.endpoint not in PAYMENT_ENDPOINTS:
        return 0
    one = answer.status_code == 202 and REPLAYED_HEADER not in answer.headers
    return int(g.get("accepted_payments", int(one)))


@lru_cache(maxsize=1024)
def _requests(per_second: int) -> Policy:
    return Policy("requests", per_second * REQUEST_WINDOW_SECONDS, REQUEST_WINDOW_SECONDS)


def _daily(partner: PartnerConfiguration) -> Policy:
    return Policy("payments", partner.limits.payments_per_day, DAY_SECONDS)


@lru_cache(maxsize=1024)
def _shown(policy: Policy) -> str:
    return f'"{policy.name}";q={policy.quota};w={policy.window_seconds}'


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """What the token endpoint takes per minute.

    Per address: all requests, so that nobody can have secrets hashed without end. Per client and address:
    secrets to hash, so that a guesser elsewhere does not lock the client out. Per client: tokens.
    """

    limits: Limits
    requests_per_address: int
    tokens_per_client: int
    caller_address: CallerAddress

    def request_comes(self) -> str:
        """Count a request; return its address.

        RejectedError: 429 if its address has had too many, 404 if it has come past the load balancer.
        """
        address = self.caller_address.of(request.headers, request.remote_addr)
        self._take("token-requests", self.requests_per_address, address)
        return address

    def guess_comes(self, client_id: str, address: str) -> None:
        """Count a secret before it is hashed. RejectedError (429) as above."""
        self._take("token-secrets", self.tokens_per_client, f"{client_id}@{address}")

    def token_goes(self, client_id: str) -> None:
        """Count a token. RejectedError (429) if the client has had too many."""
        self._take("tokens", self.tokens_per_client, client_id)

    def _take(self, name: str, quota: int, who: str) -> None:
        reading = self.limits.take(Policy(name, quota, TOKEN_WINDOW_SECONDS), who)
        if reading.exceeded:
            raise _too_many_requests(reading, "Tokens are asked for too often; keep one until it expires.")


def _too_many_requests(reading: Reading, detail: str) -> RejectedError:
    headers = {"Retry-After": str(reading.resets_in_seconds)}
    return RejectedError("too-many-requests", 429, detail, headers=headers)
