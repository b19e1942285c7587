"""How many dispatches a queue may start now (Queue.rate_limits). Pure: time is passed in."""

from dataclasses import dataclass


@dataclass(slots=True)
class TokenBucket:
    """Holds up to `burst` tokens and gains `rate_per_second`; times are monotonic seconds."""

    rate_per_second: float
    burst: int
    updated_at: float
    tokens: float

    @classmethod
    def full(cls, rate_per_second: float, burst: int, now: float) -> "TokenBucket":
        return cls(rate_per_second, burst, now, float(burst))

    def available(self, now: float) -> int:
        """Whole tokens at `now`."""
        gained = max(0.0, now - self.updated_at) * self.rate_per_second
        self.tokens = min(float(self.burst), self.tokens + gained)
        self.updated_at = max(now, self.updated_at)
        return int(self.tokens)

    def take(self) -> None:
        self.tokens -= 1.0

    def seconds_to_next(self) -> float:
        """From the last `available` on, until one whole token is there."""
        return max(0.0, 1.0 - self.tokens) / self.rate_per_second
