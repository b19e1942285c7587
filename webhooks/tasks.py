"""The tasks that bring a delivery's attempts back to us at their time.

A task carries ids only, and losing one is no loss: the sweeper makes another for whatever is overdue.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from bridge.errors import PermanentError, TransientError
from bridge.ports import TaskQueue
from bridge.storage.webhook_sweeps import DueDelivery
from bridge.threads import started_pool

# How far the clocks of the task queue and of the database's writers may be apart.
EARLY_TOLERANCE = timedelta(seconds=2)

_log = structlog.get_logger(__name__)


class UnreadableTaskError(ValueError):
    """The task's body is not one of ours."""


@dataclass(frozen=True, slots=True)
class DeliveryTask:
    """Asks for attempt `attempt_number` (from 1) at `at`. `sweep` tells tasks for the same attempt apart."""

    delivery_id: str
    attempt_number: int
    sweep: int
    at: datetime

    @property
    def name(self) -> str:
        """Cloud Tasks takes each name once; a hash spreads them, as it asks for."""
        return hashlib.sha256(f"{self.delivery_id}/{self.attempt_number}/{self.sweep}".encode()).hexdigest()

    @property
    def payload(self) -> bytes:
        return json.dumps({"delivery_id": self.delivery_id, "attempt": self.attempt_number}).encode()


@dataclass(frozen=True, slots=True)
class ProbeTask:
    """Asks for a probe of a failing endpoint at `at`, by the delivery that has waited longest then."""

    endpoint_id: str
    at: datetime

    @property
    def name(self) -> str:
        return hashlib.sha256(f"{self.endpoint_id}/probe/{self.at.isoformat()}".encode()).hexdigest()

    @property
    def payload(self) -> bytes:
        return json.dumps({"probe": self.endpoint_id}).encode()


def read_probe(document: object) -> str | None:
    """Return the id of the endpoint that a task's JSON body asks to probe; None if it asks for an attempt."""
    endpoint_id = document.get("probe") if isinstance(document, dict) else None
    return endpoint_id if isinstance(endpoint_id, str) else None


def read_payload(document: object) -> tuple[str, int]:
    """Return delivery id and attempt number of a task's JSON body; UnreadableTaskError if it has none."""
    delivery_id = document.get("delivery_id") if isinstance(document, dict) else None
    attempt_number = document.get("attempt") if isinstance(document, dict) else None
    if not isinstance(delivery_id, str) or not isinstance(attempt_number, int) or attempt_number < 1:
        raise UnreadableTaskError("a task's body is {delivery_id, attempt}")
    return delivery_id, attempt_number


class DeliveryTasks:
    """Creates tasks once what they are about is committed; `calls_at_once` calls of the queue at a time."""

    def __init__(self, queue: TaskQueue, target_url: str, *, calls_at_once: int = 1) -> None:
        self._queue = queue
        self._target_url = target_url
        self._pool = started_pool(calls_at_once, "tasks") if calls_at_once > 1 else None

    def create(self, tasks: Sequence[DeliveryTask | ProbeTask]) -> bool:
        """Create the tasks; False if the queue can't be reached: the sweeper makes the rest.

        The first goes alone: a queue that is away is found out by one call. A task that the queue refuses
        stops only itself, and the sweeper tries it again.
        """
        if not tasks:
            return True
        if not self._create(tasks[0]):
            return False
        if self._pool is None:
            return all(self._create(task) for task in tasks[1:])
        return all(list(self._pool.map(self._create, tasks[1:])))

    def _create(self, task: DeliveryTask | ProbeTask) -> bool:
        try:
            self._queue.schedule(task.name, self._target_url, task.payload, task.at)
        except PermanentError as error:
            _log.error(
                "the queue refuses a task",
                task=task.payload.decode(),
                reason=str(error),
            )
        except TransientError as error:
            _log.warning(
                "no task for a delivery; the sweeper follows",
                task=task.payload.decode(),
                reason=str(error),
            )
            return False
        return True


def tasks_for(deliveries: Sequence[DueDelivery], now: datetime) -> list[DeliveryTask]:
    """Return the tasks of the next attempts, due now."""
    return [
        DeliveryTask(delivery.delivery_id, delivery.attempts + 1, delivery.sweep, now)
        for delivery in deliveries
    ]
