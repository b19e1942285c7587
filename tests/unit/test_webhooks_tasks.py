"""Tasks are made several at a time; a queue that is away is found out by one call."""

import threading
from datetime import UTC, datetime

import pytest
from fakes.task_queue import InMemoryTaskQueue

from bridge.clock import ManualClock
from bridge.errors import TransientError
from webhooks.tasks import DeliveryTask, DeliveryTasks

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 21, tzinfo=UTC)
URL = "http://127.0.0.1:8083/tasks/deliveries"
TASKS = [DeliveryTask(f"dlv_{number}", 1, 0, NOW) for number in range(50)]


def test_all_are_made_by_several_calls_at_a_time():
    queue = InMemoryTaskQueue(ManualClock(NOW))
    schedule, threads = queue.schedule, set()

    def notice(*arguments):
        threads.add(threading.get_ident())
        return schedule(*arguments)

    queue.schedule = notice
    assert DeliveryTasks(queue, URL, calls_at_once=4).create(TASKS)
    assert {task.payload for task in queue.waiting} == {task.payload for task in TASKS}
    assert len(threads) > 1


@pytest.mark.parametrize("calls_at_once", [1, 4])
def test_a_queue_that_is_away_is_asked_once(calls_at_once):
    queue = InMemoryTaskQueue(ManualClock(NOW))
    asked = []

    def away(*_arguments):
        asked.append(1)
        raise TransientError("away")

    queue.schedule = away
    assert not DeliveryTasks(queue, URL, calls_at_once=calls_at_once).create(TASKS)
    assert len(asked) == 1
    assert DeliveryTasks(queue, URL).create([])


def test_one_that_fails_later_is_told_and_the_others_are_made():
    queue = InMemoryTaskQueue(ManualClock(NOW))
    schedule = queue.schedule

    def fail_once(name, *rest):
        if name == TASKS[7].name:
            raise TransientError("away")
        return schedule(name, *rest)

    queue.schedule = fail_once
    assert not DeliveryTasks(queue, URL, calls_at_once=4).create(TASKS)
    assert len(queue.waiting) == len(TASKS) - 1
