"""Sends due tasks to their workers, within each queue's limits."""

import logging
import sqlite3
import threading
import time

import urllib3

from devstack.cloud_tasks import protos
from devstack.cloud_tasks.attempt import Outcome, describe, perform, record_outcome
from devstack.cloud_tasks.protos import MICROSECONDS, Message
from devstack.cloud_tasks.retries import backoff_microseconds, is_exhausted
from devstack.cloud_tasks.store import Store
from devstack.cloud_tasks.token_bucket import TokenBucket

MAX_CONCURRENT_ATTEMPTS = 128  # over all queues: each is a thread
NAMES_RELEASED_EVERY_SECONDS = 10.0
MAX_WAIT_SECONDS = 30.0  # looks again at least that often, should the wall clock be set
STORAGE_RETRY_SECONDS = 1.0
STOP_GRACE_SECONDS = 0.8

logger = logging.getLogger(__name__)


def wall_clock_microseconds() -> int:
    return time.time_ns() // 1000


class Dispatcher:
    """One thread decides what is due and gives each attempt a thread of its own.

    It sleeps until the next task is due; `wake` ends the sleep (a new task, a free place, a resumed queue).
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._condition = threading.Condition()
        self._woken = False
        self._stopping = False
        self._running: dict[str, int] = {}  # attempts under way by queue name
        self._buckets: dict[str, TokenBucket] = {}
        self._pool = urllib3.PoolManager(maxsize=MAX_CONCURRENT_ATTEMPTS)
        self._names_released_at = 0.0
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        with self._condition:
            self._woken = True
            self._condition.notify_all()

    def stop(self) -> None:
        """Start no more attempts and give those under way a moment; the rest is sent again next time."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
            self._condition.wait_for(lambda: not any(self._running.values()), STOP_GRACE_SECONDS)
        self._thread.join(STOP_GRACE_SECONDS / 4)

    def _run(self) -> None:
        wait_seconds = 0.0
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._woken or self._stopping, wait_seconds)
                if self._stopping:
                    return
                self._woken = False
            try:
                wait_seconds = self._start_due_attempts()
            except sqlite3.Error as error:  # a full disk, for one: goes on when it can
                logger.error("storage failed: %s", error)  # noqa: TRY400 - the text says it, a trace adds nothing
                wait_seconds = STORAGE_RETRY_SECONDS

    def _start_due_attempts(self) -> float:
        """Start all that may start now; return the seconds until something more could."""
        if time.monotonic() - self._names_released_at >= NAMES_RELEASED_EVERY_SECONDS:
            self._names_released_at = time.monotonic()
            self._store.release_old_names(wall_clock_microseconds())
        wait_seconds = MAX_WAIT_SECONDS
        for queue in self._store.all_queues():
            if queue.state == protos.RUNNING:
                wait_seconds = min(wait_seconds, self._serve(queue))
        return wait_seconds

    def _serve(self, queue: Message) -> float:
        bucket = self._bucket(queue)
        tokens = bucket.available(time.monotonic())
        with self._condition:
            places = min(
                queue.rate_limits.max_concurrent_dispatches - self._running.get(queue.name, 0),
                MAX_CONCURRENT_ATTEMPTS - sum(self._running.values()),
            )
        limit = min(tokens, places)
        if limit > 0:
            for task, executions in self._store.start_attempts(queue.name, wall_clock_microseconds(), limit):
                bucket.take()
                self._start(queue, task, executions)
                tokens -= 1
                places -= 1
        due_at = self._store.next_due_at(queue.name)
        if due_at is None or places <= 0:
            return MAX_WAIT_SECONDS  # a new task or the end of an attempt wakes
        until_due = max(0.0, (due_at - wall_clock_microseconds()) / MICROSECONDS)
        return until_due if tokens > 0 else max(until_due, bucket.seconds_to_next())

    def _bucket(self, queue: Message) -> TokenBucket:
        limits = queue.rate_limits
        bucket = self._buckets.get(queue.name)
        if bucket is None or bucket.rate_per_second != limits.max_dispatches_per_second:
            bucket = TokenBucket.full(
                limits.max_dispatches_per_second, limits.max_burst_size, time.monotonic()
            )
            self._buckets[queue.name] = bucket
        return bucket

    def _start(self, queue: Message, task: Message, executions: int) -> None:
        with self._condition:
            self._running[queue.name] = self._running.get(queue.name, 0) + 1
        # a daemon: a worker that never answers must not keep the process from ending
        threading.Thread(target=self._attempt, args=(queue, task, executions), daemon=True).start()

    def _attempt(self, queue: Message, task: Message, executions: int) -> None:
        try:
            outcome = perform(self._pool, task, executions)
            while not self._try_to_record(queue, task, executions, outcome):
                with self._condition:
                    if self._condition.wait_for(lambda: self._stopping, STORAGE_RETRY_SECONDS):
                        return  # sent again by the next process
        finally:
            with self._condition:
                self._running[queue.name] -= 1
                self._woken = True
                self._condition.notify_all()

    def _try_to_record(self, queue: Message, task: Message, executions: int, outcome: Outcome) -> bool:
        """False when the storage failed: unrecorded, the task would never be sent again before a restart."""
        ended = protos.Task()
        ended.CopyFrom(task)
        try:
            self._record(queue, ended, executions, outcome)
        except sqlite3.Error as error:
            logger.error("storage failed: %s", error)  # noqa: TRY400 - the text says it, a trace adds nothing
            return False
        return True

    def _record(self, queue: Message, task: Message, executions: int, outcome: Outcome) -> None:
        now = wall_clock_microseconds()
        record_outcome(task, outcome, now)
        if outcome.succeeded:
            self._store.finish_task(task, now)
            return
        config = task.retry_config if task.HasField("retry_config") else queue.retry_config
        first = protos.to_microseconds(task.first_attempt.dispatch_time)
        if is_exhausted(config, attempts=task.dispatch_count, first_attempt_at=first, now=now):
            logger.warning("given up: %s: %s", describe(task), outcome.text)
            self._store.finish_task(task, now)
            return
        logger.info("failed: %s: %s", describe(task), outcome.text)
        due_at = now + backoff_microseconds(config, task.dispatch_count)
        task.schedule_time.CopyFrom(protos.to_timestamp(due_at))
        if outcome.http_status is not None and outcome.http_status < 500:
            executions += 1
        self._store.retry_task(task, due_at, executions)
