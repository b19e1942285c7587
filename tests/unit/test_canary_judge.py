"""Whether a rollout goes on: a judge for 0.4 requests a second and for 400, played with real chance."""

import math
import random
import re

import pytest

from deploy import judge as module
from deploy.judge import FALSE_ALARM, Verdict, at_least, at_most, judge, requests_to_notice

pytestmark = pytest.mark.unit

LOOK_SECONDS = 60
MAX_HOLD_SECONDS = 1800
FIRST_SHARE = 0.10


def exactly(count, of, share):
    return sum(math.comb(of, k) * share**k * (1 - share) ** (of - k) for k in range(count, of + 1))


@pytest.mark.parametrize(
    ("requests", "bad", "verdict"),
    [
        (0, 0, Verdict.WAIT),
        (1, 1, Verdict.WAIT),
        (12, 1, Verdict.WAIT),
        (12, 3, Verdict.WAIT),
        (12, 4, Verdict.TAKE_BACK),
        (3, 3, Verdict.TAKE_BACK),
        (58, 0, Verdict.WAIT),
        (59, 0, Verdict.GOOD),
        (92, 1, Verdict.WAIT),
        (93, 1, Verdict.GOOD),
        (1000, 10, Verdict.GOOD),
        (1000, 25, Verdict.TAKE_BACK),
        (1_000_000, 10_000, Verdict.GOOD),
        (1_000_000, 11_000, Verdict.TAKE_BACK),
    ],
)
def test_so_many_bad_ones_of_so_many(requests, bad, verdict):
    assert judge(requests, bad) is verdict


@pytest.mark.parametrize("of", [1, 2, 12, 59, 333])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
def test_the_probabilities_are_the_binomial_ones(of, share):
    for count in range(of + 1):
        assert at_least(count, of, share) == pytest.approx(exactly(count, of, share), rel=1e-9, abs=1e-15)
        assert at_most(count, of, share) == pytest.approx(
            1 - exactly(count + 1, of, share), rel=1e-6, abs=1e-12
        )


def test_the_bound_is_the_one_that_is_documented():
    row = re.search(r"taken back within, requests \|(.*)\|", module.__doc__)[1]
    stated = [int(number) for number in row.split("|")]
    assert [requests_to_notice(share) for share in (1.0, 0.5, 0.2, 0.1, 0.05)] == stated


def hold(generator, *, rate, share, percent, look_requests=None):
    """One step of a rollout: (verdict, seconds, requests)."""
    requests = bad = seconds = 0
    while True:
        seconds += LOOK_SECONDS
        new = look_requests or round(rate * percent * LOOK_SECONDS)
        # at a low rate they come one by one
        if not look_requests and rate * percent * LOOK_SECONDS < 10:
            new = sum(generator.random() < rate * percent for _ in range(LOOK_SECONDS))
        requests += new
        bad += sum(generator.random() < share for _ in range(new))
        verdict = judge(requests, bad)
        if verdict is not Verdict.WAIT or seconds >= MAX_HOLD_SECONDS:
            return verdict, seconds, requests


@pytest.mark.parametrize(("rate", "share"), [(0.4, 1.0), (0.4, 0.5), (400, 0.5), (400, 0.05)])
def test_a_broken_revision_is_taken_back_within_the_bound(rate, share):
    generator = random.Random(4711)  # noqa: S311 - a game of chance, and no secret
    bound = requests_to_notice(share)
    late = 0
    for _ in range(300):
        verdict, _, requests = hold(generator, rate=rate, share=share, percent=FIRST_SHARE)
        assert verdict is Verdict.TAKE_BACK
        # one look brings as many as come in a minute
        late += requests > bound + max(rate * FIRST_SHARE * LOOK_SECONDS, 10)
    # 99 of 100
    assert late <= 300 * 0.03


def test_a_revision_that_half_fails_is_taken_back_within_minutes_at_the_design_volume():
    generator = random.Random(11)  # noqa: S311 - a game of chance, and no secret
    seconds = [hold(generator, rate=0.4, share=0.5, percent=FIRST_SHARE)[1] for _ in range(200)]
    assert max(seconds) <= MAX_HOLD_SECONDS / 2


@pytest.mark.parametrize("rate", [0.4, 400])
def test_a_revision_as_good_as_its_predecessor_is_not_taken_back(rate):
    generator = random.Random(7)  # noqa: S311 - a game of chance, and no secret
    verdicts = [hold(generator, rate=rate, share=0.001, percent=FIRST_SHARE)[0] for _ in range(300)]
    assert Verdict.TAKE_BACK not in verdicts


def test_at_the_very_limit_of_the_objective_a_look_rarely_errs():
    generator = random.Random(3)  # noqa: S311 - a game of chance, and no secret
    looks = [(5000, sum(generator.random() < 0.01 for _ in range(5000))) for _ in range(300)]
    assert sum(judge(*look) is Verdict.TAKE_BACK for look in looks) <= 300 * FALSE_ALARM + 1
