"""A pool has all its threads from the start, or none that waits for ever."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from waiting import DEADLINE_SECONDS

from bridge.threads import start_all, started_pool

pytestmark = pytest.mark.unit


def test_a_pool_starts_all_its_threads_at_once():
    with started_pool(3, "ready") as pool:
        assert sum(thread.name.startswith("ready") for thread in threading.enumerate()) == 3
        assert pool.submit(lambda: 1).result(DEADLINE_SECONDS) == 1


def test_a_thread_that_could_not_be_started_kept_the_others_waiting_for_ever(monkeypatch):
    """A service that booted with too little memory did not end, and so was not started again."""
    pool = ThreadPoolExecutor(3)
    start, started = threading.Thread.start, []

    def start_two(thread):
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    with pytest.raises(RuntimeError, match="new thread"):
        start_all(pool, 3)
    pool.shutdown(wait=False, cancel_futures=True)
    for thread in started:
        thread.join(DEADLINE_SECONDS)
        assert not thread.is_alive()
