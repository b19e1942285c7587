"""Every alert on what the bridge tells fires in a running stack in which what it is about has come about.

The conditions are those of terraform/alerts.yaml, on the Prometheus text of the processes and on their log
lines. Their durations are shortened 60 times (a minute is a second), that of unknown outcomes 180 times (an
hour is 20 s): thresholds in seconds, how long a condition has to last, ranges. Google's own metrics exist at
Google only.
"""

import contextlib
import secrets
import time

import alert_conditions
import grpc
import pytest
import requests
from google.api_core.exceptions import GoogleAPICallError
from google.pubsub_v1 import PublisherClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from local_stack import private_stack, stopped
from sqlalchemy import text
from waiting import DEADLINE_SECONDS, wait_until
from wrong_clocks import SKEWED, set_clock

from bridge.messages import EVENTS_TOPIC, dead_letter_topic
from devstack import kept_mark
from devstack.evidence import open_database
from devstack.layout import MEASURED, PROJECT_ID
from devstack.running_stack import RunningStack

pytestmark = [pytest.mark.e2e, pytest.mark.plants_faults]

SPEED = 60.0
SPEEDS = {"unknown-outcomes": 180.0}
# the demo's guard opens a lane after three different operations
PAYMENTS_THAT_FAIL = 4
QUIET_SECONDS = 3.0
# far above the stack's SAP_READ_LAG_SECONDS, 1 s
READ_LAG_MS = 60_000
PARKING = "SBX-NOT-AUTHORIZED"
PERSONAL = ("Vorbrugg", "DE89370400440532013000", PARKING)


@pytest.fixture(scope="module")
def stack():
    """A stack of our own: nobody else's test meets what is stopped and broken here."""
    with private_stack(SKEWED) as running:
        yield running


@pytest.fixture(scope="module")
def watch(stack):
    ports = {service: stack.layout.ports[f"{service}_metrics"] for service in MEASURED}
    conditions = [
        alert_conditions.Condition(name, alert, SPEEDS.get(name, SPEED))
        for name, alert in alert_conditions.ours().items()
    ]
    watching = alert_conditions.Watch(ports, stack.layout.logs_folder, conditions)
    yield watching
    watching.close()


def pay(stack, partner="partner", text="Invoice"):
    body = {
        "external_id": f"A-{secrets.token_hex(6)}",
        "amount": {"value": "3.00", "currency": "EUR"},
        "capture": "automatic",
        "debtor": {"name": "Ottilie Vorbrugg", "account": {"iban": "DE89370400440532013000"}},
        "remittance_information": text,
    }
    answer = stack.pay(stack.token(partner), secrets.token_hex(8), body)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def wait_until_paid_and_told(stack, payment_id):
    def is_done():
        told = [webhook["type"] for webhook in stack.received() if webhook["payment_id"] == payment_id]
        return {"payment.accepted", "payment.paid"} <= set(told)

    wait_until(is_done, what="the payment's webhooks")


def receiver_answers(stack, status):
    url = stack.layout.url("receiver") + "/_control"
    requests.put(url, json={"status": status}, timeout=DEADLINE_SECONDS).raise_for_status()


def send_what_nobody_can_read(stack):
    with grpc.insecure_channel(stack.layout.address("pubsub")) as channel:
        client = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        topic = f"projects/{PROJECT_ID}/topics/{dead_letter_topic(EVENTS_TOPIC)}"
        with contextlib.suppress(GoogleAPICallError):  # it is sent again then
            client.publish(topic=topic, messages=[{"data": b"not ours", "attributes": {}}], timeout=10)


def delete_the_document(stack, partner):
    partner_id = stack.document[partner]["id"]
    documents = f"/v1/projects/{PROJECT_ID}/databases/(default)/documents/partners/{partner_id}"
    headers = {"Authorization": "Bearer owner"}
    requests.delete(
        stack.layout.url("firestore") + documents, headers=headers, timeout=DEADLINE_SECONDS
    ).raise_for_status()


def move_the_mark_far_ahead(stack):
    """Leave the mark of a database that is newer than ours."""
    url = stack.layout.url("firestore") + kept_mark.DOCUMENT_PATH
    fields = requests.get(url, timeout=DEADLINE_SECONDS).json()["fields"]
    fields["serial"]["integerValue"] = str(int(fields["serial"]["integerValue"]) + 1000)
    fields["token"]["stringValue"] = "another"
    requests.patch(url, json={"fields": fields}, timeout=DEADLINE_SECONDS).raise_for_status()


def test_what_is_told_is_what_is_listed_and_alerts_fire_when_they_should_and_not_before(stack, watch):
    # --- all is well --------------------------------------------------------------------------------------
    wait_until_paid_and_told(stack, pay(stack))
    until = time.monotonic() + QUIET_SECONDS
    wait_until(lambda: watch.tellings and watch.tellings[-1].at >= until, what="what is told")
    assert_all_that_is_listed_is_told_and_nothing_else(watch)
    assert watch.firing == set()
    watch.fired.clear()

    # --- and then it is not -------------------------------------------------------------------------------
    show_documents_late(stack, watch)
    delete_the_document(stack, "second_partner")
    send_what_nobody_can_read(stack)
    parked = pay(stack, text=PARKING)
    wait_until(lambda: is_parked(stack, parked), what="the parked operation")
    receiver_answers(stack, 410)
    pay(stack)
    set_clock(stack, "gateway", 30.0)
    with stopped(stack, "firestore"):
        expect(watch, {"dead-letters", "parked", "webhook-exhausted", "clock-wrong", "mark-not-written"})
    skip_a_number(stack)
    stack.sap("PUT", "/_control/faults", json={"mode": "down"})
    for _ in range(PAYMENTS_THAT_FAIL):
        pay(stack)
    wait_until(lambda: lanes_state(stack) == "closed", what="the closed lane")
    quiet = {"lane-closed", "outbox-age", "feed-lag", "webhook-age", "state-not-told", "work-keeps-failing"}
    assert not watch.fired & quiet
    leave_a_document_unplaced(stack)
    give_a_number_twice(stack)
    pay(stack)
    expect(watch, {"work-keeps-failing"})
    everything = set(alert_conditions.ours()) - {"database-put-back"}
    with overdue_delivery(stack), stopped(stack, "dispatcher"):
        pay(stack, "second_partner")
        expect(watch, everything - {"state-not-told", "clock-uncertain"})
        assert not watch.fired & {"state-not-told", "clock-uncertain"}
        with stopped(stack, "backoffice"), stopped(stack, "postgres"):
            # the gateway can't tell any more whether its own clock has jumped or the machine stood still
            set_clock(stack, "gateway", -30.0)
            expect(watch, everything)
    move_the_mark_far_ahead(stack)
    expect(watch, {"database-put-back"})


def show_documents_late(stack, watch):
    """Let SAP show documents late until a measurement, which is rare, has met one."""
    stack.sap("PUT", "/_control/faults", json={"read_lag_ms": READ_LAG_MS})
    wait_until(
        lambda: pay(stack) and "read-lag" in watch.fired,
        poll_seconds=1.0,
        what="the read lag is measured",
    )
    stack.sap("PUT", "/_control/faults", json={})


def leave_a_document_unplaced(stack):
    """A recovery has finished and left a document of SAP that no payment has."""
    with open_database(RunningStack.read(stack.layout.stack_file)).begin() as connection:
        connection.execute(
            text("""
                WITH recovery AS (
                    INSERT INTO recoveries (recovery_id, since, reads_since, started_by, system_identifier,
                                            timeline_id, begun_start, begun_table, started_at, updated_at,
                                            finished_at)
                    VALUES ('rec_1', now(), now(), 'nobody', 1, 1, now(), 1, now(), now(), now())
                    RETURNING recovery_id
                )
                INSERT INTO unplaced_documents (sap_system, company_code, fiscal_year, document_number,
                                                recovery_id, sap_reference, reason)
                SELECT min(sap_system), '1000', '2026', '1400000000', min(recovery_id), 'PPB1', 'unreadable'
                FROM recovery CROSS JOIN sap_systems
            """)
        )


def skip_a_number(stack):
    """The partner's next event gets a number above the one that is due: its feed has a hole then."""
    with open_database(RunningStack.read(stack.layout.stack_file)).begin() as connection:
        changed = connection.execute(
            text("UPDATE feed_counters SET last_sequence = last_sequence + 1 WHERE partner_id = :partner_id"),
            {"partner_id": stack.document["partner"]["id"]},
        )
        assert changed.rowcount == 1


def give_a_number_twice(stack):
    """The partner's next event would get the number of another one, and so gets none at all."""
    with open_database(RunningStack.read(stack.layout.stack_file)).begin() as connection:
        changed = connection.execute(
            text("UPDATE feed_counters SET last_sequence = last_sequence - 1 WHERE partner_id = :partner_id"),
            {"partner_id": stack.document["partner"]["id"]},
        )
        assert changed.rowcount == 1


def expect(watch, names):
    try:
        wait_until(
            lambda: names <= watch.fired,
            poll_seconds=alert_conditions.SCRAPE_INTERVAL_SECONDS,
        )
    except AssertionError as error:
        raise AssertionError(f"these have not fired: {sorted(names - watch.fired)}") from error


@contextlib.contextmanager
def overdue_delivery(stack):
    """The second partner's receiver fails, and before the next attempt nobody makes attempts any more."""
    receiver_answers(stack, 500)
    before = len(stack.received())
    pay(stack, "second_partner")
    wait_until(lambda: len(stack.received()) > before, what="a failed attempt")
    with stopped(stack, "webhooks"):
        yield


def is_parked(stack, payment_id):
    return stack.payment(stack.token(), payment_id)["operations"][0]["status"] == "parked"


def lanes_state(stack):
    answer = requests.get(
        stack.layout.url("backoffice") + "/admin/status",
        headers={"X-Operator": "olga"},
        timeout=DEADLINE_SECONDS,
    )
    return next(lane["state"] for lane in answer.json()["lanes"] if lane["sap_system"] == "s4-main")


def assert_all_that_is_listed_is_told_and_nothing_else(watch):
    listed = alert_conditions.listed_series()
    told = {
        (name, labels)
        for telling in watch.tellings
        for name, series in telling.values.items()
        for labels in series
        if not name.startswith(alert_conditions.USER_METRIC)
    }
    assert {name for name, _ in told} == set(listed)
    for name, labels in told:
        assert dict(labels).keys() - {"job"} <= listed[name], name
        assert not any(word in str(labels) for word in PERSONAL), name
