"""Accepting: what is written, what is answered, and that nothing else is."""

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from gateway_stage import ISSUER, NOTHING, NOW, ONE_PAYMENT, GatewayStage, keys, new_payment
from joserfc import jws
from sqlalchemy import text

from bridge.ids import sap_reference
from bridge.parties import Parties, Party

pytestmark = pytest.mark.integration


@pytest.fixture
def stage(database):
    made = GatewayStage(database)
    yield made
    made.close()


def slug(answer):
    assert answer.content_type == "application/problem+json"
    return answer.json["type"].rpartition("/")[2]


def test_an_accepted_payment_is_answered_as_the_contract_says(stage):
    sent = new_payment()
    answer = stage.pay(sent)
    assert answer.status_code == 202
    body = answer.json
    assert answer.headers["Location"] == f"/v1/payments/{body['id']}"
    assert "Idempotency-Replayed" not in answer.headers
    operation = body["operations"][0]
    assert body == {
        "id": body["id"],
        "external_id": sent["external_id"],
        "status": "accepted",
        "amount": {"value": "1250.00", "currency": "EUR"},
        "captured": {"value": "0.00", "currency": "EUR"},
        "refunded": {"value": "0.00", "currency": "EUR"},
        "capture": "automatic",
        "operations": [
            {
                "id": operation["id"],
                "kind": "payment",
                "status": "accepted",
                "amount": {"value": "1250.00", "currency": "EUR"},
                "sap_document": None,
                "failure": None,
                "created_at": "2026-11-20T12:00:00.123Z",
                "completed_at": None,
            }
        ],
        "metadata": {"order": "A-17"},
        "created_at": "2026-11-20T12:00:00.123Z",
        "updated_at": "2026-11-20T12:00:00.123Z",
        "receipt": body["receipt"],
    }
    assert stage.call("GET", f"/v1/payments/{body['id']}").json == body


def test_one_statement_writes_everything_that_the_services_after_it_need(stage):
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    body = stage.pay(headers={"traceparent": trace}).json
    assert stage.counts() == ONE_PAYMENT
    (payment,), (operation,), (event,) = (stage.rows(name) for name in ("payments", "operations", "events"))
    assert (payment["sap_system"], payment["company_code"], payment["time_zone"]) == (
        "s4-main",
        "1000",
        "Europe/Berlin",
    )
    assert payment["amount_minor"] == 125_000
    assert operation["sap_reference"] == sap_reference(operation["operation_id"])
    assert (operation["position"], operation["traceparent"], operation["dispatched_at"]) == (1, trace, None)
    assert event["event_type"] == "payment.accepted"
    shown = {name: value for name, value in body.items() if name not in ("metadata", "receipt")}
    assert event["data"] == {"payment": shown}
    lanes = {row["lane"]: row for row in stage.rows("outbox")}
    assert set(lanes) == {"s4-main", "events"}
    assert lanes["s4-main"]["operation_id"] == operation["operation_id"]
    assert lanes["events"]["event_id"] == event["event_id"]
    assert lanes["events"]["sequence"] is None
    assert {row["not_before"] for row in lanes.values()} == {NOW}
    assert {row["traceparent"] for row in lanes.values()} == {trace}


def test_names_accounts_and_texts_are_nowhere_in_clear(stage):
    body = stage.pay().json
    everything = str([stage.rows(table) for table in ONE_PAYMENT]) + json.dumps(body)
    for secret in ("Muster", "Acme", "DE8937", "FR14200", "4711"):
        assert secret not in everything
    stored = stage.rows("payments")[0]["encrypted_parties"]
    place = {"table": "payments", "column": "encrypted_parties", "row": body["id"]}
    parties = Parties.from_bytes(keys().parties.decrypt(stored, **place))
    assert parties == Parties(
        Party("Muster GmbH", "DE89370400440532013000"),
        Party("Acme SE", "FR1420041010050500013M02606"),
        "Invoice 4711",
    )


def test_a_payment_without_parties_stores_no_ciphertext(stage):
    answer = stage.pay(new_payment(debtor=..., creditor=..., remittance_information=..., metadata=...))
    assert answer.status_code == 202
    assert answer.json["metadata"] == {}
    assert stage.rows("payments")[0]["encrypted_parties"] is None


def test_the_receipt_is_our_signed_word(stage):
    raw = json.dumps(new_payment(), indent=3).encode()
    answer = stage.pay(data=raw, content_type="application/json")
    public = stage.app.test_client().get("/.well-known/receipt-keys.json").json["keys"][0]
    assert "d" not in public
    encoded_header = answer.json["receipt"].split(".")[0]
    header = json.loads(base64.urlsafe_b64decode(encoded_header + "=="))
    assert header == {"alg": "EdDSA", "typ": "receipt+jws", "kid": public["kid"]}
    with pytest.warns(UserWarning, match="EdDSA"):  # what a partner's joserfc says of the name
        signed = jws.deserialize_compact(answer.json["receipt"], keys().receipt.signing, algorithms=["EdDSA"])
    assert json.loads(signed.payload) == {
        "iss": ISSUER,
        "payment_id": answer.json["id"],
        "external_id": answer.json["external_id"],
        "amount": {"value": "1250.00", "currency": "EUR"},
        "body_sha256": hashlib.sha256(raw).hexdigest(),
        "accepted_at": answer.json["created_at"],
    }


def test_a_receipt_is_no_access_token(stage):
    receipt = stage.pay().json["receipt"]
    answer = stage.app.test_client().get("/v1/payments", headers={"Authorization": f"Bearer {receipt}"})
    assert answer.status_code == 401


def test_manual_capture_starts_with_an_authorization(stage):
    assert stage.pay(new_payment(capture="manual")).json["operations"][0]["kind"] == "authorize"


def test_a_future_day_schedules_the_payment_for_its_midnight_in_the_company_codes_zone(stage):
    body = stage.pay(new_payment(requested_execution_date="2026-12-01")).json
    assert (body["status"], body["operations"][0]["status"]) == ("scheduled", "scheduled")
    assert body["requested_execution_date"] == "2026-12-01"
    lanes = {row["lane"]: row["not_before"] for row in stage.rows("outbox")}
    assert lanes == {"s4-main": datetime(2026, 11, 30, 23, 0, tzinfo=UTC), "events": NOW}


@pytest.mark.parametrize(
    ("now", "day", "status"),
    [
        # 23:30 UTC is the next day in Berlin
        (datetime(2026, 11, 20, 23, 30, tzinfo=UTC), "2026-11-21", 202),
        (datetime(2026, 11, 20, 23, 30, tzinfo=UTC), "2026-11-20", 422),
        (datetime(2026, 11, 20, 12, 0, tzinfo=UTC), "2027-11-20", 202),
        (datetime(2026, 11, 20, 12, 0, tzinfo=UTC), "2027-11-21", 422),
    ],
)
def test_the_day_is_judged_in_the_company_codes_zone(database, now, day, status):
    stage = GatewayStage(database, now)
    answer = stage.pay(new_payment(requested_execution_date=day))
    stage.close()
    assert answer.status_code == status
    if status == 422:
        assert answer.json["errors"][0]["pointer"] == "/requested_execution_date"


def test_a_payment_for_today_is_accepted_and_goes_out_at_once(stage):
    assert stage.pay(new_payment(requested_execution_date="2026-11-20")).json["status"] == "accepted"


def test_the_same_key_and_body_get_the_payment_as_it_stands_now(stage):
    sent = new_payment()
    first = stage.pay(sent, key="once")
    with stage.owner.begin() as connection:
        connection.execute(
            text("UPDATE payments SET status = 'paid', captured_minor = amount_minor, updated_at = :now"),
            {"now": NOW + timedelta(hours=1)},
        )
    stage.clock.advance(60)
    again = stage.pay(dict(reversed(sent.items())), key="once")
    assert again.status_code == 202
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    assert again.json["status"] == "paid"
    assert again.json["receipt"] == first.json["receipt"]
    assert stage.counts() == ONE_PAYMENT


def test_a_replay_before_anything_happened_says_the_same_to_the_letter(stage):
    sent = new_payment()
    assert stage.pay(sent, key="once").json == stage.pay(sent, key="once").json


def test_a_scheduled_payment_is_replayed_when_its_day_has_passed(stage):
    sent = new_payment(requested_execution_date="2026-11-21")
    first = stage.pay(sent, key="once")
    stage.clock.advance(5 * 86_400)
    again = stage.pay(sent, key="once")
    assert (again.status_code, again.json["id"]) == (202, first.json["id"])
    assert again.headers["Idempotency-Replayed"] == "true"


def test_the_same_key_with_another_body_is_refused(stage):
    stage.pay(new_payment(), key="once")
    answer = stage.pay(new_payment(), key="once")
    assert (answer.status_code, slug(answer)) == (422, "idempotency-key-reused")
    assert stage.counts() == ONE_PAYMENT


def test_keys_of_two_partners_are_two_keys(stage):
    sent = new_payment()
    first, second = stage.pay(sent, key="once"), stage.pay(sent, key="once", client_id="other")
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json["id"] != second.json["id"]


def test_the_same_external_id_under_another_key_names_the_payment(stage):
    first = stage.pay(new_payment(external_id="INV-1"))
    answer = stage.pay(new_payment(external_id="INV-1"), key="another")
    assert (answer.status_code, slug(answer)) == (409, "duplicate-external-id")
    assert answer.json["payment_id"] == first.json["id"]
    assert stage.counts() == ONE_PAYMENT


def test_the_external_id_of_a_rejected_payment_is_free_again_and_so_is_the_refused_key(stage):
    stage.pay(new_payment(external_id="INV-1"))
    retry = new_payment(external_id="INV-1")
    assert stage.pay(retry, key="second").status_code == 409
    with stage.owner.begin() as connection:
        connection.execute(text("UPDATE payments SET status = 'rejected'"))
    assert stage.pay(retry, key="second").status_code == 202


def test_a_key_that_got_an_error_is_still_free(stage):
    assert stage.pay(new_payment(capture="never"), key="once").status_code == 422
    assert stage.pay(new_payment(), key="once").status_code == 202


@pytest.mark.parametrize(
    ("status", "problem", "pointer", "changes"),
    [
        (422, "invalid-request", "/amount/currency", {"amount": {"value": "1.00", "currency": "ABC"}}),
        (422, "invalid-request", "/amount/currency", {"amount": {"value": "1.00", "currency": "eur"}}),
        (422, "invalid-request", "/amount/value", {"amount": {"value": "1.001", "currency": "EUR"}}),
        (422, "invalid-request", "/amount/value", {"amount": {"value": "1.0", "currency": "JPY"}}),
        (422, "invalid-request", "/amount/value", {"amount": {"value": "0.00", "currency": "EUR"}}),
        (422, "invalid-request", "/amount/value", {"amount": {"value": "-1.00", "currency": "EUR"}}),
        (422, "invalid-request", "/amount/value", {"amount": {"value": 12.5, "currency": "EUR"}}),
        (
            422,
            "invalid-request",
            "/debtor/account/iban",
            {"debtor": {"name": "A", "account": {"iban": "DE89370400440532013001"}}},
        ),
        (422, "invalid-request", "/external_id", {"external_id": "x" * 36}),
        (422, "invalid-request", "/colour", {"colour": "blue"}),
    ],
)
def test_a_bad_payment_is_refused_with_a_pointer_and_stores_nothing(stage, status, problem, pointer, changes):
    answer = stage.pay(new_payment(**changes))
    assert (answer.status_code, slug(answer)) == (status, problem)
    assert [error["pointer"] for error in answer.json["errors"]] == [pointer]
    assert stage.counts() == NOTHING


def test_without_a_token_or_with_a_foreign_one_nothing_is_stored(stage):
    for headers in ({"Authorization": ""}, {"Authorization": "Bearer abc"}):
        answer = stage.pay(headers=headers)
        assert (answer.status_code, slug(answer)) == (401, "unauthenticated")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert stage.counts() == NOTHING


def test_whatever_text_the_rules_allow_can_be_stored(stage):
    odd = new_payment(
        external_id="RG 2026/ä-\u4e2d",
        metadata={"kéy/~": "line\nbreak\ttab \U0001f600", "%s": ":now $1 {x}"},
        remittance_information="quote ' \" \\ %s :now",
    )
    answer = stage.pay(odd, key="odd")
    assert answer.status_code == 202
    read = stage.call("GET", f"/v1/payments/{answer.json['id']}").json
    assert (read["metadata"], read["external_id"]) == (odd["metadata"], odd["external_id"])
    assert stage.pay(odd, key="odd").json["id"] == answer.json["id"]
