"""The gateway and the webhooks service on one database: tests, redelivery, replay, held events, attempts."""

from dataclasses import replace
from datetime import timedelta

import pytest
from fakes.task_queue import InMemoryTaskQueue
from gateway_stage import GatewayStage, keys
from partner_documents import changed
from stand_ins import Worker
from standardwebhooks import Webhook
from webhook_stage import environment

from bridge.clock import rfc3339
from bridge.partner_directory import PartnerDirectorySettings, make_directory
from bridge.storage.feed import sequence_events
from bridge.storage.webhook_probes import MAX_PROBE_PAUSE_SECONDS
from webhooks.app import create_app, make_use_cases
from webhooks.settings import Settings

pytestmark = pytest.mark.integration

PATH = "/v1/webhook-endpoints"
DELIVERIES = "/v1/webhook-deliveries"


class Both(GatewayStage):
    """Every payment is an event `payment.accepted`; `deliver` does what doorbell, sweeper and tasks do."""

    def __init__(self, database, folder):
        super().__init__(database)
        self.settings = replace(self.settings, allow_http_loopback=True)
        self.app = self.new_app()
        self.partner = self.emptied(self.partner)
        self.receiver = Worker()
        self.queue = InMemoryTaskQueue(self.clock)
        self.webhooks_engine = database.engine_for("webhooks")
        self.webhooks_settings = Settings.from_environment(environment(folder))
        directory = make_directory(
            self.store, self.webhooks_engine, self.clock, PartnerDirectorySettings(), lambda task: task()
        )
        self.service = make_use_cases(
            self.webhooks_settings,
            keys().webhooks,
            self.webhooks_engine,
            directory,
            self.queue,
            self.clock,
            lambda: 0.0,
        )

    def emptied(self, partner):
        new = changed(partner, webhook_endpoints=[])
        self.store.put(new, partner.version)
        return new

    def close(self):
        self.receiver.close()
        self.webhooks_engine.dispose()
        super().close()

    def register(self, **members):
        url = f"{self.receiver.url}/hooks"
        answer = self.call("POST", PATH, json={"url": url, **members})
        assert answer.status_code == 201, answer.json
        return answer.json

    def happen(self, count=1):
        """Let payments be accepted, and give their events numbers."""
        for _ in range(count):
            assert self.pay().status_code == 202
            self.clock.advance(1)
        with self.owner.begin() as connection:
            sequence_events(connection, self.partner.partner_id, limit=500)

    def deliver(self):
        self.service.fan_out.fan_out(self.partner.partner_id)
        self.service.sweeper.sweep_wanted()
        app = create_app(self.webhooks_settings, self.webhooks_engine, self.service, self.clock).test_client()
        return self.queue.run_due(lambda task: app.post("/tasks/deliveries", data=task.payload).status_code)

    def listed(self, made, **query):
        return self.call("GET", f"{PATH}/{made['id']}/deliveries", query_string=query).json

    def replay(self, made, **members):
        since = rfc3339(self.clock.now() - timedelta(days=1))
        return self.call("POST", f"{PATH}/{made['id']}/replay", json={"since": since, **members})

    def sent(self):
        return [request.headers["webhook-id"] for request in self.receiver.requests]


@pytest.fixture
def stage(database, tmp_path):
    made = Both(database, tmp_path)
    yield made
    made.close()


def slug(answer):
    return answer.json["type"].rpartition("/")[2]


def statuses(stage, made):
    return [each["status"] for each in stage.listed(made)["data"]]


def test_an_endpoint_is_told_of_the_payment_after_its_registration_though_caches_are_older(stage):
    stage.happen()
    stage.deliver()  # the service has read the partner's document, and keeps it for half a minute
    for number in range(10):
        made = stage.register()
        stage.happen()
        stage.deliver()
        body = Webhook(made["secret"])
        request = stage.receiver.requests[-1]
        assert len(request.body) > 100
        assert (
            body.sign(request.headers["webhook-id"], stage_time(request), request.body.decode())
            in (request.headers["webhook-signature"])
        )
        assert stage.call("DELETE", f"{PATH}/{made['id']}").status_code == 204
        assert len(stage.sent()) == number + 1


def stage_time(request):
    from datetime import UTC, datetime  # noqa: PLC0415 - used here only

    return datetime.fromtimestamp(int(request.headers["webhook-timestamp"]), UTC)


def test_a_test_is_sent_once_and_is_no_event(stage):
    made = stage.register()
    answer = stage.call("POST", f"{PATH}/{made['id']}/test")
    assert answer.status_code == 202
    assert (answer.json["event_type"], answer.json["status"]) == ("webhook.test", "pending")
    assert stage.deliver() == 1
    (request,) = stage.receiver.requests
    body = request.body.decode()
    assert '"type":"webhook.test"' in body
    assert '"sequence":0' in body
    assert request.headers["webhook-id"] == answer.json["event_id"]
    found = stage.call("GET", f"{DELIVERIES}/{answer.json['id']}").json
    assert found["status"] == "delivered"
    assert found["attempts"][0]["response_status"] == 200
    stage.happen()
    stage.deliver()
    assert '"previous_sequence":0' in stage.receiver.requests[-1].body.decode()


def test_a_failed_test_is_not_repeated_and_held_against_nobody(stage):
    made = stage.register()
    stage.receiver.statuses[:] = [410]
    stage.call("POST", f"{PATH}/{made['id']}/test")
    stage.deliver()
    assert statuses(stage, made) == ["exhausted"]
    assert stage.call("GET", f"{PATH}/{made['id']}").json["status"] == "enabled"
    assert stage.call("GET", f"{PATH}/{made['id']}").json["failing_since"] is None


def test_a_disabled_endpoint_can_be_tested_before_it_is_enabled(stage):
    made = stage.register()
    stage.call("PATCH", f"{PATH}/{made['id']}", json={"status": "disabled"})
    stage.happen()
    stage.call("POST", f"{PATH}/{made['id']}/test")
    stage.deliver()
    assert len(stage.sent()) == 1
    assert sorted(statuses(stage, made)) == ["delivered", "held"]


def test_enabling_sends_all_that_was_held_each_once(stage):
    made = stage.register()
    path = f"{PATH}/{made['id']}"
    stage.call("PATCH", path, json={"status": "disabled"})
    stage.happen(7)
    stage.deliver()
    assert stage.sent() == []
    assert statuses(stage, made) == ["held"] * 7
    stage.call("PATCH", path, json={"status": "enabled"})
    stage.deliver()
    stage.deliver()
    assert len(stage.sent()) == len(set(stage.sent())) == 7
    assert statuses(stage, made) == ["delivered"] * 7


def test_the_attempts_log_shows_what_the_receiver_answered_without_secrets(stage):
    made = stage.register()
    stage.receiver.statuses[:] = [500]
    stage.receiver.answer_body = (
        b"bad\x00 " + made["secret"].encode() + b" Bearer abcdefghijkl " + b"x" * 5000
    )
    stage.happen()
    stage.deliver()
    (delivery,) = stage.listed(made)["data"]
    found = stage.call("GET", f"{DELIVERIES}/{delivery['id']}").json
    (attempt,) = found["attempts"]
    assert (attempt["number"], attempt["response_status"], attempt["error_class"]) == (1, 500, "http-status")
    assert attempt["next_attempt_at"] == found["next_attempt_at"] == delivery["next_attempt_at"]
    excerpt = attempt["response_excerpt"]
    assert excerpt.startswith("bad  [redacted] [redacted] xxx")
    assert len(excerpt.encode()) <= 1024
    assert "abcdefghijkl" not in excerpt


def test_deliveries_are_paged_newest_first(stage):
    made = stage.register()
    stage.happen(5)
    stage.deliver()
    first = stage.listed(made, limit=2)
    second = stage.listed(made, limit=2, cursor=first["next_cursor"])
    third = stage.listed(made, limit=2, cursor=second["next_cursor"])
    assert third["next_cursor"] is None
    pages = [*first["data"], *second["data"], *third["data"]]
    assert [each["sequence"] for each in pages] == [5, 4, 3, 2, 1]
    assert stage.listed(made, status="held")["data"] == []
    assert stage.call("GET", f"{PATH}/{made['id']}/deliveries?status=lost").status_code == 400


def test_a_delivered_event_is_sent_again_with_the_same_id_and_body(stage):
    made = stage.register()
    stage.happen()
    stage.deliver()
    (delivery,) = stage.listed(made)["data"]
    answer = stage.call("POST", f"{DELIVERIES}/{delivery['id']}/redeliver")
    assert (answer.status_code, answer.json["status"]) == (202, "pending")
    again = stage.call("POST", f"{DELIVERIES}/{delivery['id']}/redeliver")
    assert again.status_code == 202
    stage.deliver()
    first, second = stage.receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    assert stage.listed(made)["data"][0]["attempt_count"] == 2


def test_a_pending_delivery_is_attempted_at_once_when_it_is_asked_for(stage):
    made = stage.register()
    stage.receiver.statuses[:] = [500] * 3
    stage.happen()
    for _ in range(3):
        stage.deliver()
        stage.clock.advance(1900)
    stage.clock.advance(-1899)
    (delivery,) = stage.listed(made)["data"]
    stage.call("POST", f"{DELIVERIES}/{delivery['id']}/redeliver")
    stage.deliver()
    assert statuses(stage, made) == ["delivered"]


def test_a_redelivery_to_a_failing_endpoint_is_its_next_probe_and_a_replay_is_not(stage):
    made = stage.register()
    stage.happen(3)
    stage.deliver()
    stage.receiver.statuses[:] = [500] * 5
    stage.happen(3)
    stage.deliver()  # three failures in a row
    before = len(stage.sent())
    assert stage.replay(made, only="all").json["events"] == 3
    stage.deliver()
    assert len(stage.sent()) == before
    deliveries = [each["id"] for each in stage.listed(made)["data"]]
    for number, asked_for in enumerate(deliveries[1:3], start=1):
        stage.call("POST", f"{DELIVERIES}/{asked_for}/redeliver")
        stage.deliver()
        stage.deliver()
        assert len(stage.sent()) == before + number
        (newest, *_) = stage.call("GET", f"{DELIVERIES}/{asked_for}").json["attempts"]
        assert (newest["number"], newest["response_status"]) == (2, 500)
    assert statuses(stage, made) == ["pending"] * 6
    stage.call("POST", f"{DELIVERIES}/{deliveries[0]}/redeliver")
    while stage.deliver():
        pass
    assert statuses(stage, made) == ["delivered"] + ["pending"] * 2 + ["delivered"] * 3


def test_redelivery_needs_an_enabled_endpoint_of_ones_own(stage):
    made = stage.register()
    stage.happen()
    stage.deliver()
    (delivery,) = stage.listed(made)["data"]
    path = f"{DELIVERIES}/{delivery['id']}"
    assert stage.call("POST", f"{path}/redeliver", "other").status_code == 404
    assert stage.call("GET", path, "other").status_code == 404
    stage.call("PATCH", f"{PATH}/{made['id']}", json={"status": "disabled"})
    answer = stage.call("POST", f"{path}/redeliver")
    assert (answer.status_code, slug(answer)) == (409, "endpoint-disabled")
    answer = stage.replay(made, only="all")
    assert (answer.status_code, slug(answer)) == (409, "endpoint-disabled")
    stage.call("DELETE", f"{PATH}/{made['id']}")
    assert stage.call("GET", path).status_code == 404
    assert stage.call("POST", f"{path}/redeliver").status_code == 404


def test_a_replay_of_what_failed_counts_first_and_then_sends_each_once(stage):
    made = stage.register()
    stage.happen(3)
    schedule = stage.webhooks_settings.delays_seconds
    stage.receiver.statuses[:] = [500] * 3 * (len(schedule) + 1)
    stage.deliver()
    for attempts, delay in enumerate(schedule, start=2):
        stage.clock.advance(delay)
        while min(each["attempt_count"] for each in stage.listed(made)["data"]) < attempts:
            # the endpoint fails: one probe at a time
            assert stage.deliver()
            stage.clock.advance(MAX_PROBE_PAUSE_SECONDS)
    assert statuses(stage, made) == ["exhausted"] * 3
    since = rfc3339(stage.clock.now() - timedelta(days=30))
    stage.happen(1)
    stage.deliver()
    before = len(stage.sent())
    dry = stage.replay(made, since=since, only="failed", dry_run=True)
    assert (dry.status_code, dry.json) == (202, {"only": "failed", "events": 3, "dry_run": True})
    stage.deliver()
    assert len(stage.sent()) == before
    assert stage.replay(made, since=since, only="failed").json["events"] == 3
    assert stage.replay(made, since=since, only="failed").json["events"] == 0
    stage.deliver()
    assert len(stage.sent()) == before + 3
    assert statuses(stage, made) == ["delivered"] * 4


def test_a_replay_of_what_is_missing_sends_what_came_before_the_endpoint_in_an_unbroken_chain(stage):
    stage.happen(3)
    made = stage.register()
    stage.happen(2)
    stage.deliver()
    assert [each["sequence"] for each in stage.listed(made)["data"]] == [5, 4]
    assert stage.replay(made, only="missing", dry_run=True).json["events"] == 3
    assert stage.replay(made, only="missing").json["events"] == 3
    stage.deliver()
    assert len(stage.sent()) == len(set(stage.sent())) == 5
    assert stage.replay(made, only="missing").json["events"] == 0
    chain = {each["sequence"]: each["previous_sequence"] for each in stage.listed(made)["data"]}
    assert chain == {1: 0, 2: 1, 3: 2, 4: 0, 5: 4}


def test_a_replay_of_all_sends_everything_of_that_time_again(stage):
    stage.happen(1)
    middle = rfc3339(stage.clock.now())
    made = stage.register()
    stage.happen(2)
    stage.deliver()
    assert stage.replay(made, only="all", dry_run=True).json["events"] == 3
    assert stage.replay(made, only="all", until=middle, dry_run=True).json["events"] == 1
    assert stage.replay(made, only="all", since=middle).json["events"] == 2
    stage.deliver()
    assert len(stage.sent()) == 4
    assert len(set(stage.sent())) == 2


@pytest.mark.parametrize(
    "since", ["2026-01-01T00:00:00.123456789Z", "2026-01-01t01:00:00.5+01:00", "2026-01-01t00:00:00z"]
)
def test_a_replay_takes_every_moment_that_a_list_takes(stage, since):
    """Nanoseconds and small letters (RFC 3339 section 5.6) were refused here and taken by created_from."""
    made = stage.register()
    assert stage.replay(made, since=since, until=since.replace("2026", "2027"), only="all").status_code == 202
    listed = stage.call("GET", "/v1/payments", query_string={"created_from": since})
    assert listed.status_code == 200


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"only": "failed"}, "/since"),
        ({"since": "yesterday", "only": "failed"}, "/since"),
        ({"since": "2999-01-01T00:00:00Z", "only": "failed"}, "/since"),
        ({"since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z", "only": "all"}, "/since"),
        ({"since": "2026-01-01T00:00:00Z", "only": "some"}, "/only"),
        ({"since": "2026-01-01T00:00:00Z", "only": "all", "dry_run": "yes"}, "/dry_run"),
        ({"since": "0001-01-01T00:00:00Z", "only": "all"}, None),
    ],
)
def test_what_is_wrong_with_a_replay_is_pointed_at(stage, body, pointer):
    made = stage.register()
    answer = stage.call("POST", f"{PATH}/{made['id']}/replay", json=body)
    assert answer.status_code == (422 if pointer else 202)
    assert [error["pointer"] for error in answer.json.get("errors", [])] == ([pointer] if pointer else [])


def test_a_rotation_is_effective_for_the_very_next_event_and_the_old_secret_signs_beside(stage):
    made = stage.register()
    stage.happen()
    stage.deliver()
    rotated = stage.call("POST", f"{PATH}/{made['id']}/rotate-secret").json
    stage.happen()
    stage.deliver()
    stage.clock.advance(24 * 3600)
    stage.happen()
    stage.deliver()
    before, during, after = stage.receiver.requests
    for request, secrets in (
        (before, [made["secret"]]),
        (during, [rotated["secret"], made["secret"]]),
        (after, [rotated["secret"]]),
    ):
        signatures = [
            Webhook(secret).sign(request.headers["webhook-id"], stage_time(request), request.body.decode())
            for secret in secrets
        ]
        found = request.headers["webhook-signature"].split()
        assert [each for each in found if each.startswith("v1,")] == signatures
        assert len([each for each in found if each.startswith("v1a,")]) == len(secrets)
