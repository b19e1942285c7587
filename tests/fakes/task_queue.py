"""The port TaskQueue in memory, for unit tests; passes the same conformance suite as Cloud Tasks."""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from bridge.clock import Clock
from bridge.errors import PermanentError

MAX_AHEAD = timedelta(days=30)
MAX_TASK_BYTES = 100 * 1024
NAME = re.compile(r"[A-Za-z0-9_-]{1,500}")


@dataclass(frozen=True)
class ScheduledTask:
    name: str
    url: str
    payload: bytes
    at: datetime
    content_type: str = "application/json"


class InMemoryTaskQueue:
    """Keeps tasks until `run_due` hands them to the test's worker; names stay taken for good.

    `failure`, when set, is raised by every call: the queue that is away.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._names: set[str] = set()
        self.waiting: list[ScheduledTask] = []
        self.failure: Exception | None = None

    def schedule(self, name: str, url: str, payload: bytes, at: datetime) -> bool:
        if at.tzinfo is None:
            raise ValueError("at must be aware")
        if self.failure is not None:
            raise self.failure
        now = self._clock.now()
        if not NAME.fullmatch(name) or at > now + MAX_AHEAD or len(payload) >= MAX_TASK_BYTES:
            raise PermanentError("Cloud Tasks refuses the task")
        if not url.startswith(("http://", "https://")):
            raise PermanentError("Cloud Tasks refuses the task")
        with self._lock:
            if name in self._names:
                return False
            self._names.add(name)
            self.waiting.append(ScheduledTask(name, url, payload, max(at, now)))
        return True

    def run_due(self, worker: Callable[[ScheduledTask], int]) -> int:
        """Give each due task to `worker`, which answers an HTTP status; keep what isn't 2xx.

        Returns the number done.
        """
        now = self._clock.now()
        due = sorted((task for task in self.waiting if task.at <= now), key=lambda task: task.at)
        done = [task for task in due if 200 <= worker(task) < 300]
        with self._lock:
            self.waiting = [task for task in self.waiting if task not in done]
        return len(done)
