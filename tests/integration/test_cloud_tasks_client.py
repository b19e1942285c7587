"""bridge.gcp.tasks against the stand-in: tokens, deadlines, a queue that is away, forks."""

import os
import time
from datetime import UTC, datetime, timedelta

import pytest
from google.cloud import tasks_v2
from stand_ins import CloudTasksProcess, free_port
from waiting import DEADLINE_SECONDS

from bridge.errors import SettingsError, TransientError
from bridge.gcp.tasks import CALL_TIMEOUT_SECONDS, DISPATCH_DEADLINE_SECONDS, make_task_queue

pytestmark = pytest.mark.integration

URL = "https://webhooks-abc.a.run.app/tasks/deliveries"
ACCOUNT = "webhooks@test-project.iam.gserviceaccount.com"
SLACK_SECONDS = DEADLINE_SECONDS


@pytest.fixture
def stand_in(tmp_path):
    process = CloudTasksProcess(tmp_path).start()
    yield process
    process.close()


def queue_on(address, *, account=None, queue_id="deliveries", **settings):
    return make_task_queue(
        "test-project",
        "europe-west3",
        queue_id,
        emulator_host=address,
        service_account_email=account,
        **settings,
    )


def in_an_hour():
    return datetime.now(UTC) + timedelta(hours=1)


def stored_task(stand_in, name):
    return stand_in.client().get_task(
        request={
            "name": f"{stand_in.LOCATION}/queues/deliveries/tasks/{name}",
            "response_view": tasks_v2.Task.View.FULL,
        }
    )


def test_a_task_carries_the_token_deadline_and_time_that_production_needs(stand_in):
    stand_in.create_queue(stand_in.client(), "deliveries")
    queue = queue_on(stand_in.address, account=ACCOUNT)
    at = in_an_hour()
    assert queue.schedule("one", URL, b"{}", at)
    queue.close()
    task = stored_task(stand_in, "one")
    assert task.http_request.oidc_token.service_account_email == ACCOUNT
    assert task.http_request.oidc_token.audience == "https://webhooks-abc.a.run.app"
    assert task.dispatch_deadline == timedelta(seconds=DISPATCH_DEADLINE_SECONDS)
    assert task.schedule_time == at


def test_the_audience_can_be_given(stand_in):
    stand_in.create_queue(stand_in.client(), "deliveries")
    queue = queue_on(stand_in.address, account=ACCOUNT, audience="webhooks")
    queue.schedule("one", URL, b"{}", in_an_hour())
    queue.close()
    assert stored_task(stand_in, "one").http_request.oidc_token.audience == "webhooks"


def test_a_queue_that_is_away_is_a_transient_error_within_bounds():
    queue = queue_on(f"127.0.0.1:{free_port()}", retry_timeout_seconds=0.5)
    started = time.monotonic()
    with pytest.raises(TransientError) as raised:
        queue.schedule("one", URL, b"{}", in_an_hour())
    assert raised.value.__cause__ is not None
    assert time.monotonic() - started < CALL_TIMEOUT_SECONDS + SLACK_SECONDS
    queue.close()


def test_a_queue_that_does_not_exist_is_a_transient_error(stand_in):
    queue = queue_on(stand_in.address, queue_id="missing")
    with pytest.raises(TransientError):
        queue.schedule("one", URL, b"{}", in_an_hour())
    queue.close()


def test_a_client_finds_the_queue_again_after_its_kill_9(stand_in):
    stand_in.create_queue(stand_in.client(), "deliveries")
    queue = queue_on(stand_in.address)
    assert queue.schedule("before", URL, b"{}", in_an_hour())
    stand_in.kill()
    stand_in.start()
    assert queue.schedule("after", URL, b"{}", in_an_hour()) is True
    assert queue.schedule("before", URL, b"{}", in_an_hour()) is False
    queue.close()


def test_a_closed_queue_opens_again_at_its_next_use(stand_in):
    stand_in.create_queue(stand_in.client(), "deliveries")
    queue = queue_on(stand_in.address)
    assert queue.schedule("one", URL, b"{}", in_an_hour())
    queue.close()
    assert queue.schedule("two", URL, b"{}", in_an_hour())
    queue.close()


def test_another_process_gets_a_client_of_its_own(stand_in, monkeypatch):
    stand_in.create_queue(stand_in.client(), "deliveries")
    queue = queue_on(stand_in.address)
    queue.schedule("parent", URL, b"{}", in_an_hour())
    parents = queue._client
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        assert queue.schedule("child", URL, b"{}", in_an_hour())
        assert queue._client is not parents
        queue.close()
    parents.transport.close()


def test_production_without_a_service_account_is_refused_at_boot():
    with pytest.raises(SettingsError, match="service account"):
        queue_on(None)
