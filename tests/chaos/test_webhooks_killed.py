"""Receiver at 30 % errors, webhooks and the task queue killed, all tasks lost: every event is acknowledged.

`make chaos-webhooks` does it with 500 events and the schedule divided by 600. `make test` has fewer events
and divides by more: an event that fails five times in a row would keep it waiting for a minute.
"""

import json
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
import requests
from stand_ins import CloudTasksProcess, StandIn
from waiting import DEADLINE_SECONDS, wait_until
from webhook_stage import SECRET, Stage, endpoint, environment
from webhooks_process import WebhooksProcess

from bridge.storage import partner_configs
from webhooks.retries import DEFAULT_DELAYS_SECONDS

pytestmark = pytest.mark.chaos


@dataclass(frozen=True)
class Scale:
    events: int
    schedule_divisor: int


ALL = Scale(events=500, schedule_divisor=600)
FEW = Scale(events=40, schedule_divisor=6000)
PAGE_EVENTS = 20
FAIL_RATE = 0.3
DRAIN_SECONDS = 420.0
QUEUE = "projects/test-project/locations/europe-west3/queues/webhook-deliveries"
PAID = "payment.paid"


@pytest.fixture
def scale(request):
    return ALL if request.config.getoption("--chaos-full") else FEW


@pytest.fixture
def stage(database, tmp_path):
    made = Stage(database, tmp_path)
    yield made
    made.close()


@pytest.fixture
def receiver(stage, tmp_path):
    """The stack's receiver, which verifies each signature and remembers what it has answered."""
    folder = tmp_path / "receiver"
    folder.mkdir()
    secrets = folder / "secrets.json"
    secrets.write_text(json.dumps({stage.partner_id: SECRET}))
    process = StandIn("devstack.receiver", folder, f"--secrets={secrets}").start()
    yield process
    process.stop()


@pytest.fixture
def cloud_tasks(tmp_path):
    folder = tmp_path / "cloud-tasks"
    folder.mkdir()
    process = CloudTasksProcess(folder, f"--queue={QUEUE}", "--max-concurrent-dispatches=12").start()
    yield process
    process.close()


@pytest.fixture
def webhooks(stage, receiver, cloud_tasks, database, tmp_path, scale):
    stage.set_endpoints(endpoint(f"http://127.0.0.1:{receiver.port}/webhooks/{stage.partner_id}"))
    with stage.engine.begin() as connection:
        # Firestore is away for the whole test: the mirror answers
        partner_configs.upsert(
            connection,
            partner_id=stage.partner_id,
            version=stage.partner.version,
            document=stage.partner.model_dump(mode="json"),
            seen_at=datetime.now(UTC),
        )
    schedule = [f"{delay / scale.schedule_divisor:g}" for delay in DEFAULT_DELAYS_SECONDS]
    process = WebhooksProcess(
        tmp_path,
        environment(
            tmp_path,
            DATABASE_URL=database.url_for("webhooks"),
            CLOUD_TASKS_EMULATOR_HOST=cloud_tasks.address,
            WEBHOOK_TIMEOUT_SECONDS="2",
            WEBHOOK_SCHEDULE_SECONDS=",".join(schedule),
            SWEEP_SECONDS="0.5",
            SWEEP_GRACE_SECONDS="1",
            THREADS="16",
        ),
    )
    yield process.start()
    process.stop()


def received(receiver):
    rows = requests.get(f"http://127.0.0.1:{receiver.port}/_received", timeout=DEADLINE_SECONDS).json()
    assert all(row["verified"] for row in rows)
    return rows


def acknowledged(receiver):
    return {row["id"] for row in received(receiver) if row["answered"] == 200}


def test_every_event_is_acknowledged_whatever_is_killed_and_lost(
    stage, receiver, cloud_tasks, webhooks, scale
):
    events = scale.events
    control = f"http://127.0.0.1:{receiver.port}/_control"
    requests.put(control, json={"fail_rate": FAIL_RATE}, timeout=DEADLINE_SECONDS).raise_for_status()
    event_ids = []
    while len(event_ids) < events:
        event_ids += stage.publish(*[PAID] * PAGE_EVENTS)
        assert webhooks.ring(stage.partner_id) == 204
        if len(event_ids) == events // 2 // PAGE_EVENTS * PAGE_EVENTS:
            wait_until(lambda: acknowledged(receiver), what="the first of them")
            webhooks.kill()
            cloud_tasks.kill()
            cloud_tasks.start()
            webhooks.start()
    # the names of what is lost stay taken: only under other names can the tasks be made again
    cloud_tasks.client().purge_queue(name=QUEUE)

    wait_until(
        lambda: {row.status for row in stage.deliveries()} == {"delivered"},
        timeout_seconds=DRAIN_SECONDS,
        poll_seconds=0.5,
        what="every delivery at its end",
    )
    assert acknowledged(receiver) == set(event_ids)
    told = defaultdict(set)
    for row in received(receiver):
        told[row["id"]].add((row["previous_sequence"], row["sequence"]))
    assert all(len(each) == 1 for each in told.values()), "the same in every attempt"
    chain = sorted(place for places in told.values() for place in places)
    assert chain == [(number - 1, number) for number in range(1, events + 1)], "as in the feed, without a gap"
    fed = stage.rows("SELECT event_id FROM feed ORDER BY sequence")
    assert [row.event_id for row in fed] == event_ids
    answers = [row["answered"] for row in received(receiver)]
    assert answers.count(500) > 0, "the receiver has failed now and then"
