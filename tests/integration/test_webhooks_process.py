"""The real process, with the Cloud Tasks stand-in's own process: kill -9, restart, a wrong start."""

import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from stand_ins import REPOSITORY, CloudTasksProcess
from standardwebhooks import Webhook
from waiting import DEADLINE_SECONDS, wait_until
from webhook_stage import SECRET, Stage, endpoint, environment
from webhooks_process import WebhooksProcess

from bridge.storage import partner_configs

pytestmark = pytest.mark.integration

PAID = "payment.paid"
TIMEOUT_SECONDS = 5.0


@pytest.fixture
def stage(database, tmp_path):
    made = Stage(database, tmp_path)
    yield made
    made.close()


@pytest.fixture
def cloud_tasks(tmp_path):
    folder = tmp_path / "cloud-tasks"
    folder.mkdir()
    queue = "projects/test-project/locations/europe-west3/queues/webhook-deliveries"
    process = CloudTasksProcess(folder, f"--queue={queue}").start()
    yield process
    process.close()


@pytest.fixture
def webhooks(stage, cloud_tasks, database, tmp_path):
    stage.set_endpoints(endpoint(stage.receiver.url))
    with stage.engine.begin() as connection:
        # Firestore is away for the whole test: the mirror answers
        partner_configs.upsert(
            connection,
            partner_id=stage.partner_id,
            version=stage.partner.version,
            document=stage.partner.model_dump(mode="json"),
            seen_at=datetime.now(UTC),
        )
    process = WebhooksProcess(
        tmp_path,
        environment(
            tmp_path,
            DATABASE_URL=database.url_for("webhooks"),
            CLOUD_TASKS_EMULATOR_HOST=cloud_tasks.address,
            WEBHOOK_TIMEOUT_SECONDS=str(TIMEOUT_SECONDS),
            WEBHOOK_SCHEDULE_SECONDS="0.5,0.5,1",
            SWEEP_SECONDS="0.5",
            SWEEP_GRACE_SECONDS="1",
            THREADS="8",
        ),
    )
    yield process.start()
    process.stop()


def ids(receiver):
    return [request.headers["webhook-id"] for request in receiver.requests]


def is_delivered(stage):
    return {delivery.status for delivery in stage.deliveries()} == {"delivered"}


def test_an_event_becomes_a_signed_webhook(stage, webhooks):
    event_ids = stage.publish(PAID)
    assert webhooks.ring(stage.partner_id) == 204
    wait_until(lambda: stage.receiver.requests)
    assert ids(stage.receiver) == event_ids
    Webhook(SECRET).verify(stage.receiver.requests[0].body, stage.receiver.requests[0].headers)
    wait_until(lambda: is_delivered(stage))


def test_a_failed_attempt_comes_again_by_itself(stage, webhooks):
    stage.receiver.statuses[:] = [500, 503]
    stage.publish(PAID)
    webhooks.ring(stage.partner_id)
    wait_until(lambda: len(stage.receiver.requests) == 3)
    wait_until(lambda: is_delivered(stage))
    assert len(set(ids(stage.receiver))) == 1


def test_nobody_rings_and_the_sweeper_tells_it(stage, webhooks):
    stage.publish(PAID)
    wait_until(lambda: stage.receiver.requests)


def test_a_process_killed_between_request_and_record_sends_the_same_webhook_again(stage, webhooks):
    stage.receiver.gate.clear()
    (event_id,) = stage.publish(PAID)
    webhooks.ring(stage.partner_id)
    wait_until(lambda: stage.receiver.requests)
    webhooks.kill()
    stage.receiver.gate.set()
    assert stage.attempts() == []
    webhooks.start()
    wait_until(lambda: is_delivered(stage))
    assert len(stage.receiver.requests) == 2
    assert set(ids(stage.receiver)) == {event_id}
    assert len({request.body for request in stage.receiver.requests}) == 1
    assert len(stage.attempts()) == 1


def test_a_queue_that_is_away_loses_nothing(stage, webhooks, cloud_tasks):
    cloud_tasks.kill()
    event_ids = stage.publish(PAID, PAID)
    assert webhooks.ring(stage.partner_id) == 204
    assert len(stage.deliveries()) == 2
    cloud_tasks.start()
    wait_until(lambda: is_delivered(stage))
    assert sorted(ids(stage.receiver)) == sorted(event_ids)


def test_it_stops_cleanly_on_sigterm(webhooks):
    assert webhooks.stop() == 0


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"WEBHOOK_SCHEDULE_SECONDS": "soon"},
            "webhooks: WEBHOOK_SCHEDULE_SECONDS is not a number of seconds",
        ),
        ({"K_SERVICE": "webhooks"}, "webhooks: PUSH_AUTHENTICATION=emulator is not allowed on Cloud Run"),
        ({"WEBHOOK_KEY_RING": "/none"}, "webhooks: key ring /none: No such file or directory"),
    ],
)
def test_a_wrong_setting_is_one_line_and_no_start(tmp_path, changes, line):
    done = subprocess.run(
        [sys.executable, "-m", "webhooks"],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], **environment(tmp_path), **changes},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr.strip()) == (2, line)
