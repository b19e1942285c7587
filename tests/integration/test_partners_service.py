"""The private admin API on a real database: with the fake store, and as a process on the emulator."""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest
import requests
from argon2 import PasswordHasher
from fakes.partner_store import InMemoryPartnerStore
from firestore_emulator import FirestoreEmulator
from joserfc.jwk import ECKey, RSAKey
from partner_documents import changed, new_partner
from stand_ins import REPOSITORY, accepts_connections, free_port
from waiting import DEADLINE_SECONDS, wait_until

from bridge.clock import ManualClock
from bridge.errors import SettingsError, TransientError, UnknownOutcomeError
from bridge.partner_directory import PartnerDirectorySettings, make_directory
from bridge.partner_mirror import PartnerMirror
from bridge.storage.migrate import add_sap_systems
from partners.app import create_app
from partners.settings import Settings

pytestmark = pytest.mark.integration

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
OPERATOR = {"X-Operator": "olga"}
EC_JWK = ECKey.generate_key("P-256", {"kid": "e"}).as_dict(private=False)
RSA_JWK = RSAKey.generate_key(2048, {"kid": "r"}).as_dict(private=False)
HASH = PasswordHasher(time_cost=1, memory_cost=64).hash("s3cret")


def environment(database_url, **more):
    return {
        "DATABASE_URL": database_url,
        "GOOGLE_CLOUD_PROJECT": "test-project",
        "OPERATOR_AUTHENTICATION": "emulator",
        **more,
    }


def signing(*public_keys):
    return {"client_id": "signer", "public_keys": list(public_keys)}


@pytest.fixture
def store():
    return InMemoryPartnerStore()


@pytest.fixture
def client(database, store):
    engine = database.engine_for("partners")
    settings = Settings.from_environment(environment(database.url_for("partners")))
    with database.engine.begin() as connection:
        add_sap_systems(connection, {"s4-main": 8})
    yield create_app(settings, store, engine, ManualClock(NOW)).test_client()
    engine.dispose()


@pytest.fixture
def partner(store):
    made = new_partner("shop")
    made = made.model_copy(update={"clients": (made.clients[0].model_copy(update={"secret_hash": HASH}),)})
    store.put(made, None)
    return made


def put(client, partner_id, body, *, reason="ticket 4711", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.put(
        f"/admin/partners/{partner_id}", json=body, headers={**OPERATOR, "X-Reason": reason, **named}
    )


def show(client, partner_id):
    answer = client.get(f"/admin/partners/{partner_id}", headers=OPERATOR)
    assert answer.status_code == 200, answer.text
    return answer.json


def audit(database):
    with database.engine.begin() as connection:
        rows = connection.exec_driver_sql(
            "SELECT actor, action, subject, reason, created_at FROM audit ORDER BY identity"
        )
        return [tuple(row) for row in rows]


def problem(answer):
    assert answer.content_type == "application/problem+json"
    return answer.status_code, answer.json["type"].rpartition("/")[2]


def test_a_partner_is_shown_without_its_secrets(client, partner):
    answer = client.get(f"/admin/partners/{partner.partner_id}", headers=OPERATOR)
    assert answer.headers["ETag"] == '"1"'
    assert answer.json["routing"] == partner.routing.model_dump(mode="json")
    assert "secret_hash" not in answer.json["clients"][0]
    assert not {"secrets", "keys", "next_key"} & set(answer.json["webhook_endpoints"][0])
    assert HASH not in answer.text
    assert partner.webhook_endpoints[0].secrets[0].encrypted not in answer.text


def test_what_was_shown_can_be_changed_and_put_back(client, store, partner, database):
    body = show(client, partner.partner_id) | {"status": "suspended"}
    answer = put(client, partner.partner_id, body, If_Match='"1"')
    assert answer.status_code == 200, answer.text
    assert answer.headers["ETag"] == '"2"'
    assert HASH not in answer.text
    assert store.get(partner.partner_id) == changed(partner, status="suspended")
    assert PartnerMirror(database.engine).get(partner.partner_id).configuration.version == 2
    assert audit(database) == [
        ("olga", "partner.change", f"{partner.partner_id} version 2", "ticket 4711", NOW)
    ]


def test_a_new_partner_is_made_with_if_none_match(client, store, database):
    wanted = new_partner("new-shop").model_dump(mode="json")
    wanted["clients"][0]["secret_hash"] = HASH
    answer = put(client, wanted["partner_id"], wanted, If_None_Match="*")
    assert answer.status_code == 201, answer.text
    assert store.find_by_client("new-shop").model_dump(mode="json") == wanted
    assert problem(put(client, wanted["partner_id"], wanted, If_None_Match="*")) == (412, "version-conflict")
    assert len(audit(database)) == 1


def test_a_change_from_an_old_version_is_refused(client, store, partner, database):
    body = show(client, partner.partner_id) | {"status": "suspended"}
    assert put(client, partner.partner_id, body, If_Match='"1"').status_code == 200
    late = put(client, partner.partner_id, body | {"status": "active"}, If_Match='"1"')
    assert problem(late) == (412, "version-conflict")
    assert store.get(partner.partner_id).status == "suspended"


def test_a_change_that_is_overtaken_on_its_way_is_refused_and_noted(client, store, partner, database):
    """Somebody else's change comes between this one's look-up and its write."""
    body = show(client, partner.partner_id) | {"status": "suspended"}
    theirs = changed(partner, name="Overtaker")
    inner = store.put

    def overtaken(document, expected_version):
        inner(theirs, 1)
        inner(document, expected_version)

    store.put = overtaken
    assert problem(put(client, partner.partner_id, body, If_Match='"1"')) == (412, "version-conflict")
    assert store.get(partner.partner_id) == theirs
    assert [action for _, action, *_ in audit(database)] == ["partner.change", "partner.change_refused"]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, (428, "precondition-required")),
        ({"If_None_Match": '"1"'}, (428, "precondition-required")),
        ({"If_Match": '"1"', "If_None_Match": "*"}, (428, "precondition-required")),
        ({"If_Match": "1"}, (400, "malformed-request")),
        ({"If_Match": "*"}, (400, "malformed-request")),
        ({"If_Match": '"0"'}, (400, "malformed-request")),
        ({"If_Match": '"2"'}, (412, "version-conflict")),
        ({"If_None_Match": "*"}, (412, "version-conflict")),
        ({"If_Match": '"1"', "reason": " "}, (400, "reason-required")),
        ({"If_Match": '"1"', "reason": "x" * 501}, (400, "reason-required")),
        ({"If_Match": '"1"', "X_Operator": "no body"}, (401, "unauthenticated")),
    ],
)
def test_a_change_has_to_name_its_version_its_reason_and_its_operator(
    client, store, partner, database, headers, expected
):
    body = show(client, partner.partner_id) | {"status": "suspended"}
    assert problem(put(client, partner.partner_id, body, **headers)) == expected
    assert store.get(partner.partner_id) == partner
    assert audit(database) == []


@pytest.mark.parametrize(
    ("edit", "pointer"),
    [
        ({"status": "Meier"}, "/status"),
        ({"surprise": "Meier"}, "/surprise"),
        ({"partner_id": new_partner().partner_id}, "/partner_id"),
        ({"clients": [{"client_id": "new-one"}]}, "/clients/0"),
        ({"clients": [{"client_id": "shop", "secret_hash": "Meier"}]}, "/clients/0/secret_hash"),
        ({"clients": [signing(EC_JWK | {"d": "Meier"})]}, "/clients/0/public_keys/0/d"),
        ({"clients": [signing(EC_JWK | {"y": EC_JWK["x"]})]}, "/clients/0/public_keys/0"),
        ({"clients": [signing(EC_JWK, EC_JWK)]}, "/clients/0"),
        ({"clients": [signing(*(EC_JWK | {"kid": f"k{n}"} for n in range(6)))]}, "/clients/0/public_keys"),
        ({"clients": [signing({"kty": "oct", "k": "Meier", "kid": "k"})]}, "/clients/0/public_keys/0"),
        ({"clients": [signing(RSA_JWK | {"n": RSA_JWK["n"][:100]})]}, "/clients/0/public_keys/0/n"),
        ({"limits": {"requests_per_second": 0}}, "/limits/requests_per_second"),
        ({"clients": "Meier"}, "/clients"),
        ({"clients": [7]}, "/clients/0"),
    ],
)
def test_a_document_that_does_not_fit_is_refused_without_repeating_it(
    client, store, partner, database, edit, pointer
):
    body = show(client, partner.partner_id) | edit
    answer = put(client, partner.partner_id, body, If_Match='"1"')
    assert problem(answer) == (422, "invalid-request")
    assert pointer in [error["pointer"] for error in answer.json["errors"]]
    assert "Meier" not in answer.text
    assert store.get(partner.partner_id) == partner
    assert audit(database) == []


def test_a_client_that_signs_needs_no_secret_and_its_keys_are_shown(client, store, partner):
    clients = [*show(client, partner.partner_id)["clients"], signing(EC_JWK, RSA_JWK)]
    body = show(client, partner.partner_id) | {"clients": clients, "limits": {"payments_per_day": 7}}
    assert put(client, partner.partner_id, body, If_Match='"1"').status_code == 200
    stored = store.get(partner.partner_id)
    assert [one.secret_hash for one in stored.clients] == [HASH, None]
    assert [key.algorithm for key in stored.clients[1].public_keys] == ["ES256", "RS256"]
    assert stored.limits.payments_per_day == 7
    shown = show(client, partner.partner_id)["clients"][1]["public_keys"]
    assert [key["kid"] for key in shown] == ["e", "r"]


def test_a_body_that_is_no_document_is_refused(client, partner):
    url = f"/admin/partners/{partner.partner_id}"
    headers = {**OPERATOR, "If-Match": '"1"', "X-Reason": "why not"}
    assert problem(client.put(url, json=[], headers=headers)) == (422, "invalid-request")
    json_type = headers | {"Content-Type": "application/json"}
    assert problem(client.put(url, data=b"{", headers=json_type)) == (400, "malformed-request")
    assert problem(client.put(url, data=b"{}", headers=headers)) == (415, "unsupported-media-type")
    large = b" " * 300_000 + b"{}"
    assert problem(client.put(url, data=large, headers=json_type)) == (413, "payload-too-large")


def test_a_client_of_another_partner_is_refused(client, store, partner, database):
    other = new_partner("other-shop")
    store.put(other, None)
    stolen = {"client_id": "other-shop", "secret_hash": HASH}
    body = show(client, partner.partner_id) | {"clients": [stolen]}
    assert problem(put(client, partner.partner_id, body, If_Match='"1"')) == (409, "client-taken")
    assert [action for _, action, *_ in audit(database)] == ["partner.change", "partner.change_refused"]


def test_nobody_without_a_name_is_let_in(client, partner):
    assert problem(client.get(f"/admin/partners/{partner.partner_id}")) == (401, "unauthenticated")


@pytest.mark.parametrize("partner_id", ["par_" + "9" * 26, "par_1", "par_%2e%2e"])
def test_a_partner_that_is_not_there_is_not_found(client, partner_id):
    answer = client.get(f"/admin/partners/{partner_id}", headers=OPERATOR)
    assert problem(answer) == (404, "not-found")


def test_while_the_store_is_away_nothing_is_changed(client, store, partner, database):
    body = show(client, partner.partner_id) | {"status": "suspended"}
    store.failure = TransientError("away")
    assert problem(put(client, partner.partner_id, body, If_Match='"1"')) == (503, "unavailable")
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json["missing"]) == (503, ["firestore"])
    store.failure = None
    assert client.get("/readyz").status_code == 200
    assert store.get(partner.partner_id) == partner


def test_a_change_whose_outcome_is_unknown_says_so(client, store, partner, database):
    body = show(client, partner.partner_id) | {"status": "suspended"}

    def lose_the_answer(document, expected_version):
        raise UnknownOutcomeError("the answer was lost")

    store.put = lose_the_answer
    assert problem(put(client, partner.partner_id, body, If_Match='"1"')) == (503, "unknown-outcome")
    assert [action for _, action, *_ in audit(database)] == ["partner.change", "partner.change_unknown"]


def test_a_damaged_document_is_named_and_can_be_repaired(client, store, partner, database):
    PartnerMirror(database.engine).remember(partner, NOW)
    body = show(client, partner.partner_id)
    damaged = partner.model_dump(mode="json") | {"version": 2, "status": "Meier"}
    store.plant(partner.partner_id, damaged)
    shown = client.get(f"/admin/partners/{partner.partner_id}", headers=OPERATOR)
    assert problem(shown) == (409, "invalid-document")
    assert "status" in shown.json["detail"]
    assert "Meier" not in shown.text
    assert put(client, partner.partner_id, body, If_Match='"2"').status_code == 200
    repaired = store.get(partner.partner_id)
    assert repaired == partner.model_copy(update={"version": 3})


def test_a_lost_document_comes_back_above_the_version_that_readers_have_seen(
    client, store, partner, database
):
    newest = changed(changed(partner))
    PartnerMirror(database.engine).remember(newest, NOW)
    body = show(client, partner.partner_id) | {"status": "suspended"}
    store.lose(partner.partner_id)
    answer = put(client, partner.partner_id, body, If_None_Match="*")
    assert (answer.status_code, answer.headers["ETag"]) == (201, '"4"')
    directory = make_directory(store, database.engine, ManualClock(NOW), PartnerDirectorySettings())
    assert directory.by_client("shop").status == "suspended"
    assert store.get(partner.partner_id).clients == partner.clients


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"OPERATOR_AUTHENTICATION": "oidc"}, "OPERATOR_AUDIENCE"),
        ({"OPERATOR_AUTHENTICATION": "oidc", "OPERATOR_AUDIENCE": "https://a", "OPERATORS": ""}, "OPERATORS"),
        ({"OPERATOR_AUTHENTICATION": "none"}, "OPERATOR_AUTHENTICATION"),
        ({"K_SERVICE": "partners"}, "OPERATOR_AUTHENTICATION"),
        ({"PORT": "0"}, "PORT"),
        ({"GOOGLE_CLOUD_PROJECT": ""}, "GOOGLE_CLOUD_PROJECT"),
        ({"DATABASE_URL": ""}, "DATABASE_URL"),
    ],
)
def test_a_wrong_setting_is_named(change, named):
    with pytest.raises(SettingsError, match=named):
        Settings.from_environment(environment("postgresql+pg8000://partners@127.0.0.1/bridge") | change)


@pytest.fixture
def emulator(tmp_path):
    running = FirestoreEmulator(tmp_path).start()
    yield running
    running.kill()


def test_the_service_runs_as_a_process_and_survives_firestores_restart(database, emulator, tmp_path):
    store = emulator.patient_store()
    partner = new_partner("shop")
    store.put(partner, None)
    port = free_port()
    variables = environment(
        database.url_for("partners"), PORT=str(port), FIRESTORE_EMULATOR_HOST=emulator.address
    )
    with (tmp_path / "output.log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "partners"],
            cwd=REPOSITORY,
            env={"PATH": os.environ["PATH"], **variables},
            stdout=output,
            stderr=output,
        )
    try:
        wait_until(lambda: accepts_connections(port))
        url = f"http://127.0.0.1:{port}"
        partner_url = f"{url}/admin/partners/{partner.partner_id}"
        shown = requests.get(partner_url, headers=OPERATOR, timeout=30)
        assert shown.json()["version"] == 1
        emulator.kill()
        assert requests.get(partner_url, headers=OPERATOR, timeout=30).status_code == 503
        assert requests.get(f"{url}/readyz", timeout=30).json()["missing"] == ["firestore"]
        emulator.start()
        wait_until(lambda: requests.get(f"{url}/readyz", timeout=30).status_code == 200)
        assert requests.get(partner_url, headers=OPERATOR, timeout=30).status_code == 404
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=DEADLINE_SECONDS) == 0
    finally:
        process.kill()
        process.wait(timeout=DEADLINE_SECONDS)
        store.close()
    for line in (tmp_path / "output.log").read_text().splitlines():
        assert json.loads(line)["service"] == "partners"
