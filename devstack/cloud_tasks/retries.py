"""When a failed task is tried again, after google.cloud.tasks.v2.RetryConfig. Pure."""

from devstack.cloud_tasks.protos import MICROSECONDS, Message, to_microseconds

MAX_TASK_AGE_MICROSECONDS = 31 * 24 * 3600 * MICROSECONDS  # Cloud Tasks keeps no task longer
MAX_EXPONENT = 62  # beyond it every back-off is at its maximum long since


def backoff_microseconds(config: Message, failures: int) -> int:
    """The wait after the `failures`-th failed attempt (1 = the first).

    It starts at min_backoff, doubles max_doublings times, then grows linearly by the last doubled step, and
    ends at max_backoff: 10 s, 300 s and 3 give 10, 20, 40, 80, 160, 240, 300, 300 ...
    """
    shortest = to_microseconds(config.min_backoff)
    doublings = min(config.max_doublings, MAX_EXPONENT)
    exponent = failures - 1
    if exponent <= doublings:
        wait = shortest << exponent
    else:
        wait = (shortest << doublings) * (exponent - doublings + 1)
    return max(shortest, min(wait, to_microseconds(config.max_backoff)))


def is_exhausted(config: Message, *, attempts: int, first_attempt_at: int, now: int) -> bool:
    """Whether the task is given up (it is then deleted: Cloud Tasks has no dead letter).

    Only when every limit that is set has been passed: max_attempts (-1 sets none) and max_retry_duration (0
    sets none). A task older than Cloud Tasks keeps any is given up in any case.
    """
    age = now - first_attempt_at
    if age >= MAX_TASK_AGE_MICROSECONDS:
        return True
    limits_passed = []
    if config.max_attempts > 0:
        limits_passed.append(attempts >= config.max_attempts)
    longest = to_microseconds(config.max_retry_duration)
    if longest > 0:
        limits_passed.append(age >= longest)
    return bool(limits_passed) and all(limits_passed)
