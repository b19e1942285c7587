"""The demo partner's receiver without a network: signatures, secrets, what it makes of a body."""

import json
import os
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from devstack.receiver.app import create_app, is_verified, read_delivery
from devstack.receiver.secrets_file import SecretsFile, SecretsFileError, read_verifiers

pytestmark = pytest.mark.unit

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
BODY = b'{"type": "payment.paid"}'


def signed(body=BODY, secret=SECRET, webhook_id="evt_1", at=None):
    moment = at or datetime.now(UTC)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(secret).sign(webhook_id, moment, body.decode()),
    }


@pytest.fixture
def secrets(tmp_path):
    path = tmp_path / "secrets.json"
    path.write_text(json.dumps({"par_1": SECRET}))
    return SecretsFile(path)


def rewrite(path, text):
    """Write and move the clock of the file on, as coarse file systems may not have done."""
    path.write_text(text)
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))


def test_a_true_signature_is_verified(secrets):
    assert is_verified(secrets, "par_1", BODY, signed())


def test_one_true_signature_among_several_is_enough(secrets):
    headers = signed(secret=OTHER_SECRET)
    headers["webhook-signature"] += " v1a,AAAA " + signed()["webhook-signature"]
    assert is_verified(secrets, "par_1", BODY, headers)


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": "evt_2"},
        {"webhook-timestamp": "1"},
        {"webhook-timestamp": "nan"},
        {"webhook-timestamp": "soon"},
        {"webhook-signature": ""},
        {"webhook-signature": "v1"},
        {"webhook-signature": "v1,not base64"},
        {"webhook-signature": "v1,a,b"},
        {"webhook-signature": "v1,AAAA"},
    ],
)
def test_a_wrong_header_is_not_verified(secrets, change):
    assert not is_verified(secrets, "par_1", BODY, {**signed(), **change})


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_missing_header_is_not_verified(secrets, missing):
    headers = signed()
    del headers[missing]
    assert not is_verified(secrets, "par_1", BODY, headers)


def test_another_body_secret_partner_or_age_is_not_verified(secrets):
    assert not is_verified(secrets, "par_1", BODY + b" ", signed())
    assert not is_verified(secrets, "par_1", b"\xff\xfe", signed())
    assert not is_verified(secrets, "par_1", BODY, signed(secret=OTHER_SECRET))
    assert not is_verified(secrets, "par_2", BODY, signed())
    assert not is_verified(secrets, "par_1", BODY, signed(at=datetime.now(UTC) - timedelta(minutes=6)))


def test_secrets_are_read_again_when_the_file_changes(tmp_path):
    path = tmp_path / "secrets.json"
    secrets = SecretsFile(path)
    assert secrets.verifier("par_1") is None
    rewrite(path, json.dumps({"par_1": OTHER_SECRET}))
    assert not is_verified(secrets, "par_1", BODY, signed())
    rewrite(path, json.dumps({"par_1": SECRET}))
    assert is_verified(secrets, "par_1", BODY, signed())
    path.unlink()
    assert secrets.verifier("par_1") is None


def test_a_spoiled_file_leaves_the_last_good_secrets(tmp_path):
    path = tmp_path / "secrets.json"
    rewrite(path, json.dumps({"par_1": SECRET}))
    secrets = SecretsFile(path)
    assert is_verified(secrets, "par_1", BODY, signed())
    rewrite(path, "{half a fi")
    assert is_verified(secrets, "par_1", BODY, signed())


@pytest.mark.parametrize(
    "text", ["", "[]", '{"par_1": ""}', '{"par_1": 5}', '{"par_1": "whsec_?"}', '{"par_1": null}']
)
def test_a_wrong_secrets_file_is_refused_without_showing_secrets(tmp_path, text):
    path = tmp_path / "secrets.json"
    path.write_text(text)
    with pytest.raises(SecretsFileError) as raised:
        read_verifiers(path)
    assert "?" not in str(raised.value)


def test_the_parts_of_an_event_are_read():
    event = {
        "id": "evt_1",
        "sequence": 42,
        "previous_sequence": 40,
        "type": "payment.paid",
        "data": {"payment": {"id": "pay_1", "status": "paid"}},
    }
    delivery = read_delivery("par_1", json.dumps(event).encode(), "evt_1", verified=True)
    assert (delivery.id, delivery.partner_id, delivery.type) == ("evt_1", "par_1", "payment.paid")
    assert (delivery.payment_id, delivery.sequence, delivery.previous_sequence) == ("pay_1", 42, 40)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "data", "payment", "id", "sequence"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.binary(max_size=40) | json_values.map(lambda value: json.dumps(value).encode()))
def test_no_body_is_too_strange_to_record(body):
    delivery = read_delivery("par_1", body, None, verified=False)
    assert delivery.type is None or isinstance(delivery.type, str)
    assert delivery.payment_id is None or isinstance(delivery.payment_id, str)
    for number in (delivery.sequence, delivery.previous_sequence):
        assert number is None or -(2**63) < number < 2**63


@pytest.fixture
def client(tmp_path):
    path = tmp_path / "secrets.json"
    path.write_text(json.dumps({"par_1": SECRET, "par_2": OTHER_SECRET}))
    return create_app(tmp_path / "data.sqlite", path).test_client()


def event_body(payment_id="pay_1", sequence=1):
    event = {"type": "payment.paid", "sequence": sequence, "data": {"payment": {"id": payment_id}}}
    return json.dumps(event).encode()


def post(client, body=None, webhook_id="evt_1", partner_id="par_1", secret=SECRET):
    data = event_body() if body is None else body
    return client.post(
        f"/webhooks/{partner_id}", data=data, headers=signed(data, secret, webhook_id)
    ).status_code


def test_what_was_received_is_listed_in_order(client):
    assert post(client, event_body("pay_1", 1), "evt_1") == 200
    assert post(client, event_body("pay_2", 2), "evt_2", "par_2", OTHER_SECRET) == 200
    first, second = client.get("/_received").json
    received_at = first.pop("received_at")
    assert received_at.endswith("Z")
    assert len(received_at) == len("2026-01-01T00:00:00.000Z")
    assert first == {
        "id": "evt_1",
        "type": "payment.paid",
        "payment_id": "pay_1",
        "verified": True,
        "partner_id": "par_1",
        "sequence": 1,
        "previous_sequence": None,
        "attempt_number_seen": 1,
        "answered": 200,
    }
    assert (second["id"], second["partner_id"]) == ("evt_2", "par_2")


def test_a_forged_webhook_is_answered_401_and_recorded_unverified(client):
    assert post(client, secret=OTHER_SECRET) == 401
    (row,) = client.get("/_received").json
    assert (row["id"], row["verified"], row["answered"]) == ("evt_1", False, 401)


def test_the_list_can_be_filtered(client):
    for number, payment in enumerate(["pay_1", "pay_2", "pay_2"]):
        post(client, event_body(payment), f"evt_{number}")
    post(client, event_body("pay_2"), "evt_9", "par_2", OTHER_SECRET)

    def ids(**query):
        return [row["id"] for row in client.get("/_received", query_string=query).json]

    assert ids(payment_id="pay_2") == ["evt_1", "evt_2", "evt_9"]
    assert ids(payment_id="pay_2", partner_id="par_1") == ["evt_1", "evt_2"]
    assert ids(limit="1") == ["evt_0"]
    assert ids(since="2020-01-01T00:00:00Z") == ["evt_0", "evt_1", "evt_2", "evt_9"]
    assert ids(since="2999-01-01T00:00:00Z") == []
    last = client.get("/_received").json[-1]["received_at"]
    assert "evt_9" in ids(since=last)


def test_distinct_gives_one_row_per_webhook_and_the_verified_one(client):
    post(client, secret=OTHER_SECRET)
    post(client)
    post(client)
    post(client, webhook_id="evt_1", partner_id="par_2", secret=OTHER_SECRET)
    assert len(client.get("/_received").json) == 4
    rows = client.get("/_received?distinct=true").json
    assert [(row["partner_id"], row["verified"]) for row in rows] == [("par_1", True), ("par_2", True)]


def test_webhooks_without_an_id_stay_apart_in_the_distinct_list(client):
    client.post("/webhooks/par_1", data=b"x")
    client.post("/webhooks/par_1", data=b"y")
    assert [row["id"] for row in client.get("/_received?distinct=true").json] == [None, None]


@pytest.mark.parametrize(
    "query", ["since=yesterday", "distinct=maybe", "limit=0", "limit=100001", "payment=pay_1"]
)
def test_a_wrong_query_is_refused(client, query):
    assert client.get(f"/_received?{query}").status_code == 400


def test_the_first_requests_of_each_webhook_can_be_failed(client):
    assert client.put("/_control", json={"fail_first": 2}).json == {
        "status": 200,
        "delay_ms": 0,
        "fail_first": 2,
        "fail_rate": 0.0,
    }
    assert [post(client) for _ in range(3)] == [500, 500, 200]
    assert [post(client, webhook_id="evt_2") for _ in range(3)] == [500, 500, 200]
    rows = client.get("/_received").json
    assert [row["attempt_number_seen"] for row in rows] == [1, 2, 3, 1, 2, 3]
    assert [row["answered"] for row in rows] == [500, 500, 200, 500, 500, 200]


def test_the_status_can_be_set_and_the_control_replaces_all(client):
    client.put("/_control", json={"status": 410, "fail_first": 1})
    assert [post(client), post(client)] == [500, 410]
    client.put("/_control", json={"status": 202})
    assert [post(client), post(client, webhook_id="evt_2")] == [202, 202]
    assert client.get("/_control").json == {
        "status": 202,
        "delay_ms": 0,
        "fail_first": 0,
        "fail_rate": 0.0,
    }


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"[]",
        b"{",
        b'{"status": 199}',
        b'{"status": 600}',
        b'{"status": "200"}',
        b'{"status": 200.5}',
        b'{"status": true}',
        b'{"delay_ms": -1}',
        b'{"delay_ms": 600001}',
        b'{"fail_first": -1}',
        b'{"fail_frist": 1}',
    ],
)
def test_a_wrong_control_is_refused_and_changes_nothing(client, wrong):
    client.put("/_control", json={"status": 204})
    assert client.put("/_control", data=wrong).status_code == 400
    assert client.get("/_control").json["status"] == 204


def test_reset_forgets_everything(client):
    client.put("/_control", json={"fail_first": 1})
    post(client)
    assert client.post("/_reset").status_code == 204
    assert client.get("/_received").json == []
    assert post(client) == 200


def test_other_requests_are_refused(client):
    assert client.get("/livez").json == {"status": "ok"}
    assert client.get("/webhooks/par_1").status_code == 405
    assert client.post("/webhooks/a%20b").status_code == 404
    assert client.post("/webhooks/par_1", data=b"x" * (1024 * 1024 + 1)).status_code == 413
    assert client.get("/_received").json == []


def test_a_share_of_the_requests_can_be_failed_at_random(client):
    assert client.put("/_control", json={"fail_rate": 1.0}).status_code == 200
    assert {post(client, webhook_id=f"evt_{number}") for number in range(5)} == {500}
    client.put("/_control", json={"fail_rate": 0.5})
    assert {post(client, webhook_id=f"evt_{number}") for number in range(60)} == {200, 500}
    assert client.put("/_control", json={"fail_rate": 1.5}).status_code == 400
