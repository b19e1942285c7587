"""How many workers each endpoint and each partner may have at once, so that none that hangs delays another.

An endpoint begins with one worker, gains one with each quick success, and falls back to one when an attempt
fails or takes long. Those that have fallen back share a quarter of the workers. A partner has half of either
at most; an endpoint with no attempt under way may begin one a little above that, so that a partner whose
endpoints all begin to hang still reaches the one that does not. The shares are per process: they protect the
threads of this process.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from bridge.clock import Clock

# An attempt that takes longer makes its endpoint a slow one, while it still runs.
SLOW_SECONDS = 2.0
MAX_REMEMBERED_ENDPOINTS = 10_000
# How long an attempt waits here for one of its endpoint's others to end.
ROOM_WAIT_SECONDS = 0.1
# Parts of the workers: for one partner, and with the first attempts of its endpoints (the queue sends three
# quarters as many tasks at once as there are workers, so that some are left for others); for one endpoint;
# for all slow and failing ones together, of which one partner has half; for those that wait here.
PARTNER_PART = 1 / 2
FIRST_ATTEMPTS_PART = 5 / 8
ENDPOINT_PART = 1 / 2
SLOW_PART = 1 / 4
SLOW_PARTNER_PART = 1 / 8
WAITING_PART = 1 / 4


@dataclass(slots=True)
class _Share:
    """`started`: when the attempts under way began, on the monotonic clock."""

    partner_id: str
    allowed: int = 1
    is_slow: bool = False
    started: list[float] = field(default_factory=list)


class Shares:
    """Thread-safe; nothing else is done under its lock."""

    def __init__(self, clock: Clock, workers: int) -> None:
        self._clock = clock
        self._most_of_partner = max(1, int(workers * PARTNER_PART))
        self._most_first_attempts = max(1, int(workers * FIRST_ATTEMPTS_PART))
        self._most_of_endpoint = max(1, int(workers * ENDPOINT_PART))
        self._most_slow = max(1, int(workers * SLOW_PART))
        self._most_slow_of_partner = max(1, int(workers * SLOW_PARTNER_PART))
        self._most_waiting = int(workers * WAITING_PART)
        self._changed = threading.Condition()
        self._shares: OrderedDict[str, _Share] = OrderedDict()
        self._endpoints: dict[str, set[str]] = {}
        self._running: dict[str, _Share] = {}
        self._waiting = 0
        # partners with an attempt, or a turn, that found the workers of all slow endpoints taken, in order
        self._refused: OrderedDict[str, None] = OrderedDict()

    def begin(self, endpoint_id: str, partner_id: str, *, is_failing: bool) -> float | None:
        """Take a worker for the endpoint; None if it, or its partner, has its share.

        `is_failing`: as its record says. For an endpoint that is well this waits a moment: its answers come
        soon. Pass the result to `end`.
        """
        with self._changed:
            share = self._share(endpoint_id, partner_id)
            share.is_slow = share.is_slow or is_failing
            if self._room(share) < 1 and not share.is_slow and self._waiting < self._most_waiting:
                self._waiting += 1
                self._changed.wait_for(lambda: share.is_slow or self._room(share) > 0, ROOM_WAIT_SECONDS)
                self._waiting -= 1
            if self._room(share) < 1:
                if share.is_slow:
                    self._refused[partner_id] = None
                return None
            started = self._clock.monotonic()
            share.started.append(started)
            self._running[endpoint_id] = share
            return started

    def end(self, endpoint_id: str, started: float, *, is_success: bool | None) -> int:
        """Give the worker back; return how many further attempts the endpoint has room for now.

        `is_success` is None if nothing was sent: that says nothing of the endpoint.
        """
        with self._changed:
            share = self._running[endpoint_id]
            share.started.remove(started)
            if not share.started:
                del self._running[endpoint_id]
            if is_success is not None:
                share.is_slow = not is_success or self._clock.monotonic() - started >= SLOW_SECONDS
                share.allowed = 1 if share.is_slow else min(share.allowed + 1, self._most_of_endpoint)
            self._changed.notify_all()
            return self._room(share)

    def room(self, endpoint_id: str, partner_id: str) -> int:
        """Return how many attempts could begin now, for one that `begin` has refused and that waits by now.

        Its partner may have been told of a worker before it waited: it is told again.
        """
        with self._changed:
            share = self._share(endpoint_id, partner_id)
            if share.is_slow:
                self._refused[partner_id] = None
            return self._room(share)

    def full(self, partner_id: str) -> list[str]:
        """Return the partner's endpoints for which no attempt could begin now.

        If others have the workers of slow endpoints, the partner counts as refused: they know of nobody here.
        """
        with self._changed:
            endpoints = self._endpoints.get(partner_id, ())
            full = [each for each in endpoints if self._room(self._shares[each]) < 1]
            if any(self._shares[each].is_slow and not self._shares[each].started for each in full):
                self._refused[partner_id] = None
            return full

    def next_refused(self) -> str | None:
        """Return the partner that has waited longest for a worker of those that slow endpoints share.

        None if no such worker is free. Each refusal is told once.
        """
        with self._changed:
            for partner_id in self._refused:
                if self._slow_room(partner_id) > 0:
                    del self._refused[partner_id]
                    return partner_id
            return None

    def _room(self, share: _Share) -> int:
        slow_room = self._slow_room(share.partner_id)  # notices who has become slow
        if share.is_slow:
            return min(1 - len(share.started), slow_room)
        of_partner = sum(
            len(each.started) for each in self._running.values() if each.partner_id == share.partner_id
        )
        most = self._most_of_partner if share.started else self._most_first_attempts
        return min(share.allowed - len(share.started), most - of_partner)

    def _slow_room(self, partner_id: str) -> int:
        slow_by = self._clock.monotonic() - SLOW_SECONDS
        slow = slow_of_partner = 0
        for running in self._running.values():
            running.is_slow = running.is_slow or running.started[0] <= slow_by
            if running.is_slow:
                slow += len(running.started)
                slow_of_partner += len(running.started) if running.partner_id == partner_id else 0
        return min(self._most_slow - slow, self._most_slow_of_partner - slow_of_partner)

    def _share(self, endpoint_id: str, partner_id: str) -> _Share:
        share = self._shares.get(endpoint_id)
        if share is None:
            share = self._shares[endpoint_id] = _Share(partner_id)
            self._endpoints.setdefault(partner_id, set()).add(endpoint_id)
        self._shares.move_to_end(endpoint_id)
        if len(self._shares) > MAX_REMEMBERED_ENDPOINTS:
            self._forget(next(each for each in self._shares if each not in self._running))
        return share

    def _forget(self, endpoint_id: str) -> None:
        partner_id = self._shares.pop(endpoint_id).partner_id
        endpoints = self._endpoints[partner_id]
        endpoints.remove(endpoint_id)
        if not endpoints:
            del self._endpoints[partner_id]
