"""Whether a new revision may have more of the traffic: a pure function of its answers.

A request is bad if it failed by our fault (5xx) or took longer than the objective. The objectives allow one
in a hundred (terraform/monitoring.tf). At each look a revision is

- taken back, if a revision that just keeps the objective would show so many bad ones in fewer than one of
  10,000 looks. A rollout looks some 600 times (three steps, thirty looks, seven numbers), so even at the very
  limit of the objective 15 of 16 rollouts go through;
- good, if fewer than one in twenty are bad, at 95 % confidence: 59 requests without a bad one, 93 with one;
- otherwise told to wait for more.

The bound for a broken revision: it is taken back, with 99 % certainty, before it has answered this many
requests (`requests_to_notice`).

| of its requests are bad | 100 % | 50 % | 20 % | 10 % | 5 % |
| --- | --- | --- | --- | --- | --- |
| taken back within, requests | 3 | 17 | 62 | 170 | 555 |
"""

import math
from enum import Enum

TOLERATED_SHARE = 0.01
FALSE_ALARM = 1e-4
UNACCEPTABLE_SHARE = 0.05
DOUBT = 0.05
CERTAINTY = 0.99


class Verdict(Enum):
    """What becomes of a revision."""

    WAIT = "wait"
    GOOD = "good"
    TAKE_BACK = "take back"


def judge(requests: int, bad: int) -> Verdict:
    """Judge a revision by its answers so far."""
    if at_least(bad, requests, TOLERATED_SHARE) < FALSE_ALARM:
        return Verdict.TAKE_BACK
    if at_most(bad, requests, UNACCEPTABLE_SHARE) < DOUBT:
        return Verdict.GOOD
    return Verdict.WAIT


def requests_to_notice(share: float) -> int:
    """Return how many requests it takes until a revision that fails this share is surely taken back."""
    requests, needed = 0, 1
    while True:
        requests += 1
        # the first count that is too many only grows with the number of requests
        while at_least(needed, requests, TOLERATED_SHARE) >= FALSE_ALARM:
            needed += 1
        if needed <= requests and at_least(needed, requests, share) >= CERTAINTY:
            return requests


def at_least(count: int, of: int, share: float) -> float:
    """Return the probability of `count` or more among `of`, each with the probability `share`."""
    if count > of * share:
        return _tail(count, of, share)
    return 1.0 - _tail(of - count + 1, of, 1 - share)


def at_most(count: int, of: int, share: float) -> float:
    """Return the probability of `count` or fewer."""
    return 1.0 - at_least(count + 1, of, share)


def _tail(count: int, of: int, share: float) -> float:
    """Sum the binomial probabilities from `count` up to `of`: beyond the expectation they only fall."""
    if count > of or share <= 0:
        return 0.0
    if share >= 1:
        return 1.0
    log_term = (
        math.lgamma(of + 1)
        - math.lgamma(count + 1)
        - math.lgamma(of - count + 1)
        + count * math.log(share)
        + (of - count) * math.log1p(-share)
    )
    term, total = math.exp(log_term), 0.0
    odds = share / (1 - share)
    while term > total * 1e-16 and count <= of:
        total += term
        term *= (of - count) / (count + 1) * odds
        count += 1
    return min(total, 1.0)
