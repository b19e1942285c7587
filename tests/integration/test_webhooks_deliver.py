"""Attempts at a delivery: one request per attempt, the schedule kept, nothing lost when a process dies."""

import errno
import json
import socket
import threading
from datetime import timedelta

import pytest
from partner_documents import changed
from pg8000 import InterfaceError
from sqlalchemy import event, text
from standardwebhooks import Webhook, WebhookVerificationError
from waiting import DEADLINE_SECONDS, wait_until
from webhook_stage import OLD_SECRET, SECRET, Stage, endpoint, environment, is_probe

from bridge.errors import TransientError
from bridge.storage import webhook_claims, webhook_sweeps
from bridge.storage.webhook_claims import Pace
from bridge.webhook_endpoint import SigningSecret
from webhooks.record import RecordAttempt
from webhooks.settings import Settings

pytestmark = pytest.mark.integration

PAID = "payment.paid"


@pytest.fixture
def stage(database, tmp_path):
    made = Stage(database, tmp_path)
    yield made
    made.close()


@pytest.fixture
def delivery_due(stage):
    """One event that is due at the receiver; its task waits in the queue."""
    stage.set_endpoints(endpoint(f"{stage.receiver.url}/hooks/7?tenant=a"))
    (event_id,) = stage.publish(PAID)
    assert stage.ring() == 204
    return event_id


def only(rows):
    (row,) = rows
    return row


def signed_by(secret, request, moment):
    """What the library makes of the request's bytes, for attempts that lie in the library's future."""
    sign = Webhook(secret).sign(
        request.headers["webhook-id"], moment.replace(microsecond=0), request.body.decode()
    )
    return sign in request.headers["webhook-signature"].split(" ")


def test_a_webhook_arrives_verifiable_and_is_delivered(stage, delivery_due):
    assert stage.run_tasks() == 1
    request = only(stage.receiver.requests)
    assert (request.method, request.path) == ("POST", "/hooks/7?tenant=a")
    body = Webhook(SECRET).verify(request.body, request.headers)
    assert request.headers["webhook-id"] == delivery_due == body["id"]
    payment_id = body["data"]["payment"]["id"]
    assert body == {
        "id": delivery_due,
        "sequence": 1,
        "previous_sequence": 0,
        "type": PAID,
        "timestamp": stage.now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "data": {"payment": {"id": payment_id, "status": "accepted", "amount": {"value": "1250.00"}}},
    }
    assert request.headers["Content-Type"] == "application/json"
    delivery = only(stage.deliveries())
    assert (delivery.status, delivery.attempts, delivery.delivered_at) == ("delivered", 1, stage.now())
    assert (delivery.next_attempt_at, delivery.lease_until) == (None, None)
    attempt = only(stage.attempts())
    assert (attempt.attempt_number, attempt.response_status, attempt.error_class) == (1, 200, None)


def test_an_attempt_that_this_process_could_not_send_was_held_against_the_receiver(
    stage, delivery_due, monkeypatch
):
    connecting = socket.create_connection
    receiver_port = int(stage.receiver.url.rpartition(":")[2])

    def without_descriptors(address, **options):
        if address[1] == receiver_port:
            raise OSError(errno.EMFILE, "Too many open files")
        return connecting(address, **options)

    monkeypatch.setattr(socket, "create_connection", without_descriptors)
    task = only(stage.queue.waiting)
    assert stage.take(task) == 503
    delivery = only(stage.deliveries())
    assert (delivery.status, delivery.attempts, delivery.lease_until) == ("pending", 0, None)
    assert stage.attempts() == []
    monkeypatch.undo()
    assert stage.take(task) == 204
    assert only(stage.deliveries()).status == "delivered"


def test_a_body_that_was_changed_on_the_way_does_not_verify(stage, delivery_due):
    stage.run_tasks()
    request = only(stage.receiver.requests)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(request.body.replace(b"1250", b"9999"), request.headers)


def test_every_secret_of_a_rotation_signs(stage):
    stage.set_endpoints(endpoint(stage.receiver.url, SECRET, OLD_SECRET))
    stage.publish(PAID)
    stage.ring()
    stage.run_tasks()
    request = only(stage.receiver.requests)
    Webhook(SECRET).verify(request.body, request.headers)
    Webhook(OLD_SECRET).verify(request.body, request.headers)


def test_n_failures_are_n_plus_one_attempts_at_the_scheduled_times_and_then_it_is_exhausted(
    stage, delivery_due
):
    delays = stage.settings.delays_seconds
    stage.receiver.statuses[:] = [500] * 100
    moments = []
    for delay in (0.0, *delays):
        if delay:
            stage.clock.advance(delay - 3)
            assert stage.run_tasks() == 0, "before its time"
            stage.clock.advance(3)
        assert stage.run_tasks() == 1
        moments.append(stage.now())
    assert all(is_probe(task) for task in stage.queue.waiting)
    delivery = only(stage.deliveries())
    assert (delivery.status, delivery.attempts) == ("exhausted", len(delays) + 1)
    assert delivery.next_attempt_at is None
    assert [attempt.started_at for attempt in stage.attempts()] == moments
    assert {attempt.error_class for attempt in stage.attempts()} == {"http-status"}
    requests = stage.receiver.requests
    assert len(requests) == len(delays) + 1 == 10
    assert {request.body for request in requests} == {requests[0].body}
    assert {request.headers["webhook-id"] for request in requests} == {delivery_due}
    assert [int(request.headers["webhook-timestamp"]) for request in requests] == [
        int(moment.timestamp()) for moment in moments
    ]
    assert all(signed_by(SECRET, request, moment) for request, moment in zip(requests, moments, strict=True))


def test_a_failure_then_a_success_is_delivered_by_the_second_attempt(stage, delivery_due):
    stage.receiver.statuses[:] = [503]
    stage.run_tasks()
    assert only(stage.deliveries()).status == "pending"
    stage.clock.advance(5)
    stage.run_tasks()
    delivery = only(stage.deliveries())
    assert (delivery.status, delivery.attempts) == ("delivered", 2)


def test_the_next_attempt_is_jittered(stage, delivery_due):
    stage.spread = 1.0
    stage.receiver.statuses[:] = [500]
    stage.run_tasks()
    assert stage.seconds_until(only(stage.deliveries()).next_attempt_at) == 5.5
    assert stage.seconds_until(only(stage.queue.waiting).at) == 5.5


@pytest.mark.parametrize(("asked", "seconds"), [("8", 8.0), ("86400", 10.0)])
def test_a_retry_after_is_honoured_within_the_delay_and_twice_the_delay(stage, delivery_due, asked, seconds):
    stage.receiver.statuses[:] = [503]
    stage.receiver.answer_headers["Retry-After"] = asked
    stage.run_tasks()
    assert stage.seconds_until(only(stage.deliveries()).next_attempt_at) == seconds


@pytest.mark.parametrize("status", [302, 404])
def test_what_is_not_2xx_is_a_failure_and_no_redirect_is_followed(stage, delivery_due, status):
    stage.receiver.statuses[:] = [status]
    stage.receiver.answer_headers["Location"] = f"{stage.receiver.url}/elsewhere"
    stage.run_tasks()
    attempt = only(stage.attempts())
    assert (attempt.response_status, attempt.error_class) == (status, "http-status")
    assert len(stage.receiver.requests) == 1


def test_a_task_that_comes_twice_at_once_sends_once(stage, delivery_due):
    task = only(stage.queue.waiting)
    stage.receiver.gate.clear()
    answers = []
    thread = threading.Thread(target=lambda: answers.append(stage.take(task)))
    thread.start()
    wait_until(lambda: stage.receiver.requests)
    assert stage.take(task) == 204  # while the first one is at it
    stage.receiver.gate.set()
    thread.join(DEADLINE_SECONDS)
    assert stage.take(task) == 204  # when it is over
    assert answers == [204]
    assert len(stage.receiver.requests) == 1
    assert only(stage.deliveries()).attempts == 1


def test_tasks_that_race_for_an_attempt_send_once(stage, delivery_due):
    task = only(stage.queue.waiting)
    barrier = threading.Barrier(6)

    def race():
        barrier.wait(DEADLINE_SECONDS)
        assert stage.take(task) == 204

    threads = [threading.Thread(target=race) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert len(stage.receiver.requests) == 1
    assert len(stage.attempts()) == 1


class Killed(BaseException):
    """The process is gone here."""


def raising(error):
    def fail(*_arguments):
        raise error

    return fail


def fail_at(engine, words, error):
    """Raise `error` at the statement with these words, until the returned function is called."""

    def fail(_connection, _cursor, statement, *_rest):
        if words in statement:
            raise error

    event.listen(engine, "before_cursor_execute", fail)
    return lambda: event.remove(engine, "before_cursor_execute", fail)


def test_a_process_that_dies_before_the_record_has_the_same_attempt_made_again(
    stage, delivery_due, monkeypatch
):
    task = only(stage.queue.waiting)
    with monkeypatch.context() as dying:
        dying.setattr(RecordAttempt, "__call__", raising(Killed()))
        with pytest.raises(Killed):
            stage.take(task)
    assert len(stage.receiver.requests) == 1
    # Cloud Tasks repeats the task at once: the lease of the dead still stands
    assert stage.run_tasks() == 1
    stage.outlive_the_grace()
    stage.outlive_the_lease()
    stage.instance.sweeper.sweep()
    assert stage.run_tasks() == 1
    first, second = stage.receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == delivery_due
    assert first.body == second.body
    delivery = only(stage.deliveries())
    assert (delivery.status, delivery.attempts) == ("delivered", 1)


def test_a_claim_that_was_taken_over_records_nothing(stage, delivery_due):
    task = only(stage.queue.waiting)
    stage.receiver.gate.clear()
    slow = threading.Thread(target=lambda: stage.take(task))
    slow.start()
    wait_until(lambda: stage.receiver.requests)
    stage.outlive_the_lease()
    with stage.engine.begin() as connection:  # another process takes over and is at it
        delivery = only(stage.deliveries())
        assert webhook_claims.claim_attempt(
            connection,
            delivery.endpoint_id,
            delivery.delivery_id,
            1,
            pace=Pace(per_second=100, ahead_seconds=30, late_seconds=2),
            now=stage.now(),
            due_by=stage.now(),
            lease_until=stage.now() + timedelta(seconds=30),
        )
    stage.receiver.gate.set()
    slow.join(DEADLINE_SECONDS)
    assert stage.attempts() == []
    delivery = only(stage.deliveries())
    assert (delivery.status, delivery.attempts) == ("pending", 0)
    assert stage.seconds_until(delivery.lease_until) == 30


def test_a_task_that_comes_too_early_sends_nothing(stage, delivery_due):
    stage.receiver.statuses[:] = [500]
    stage.run_tasks()
    task = only(stage.queue.waiting)
    stage.clock.advance(2)
    assert stage.take(task) == 204
    assert len(stage.receiver.requests) == 1
    stage.clock.advance(1.5)  # a second and a half too early: the clocks of two machines
    assert stage.take(task) == 204
    assert len(stage.receiver.requests) == 2


def test_a_crash_between_fan_out_and_task_is_made_up_for_by_the_sweeper(stage):
    stage.set_endpoints(endpoint(stage.receiver.url))
    stage.queue.failure = TransientError("away")
    stage.publish(PAID)
    assert stage.ring() == 204
    stage.queue.failure = None
    stage.instance.sweeper.sweep()
    assert stage.queue.waiting == [], "its task may only be late"
    stage.outlive_the_grace()
    stage.instance.sweeper.sweep()
    assert stage.run_tasks() == 1
    assert only(stage.deliveries()).status == "delivered"


def test_a_next_task_that_could_not_be_made_is_made_by_the_sweeper(stage, delivery_due):
    stage.receiver.statuses[:] = [500]

    def lose_the_next(task):
        stage.queue.failure = TransientError("away")
        return stage.take(task)

    stage.queue.run_due(lose_the_next)
    stage.queue.failure = None
    assert stage.queue.waiting == []
    stage.clock.advance(5)
    stage.outlive_the_grace()
    stage.instance.sweeper.sweep()
    stage.run_tasks()
    assert only(stage.deliveries()).status == "delivered"


def test_a_sweep_gives_a_vanished_task_another_name_and_waits_longer_each_time(stage, delivery_due):
    grace = stage.settings.sweep_grace_seconds
    swept_after = []
    names = {task.name for task in stage.queue.waiting}
    for second in range(1, int(grace * 5)):
        stage.clock.advance(1)
        stage.queue.waiting.clear()  # vanished
        stage.instance.sweeper.sweep()
        swept_after += [second for _ in stage.queue.waiting]
        names |= {task.name for task in stage.queue.waiting}
    assert swept_after == [grace, 2 * grace, 4 * grace]
    assert len(names) == 4


def test_a_sweep_leaves_a_running_attempt_alone(stage, delivery_due):
    task = only(stage.queue.waiting)
    stage.outlive_the_grace()
    stage.receiver.gate.clear()
    thread = threading.Thread(target=lambda: stage.take(task))
    thread.start()
    wait_until(lambda: stage.receiver.requests)
    stage.queue.waiting.clear()
    stage.instance.sweeper.sweep()
    assert stage.queue.waiting == []
    stage.receiver.gate.set()
    thread.join(DEADLINE_SECONDS)
    assert only(stage.deliveries()).status == "delivered"


def test_two_sweepers_at_once_take_different_deliveries(stage):
    stage.set_endpoints(endpoint(stage.receiver.url))
    stage.publish(*[PAID] * 6)
    stage.ring()
    stage.outlive_the_grace()

    def take(connection):
        found = webhook_sweeps.take_overdue(
            connection, now=stage.now(), grace_seconds=1, longest_wait_seconds=60, limit=4
        )
        return {delivery.delivery_id for delivery in found}

    with stage.engine.begin() as first, stage.engine.begin() as second:
        second.execute(text("SET LOCAL lock_timeout = '5s'"))
        mine, theirs = take(first), take(second)
    assert (len(mine), len(theirs)) == (4, 2)
    assert not mine & theirs


def test_a_delivery_of_an_endpoint_disabled_meanwhile_is_held_without_a_request(stage, delivery_due):
    stage.disable(only(stage.partner.webhook_endpoints))
    stage.run_tasks()
    assert only(stage.deliveries()).status == "held"
    assert stage.receiver.requests == []


def test_a_suspended_partner_is_still_told(stage, delivery_due):
    before = stage.partner
    stage.store.put(changed(before, status="suspended"), before.version)
    stage.outlive_the_cache()
    stage.run_tasks()
    assert only(stage.deliveries()).status == "delivered"


def test_an_address_that_is_not_allowed_gets_nothing_and_counts_as_a_failure(stage):
    stage.set_endpoints(
        endpoint("https://10.0.0.1/hooks"),
        endpoint(stage.receiver.url.replace("127.0.0.1", "192.168.0.1")),
        endpoint("https://user:secret@partner.example/hooks"),
    )
    stage.publish(PAID)
    stage.ring()
    stage.run_tasks()
    assert sorted(attempt.error_class for attempt in stage.attempts()) == [
        "forbidden-address",
        "forbidden-url",
        "forbidden-url",
    ]
    assert {delivery.status for delivery in stage.deliveries()} == {"pending"}


def test_a_secret_that_does_not_decrypt_is_a_failure_that_keeps_the_schedule(stage):
    broken = endpoint(stage.receiver.url).model_copy(
        update={"secrets": (SigningSecret(encrypted="k0:AAAA"),)}
    )
    stage.set_endpoints(broken)
    stage.publish(PAID)
    stage.ring()
    stage.run_tasks()
    assert only(stage.attempts()).error_class == "unsignable"
    assert stage.receiver.requests == []
    assert only(stage.deliveries()).status == "pending"


def test_a_receiver_that_is_away_is_a_failure(stage):
    stage.set_endpoints(endpoint("http://127.0.0.1:1/hooks"))
    stage.publish(PAID)
    stage.ring()
    stage.run_tasks()
    assert only(stage.attempts()).error_class == "connection-failed"


def test_a_task_for_another_attempt_is_over_without_sending(stage, delivery_due):
    delivery_id = only(stage.deliveries()).delivery_id
    for attempt, status in ((0, 400), (2, 204), (11, 204)):
        payload = {"delivery_id": delivery_id, "attempt": attempt}
        assert stage.client.post("/tasks/deliveries", json=payload).status_code == status
    assert stage.receiver.requests == []


def test_a_task_for_a_delivery_that_a_restore_has_lost_is_over(stage):
    answer = stage.client.post("/tasks/deliveries", json={"delivery_id": "dlv_x", "attempt": 1})
    assert answer.status_code == 204


def test_a_task_that_is_none_of_ours_is_refused(stage):
    for body in (b"", b"no json", b"[]", b"{}", b'{"delivery_id": 1, "attempt": 1}', b"x" * 20_000):
        assert stage.client.post("/tasks/deliveries", data=body).status_code in (400, 413)


def test_a_task_comes_again_while_no_configuration_can_be_had(stage, delivery_due):
    stage.instance = stage.new_instance()
    stage.rows("DELETE FROM partner_configs RETURNING 1")
    stage.store.failure = TransientError("away")
    assert stage.run_tasks() == 0
    stage.store.failure = None
    stage.clock.advance(6)
    wait_until(stage.run_tasks)
    assert only(stage.deliveries()).status == "delivered"


def test_without_a_token_nobody_may_call(stage, delivery_due, tmp_path):
    stage.settings = Settings.from_environment(
        environment(
            tmp_path,
            PUSH_AUTHENTICATION="oidc",
            PUSH_AUDIENCE="https://webhooks.example",
            PUSH_CALLERS="pubsub@project.iam.gserviceaccount.com",
            TASK_SERVICE_ACCOUNT="tasks@project.iam.gserviceaccount.com",
        )
    )
    assert stage.run_tasks() == 0
    assert stage.ring() == 401
    assert stage.client.post("/tasks/deliveries", json={}).status_code == 401


def test_requests_sweep_too_because_an_idle_process_may_get_no_time(stage, delivery_due):
    stage.publish(PAID)  # nobody rings for it
    stage.clock.advance(stage.settings.sweep_seconds + 1)
    stage.run_tasks()
    assert len(stage.deliveries()) == 2


def test_a_sweep_waits_once_for_a_queue_that_is_away_not_once_per_partner(stage):
    stage.set_endpoints(endpoint(stage.receiver.url), endpoint(stage.receiver.url))
    stage.publish(PAID)
    calls = []

    def away(*_arguments):
        calls.append(1)
        raise TransientError("away")

    stage.queue.schedule = away
    stage.instance.sweeper.sweep()
    assert len(calls) == 1
    assert len(stage.deliveries()) == 2


def test_a_sweep_that_fails_does_not_fail_the_request_it_came_with(stage, delivery_due):
    stage.clock.advance(stage.settings.sweep_seconds + 1)
    revive = fail_at(stage.engine, "deliveries whose task", RuntimeError("broken"))
    assert stage.run_tasks() == 1
    revive()
    assert only(stage.deliveries()).status == "delivered"


def test_a_task_carries_ids_only(stage, delivery_due):
    delivery = only(stage.deliveries())
    assert json.loads(only(stage.queue.waiting).payload) == {
        "delivery_id": delivery.delivery_id,
        "attempt": 1,
    }


def test_ready_means_that_the_database_answers(stage):
    assert stage.client.get("/readyz").status_code == 200


def test_a_record_that_the_database_did_not_take_waited_out_its_lease(stage, delivery_due):
    """The database was away for a moment when the answer had come."""
    stage.receiver.gate.clear()
    answers = []
    thread = threading.Thread(target=lambda: answers.append(stage.run_tasks()))
    thread.start()
    wait_until(lambda: stage.receiver.requests)
    # as a failover does: every connection of the service is dead when it wants to record
    with stage.owner.begin() as connection:
        ended = connection.execute(
            text(
                "SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE usename LIKE :name AND datname = current_database()) AS backends"
            ),
            {"name": f"%{stage.engine.url.username}%"},
        ).scalar_one()
    stage.receiver.gate.set()
    thread.join(DEADLINE_SECONDS)
    assert ended >= 1
    assert answers == [1]
    assert only(stage.deliveries()).status == "delivered"
    assert len(stage.receiver.requests) == 1
    assert len(stage.attempts()) == 1


def test_a_record_whose_commit_was_not_answered_is_not_made_twice(stage, delivery_due):
    stage.receiver.statuses[:] = [500]
    lost = []

    stage.attempts_of_open_transaction = False

    def notice(_connection, _cursor, statement, *_rest):
        if "what the attempt came to" in statement:
            stage.attempts_of_open_transaction = True

    event.listen(stage.engine, "after_cursor_execute", notice)
    commit = stage.engine.dialect.do_commit

    def commit_and_lose(connection):
        commit(connection)
        if stage.attempts_of_open_transaction and not lost:
            lost.append(1)
            raise InterfaceError("network error")

    stage.engine.dialect.do_commit = commit_and_lose
    assert stage.run_tasks() == 1
    stage.engine.dialect.do_commit = commit
    assert lost
    assert len(stage.attempts()) == 1
    delivery = only(stage.deliveries())
    assert (delivery.status, delivery.attempts) == ("pending", 1)
    assert len(stage.queue.waiting) == 1, "its next attempt has its task"


def test_an_endpoint_without_room_lets_its_attempts_wait_and_goes_on_by_itself(stage):
    stage.set_endpoints(endpoint(stage.receiver.url))
    stage.publish(*[PAID] * 4)
    stage.ring()
    stage.receiver.gate.clear()
    first, *others = list(stage.queue.waiting)
    thread = threading.Thread(target=lambda: stage.take(first))
    thread.start()
    wait_until(lambda: stage.receiver.requests)
    for task in others:
        assert stage.take(task) == 204
    stage.queue.waiting.clear()
    assert len(stage.receiver.requests) == 1
    assert [row.task for row in stage.deliveries()] == ["made", "waiting", "waiting", "waiting"]
    stage.receiver.gate.set()
    thread.join(DEADLINE_SECONDS)
    while stage.run_tasks():
        pass
    assert {row.status for row in stage.deliveries()} == {"delivered"}
    assert len(stage.receiver.requests) == 4


def test_attempts_that_wait_for_a_process_that_died_are_taken_up_by_the_sweeper(stage, delivery_due):
    late = only(stage.deliveries())
    with stage.engine.begin() as connection:
        assert webhook_claims.let_wait(connection, late.delivery_id, 1, now=stage.now(), due_by=stage.now())
    stage.queue.waiting.clear()
    stage.outlive_the_grace()
    stage.instance.sweeper.sweep()
    assert stage.run_tasks() == 1
    assert only(stage.deliveries()).status == "delivered"
