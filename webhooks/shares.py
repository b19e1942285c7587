"""How many workers each endpoint may have at once, so that one that hangs keeps no other waiting.

An endpoint begins with one worker, gains one with each quick success, and falls back to one when an attempt
fails or takes long. Those that have fallen back share a quarter of the workers. Per process: what it
protects are this process's threads.
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
# of the workers: for one endpoint at most, and for all slow and failing ones together
ENDPOINT_FRACTION = 2
SLOW_FRACTION = 4


@dataclass(slots=True)
class _Share:
    """`started`: when the attempts under way began, on the monotonic clock."""

    allowed: int = 1
    is_slow: bool = False
    started: list[float] = field(default_factory=list)


class Shares:
    """Thread-safe; nothing else is done under its lock."""

    def __init__(self, clock: Clock, workers: int) -> None:
        self._clock = clock
        self._most_per_endpoint = max(1, workers // ENDPOINT_FRACTION)
        self._most_slow = max(1, workers // SLOW_FRACTION)
        self._changed = threading.Condition()
        self._shares: OrderedDict[str, _Share] = OrderedDict()
        self._running: dict[str, _Share] = {}

    def begin(self, endpoint_id: str, *, is_failing: bool) -> float | None:
        """Take a worker for the endpoint; None if it has its share. `is_failing`: as its record says.

        An endpoint that is well is waited for a moment, for its answers come soon. The number that comes back
        belongs into `end`.
        """
        with self._changed:
            share = self._share(endpoint_id)
            share.is_slow = share.is_slow or is_failing
            if self._room(share) < 1 and not share.is_slow:
                self._changed.wait_for(lambda: share.is_slow or self._room(share) > 0, ROOM_WAIT_SECONDS)
            if self._room(share) < 1:
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
            share = self._share(endpoint_id)
            share.started.remove(started)
            if not share.started:
                del self._running[endpoint_id]
            if is_success is not None:
                share.is_slow = not is_success or self._clock.monotonic() - started >= SLOW_SECONDS
                share.allowed = 1 if share.is_slow else min(share.allowed + 1, self._most_per_endpoint)
            self._changed.notify_all()
            return self._room(share)

    def room(self, endpoint_id: str) -> int:
        """Return how many attempts could begin now."""
        with self._changed:
            return self._room(self._share(endpoint_id))

    def _room(self, share: _Share) -> int:
        slow_by = self._clock.monotonic() - SLOW_SECONDS
        slow = 0
        for running in self._running.values():
            running.is_slow = running.is_slow or running.started[0] <= slow_by
            slow += len(running.started) if running.is_slow else 0
        if share.is_slow:
            return min(1 - len(share.started), self._most_slow - slow)
        return share.allowed - len(share.started)

    def _share(self, endpoint_id: str) -> _Share:
        share = self._shares.setdefault(endpoint_id, _Share())
        self._shares.move_to_end(endpoint_id)
        if len(self._shares) > MAX_REMEMBERED_ENDPOINTS:
            idle = next(each for each in self._shares if each not in self._running)
            del self._shares[idle]
        return share
