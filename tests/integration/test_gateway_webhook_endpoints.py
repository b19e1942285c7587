"""Partners manage their webhook endpoints: register, read, change, rotate, delete; Firestore away."""

import base64
from datetime import timedelta

import pytest
from gateway_stage import GatewayStage, client, keys
from partner_documents import changed
from races import at_once
from sqlalchemy import text
from webhook_targets import FORBIDDEN_HOSTS, FORBIDDEN_URLS, NAMES

from bridge.errors import TransientError, UnknownOutcomeError
from bridge.webhook_secrets import open_secret
from webhooks.message import signers_of

pytestmark = pytest.mark.integration

PATH = "/v1/webhook-endpoints"
URL = "https://partner.example/hooks"


@pytest.fixture
def stage(database):
    made = GatewayStage(database)
    made.addresses = NAMES
    made.partner = without_endpoints(made, made.partner)
    made.stranger = without_endpoints(made, made.stranger)
    yield made
    made.close()


def without_endpoints(stage, partner):
    new = changed(partner, webhook_endpoints=[])
    stage.store.put(new, partner.version)
    return new


def register(stage, url=URL, *, key=None, client_id="acme", **members):
    headers = {"Idempotency-Key": key} if key else {}
    return stage.call("POST", PATH, client_id, headers=headers, json={"url": url, **members})


def document(stage):
    return stage.store.get(stage.partner.partner_id)


def slug(answer):
    return answer.json["type"].rpartition("/")[2]


def cursor(stage, endpoint_id):
    return next(row for row in stage.rows("webhooks.cursors") if row["endpoint_id"] == endpoint_id)


def test_a_registered_endpoint_is_in_the_record_the_mirror_and_has_a_cursor_at_once(stage):
    with stage.owner.begin() as connection:
        connection.execute(
            text("INSERT INTO feed_counters (partner_id, last_sequence) VALUES (:id, 41)"),
            {"id": stage.partner.partner_id},
        )
    answer = register(stage, event_types=["payment.paid"], description="books")
    assert answer.status_code == 201
    made = answer.json
    assert answer.headers["Location"] == f"{PATH}/{made['id']}"
    assert base64.b64decode(made["secret"].removeprefix("whsec_")).__len__() == 32
    assert len(made["public_keys"]) == 2
    (stored,) = document(stage).webhook_endpoints
    assert stored.endpoint_id == made["id"]
    assert (stored.url, stored.event_types, stored.starts_after_sequence) == (URL, ("payment.paid",), 41)
    assert made["secret"] not in document(stage).model_dump_json()
    ring = keys().webhooks
    assert open_secret(ring, stored.endpoint_id, stored.secrets[0].encrypted) == made["secret"]
    (mirrored,) = stage.rows("partner_configs")
    assert mirrored["version"] == document(stage).version
    assert cursor(stage, made["id"])["sequence"] == 41
    assert cursor(stage, made["id"])["configuration_version"] == document(stage).version
    (noted,) = stage.rows("audit")
    assert (noted["actor"], noted["action"], noted["subject"]) == (
        stage.partner.partner_id,
        "webhook_endpoint.create",
        made["id"],
    )


def test_it_is_read_back_at_once_without_its_secret_by_an_instance_whose_cache_is_older(stage):
    stage.call("GET", PATH)  # the directory has the document now
    made = register(stage).json
    shown = {name: value for name, value in made.items() if name != "secret"}
    assert stage.call("GET", PATH).json == {"data": [shown]}
    assert stage.call("GET", f"{PATH}/{made['id']}").json == shown
    assert shown["status"] == "enabled"


def test_nobody_elses_endpoint_can_be_seen_or_changed(stage):
    made = register(stage).json
    assert stage.call("GET", PATH, "other").json == {"data": []}
    for method, path in (
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "/test"),
        ("POST", "/rotate-secret"),
        ("GET", "/deliveries"),
    ):
        body = {"json": {}} if method in ("PATCH", "POST") else {}
        answer = stage.call(method, f"{PATH}/{made['id']}{path}", "other", **body)
        assert (answer.status_code, slug(answer)) == (404, "not-found"), path
    assert [each["id"] for each in stage.call("GET", PATH).json["data"]] == [made["id"]]


@pytest.mark.parametrize("endpoint_id", ["whe_" + "0" * 26, "whe_x", "1", "whe_" + "0" * 27])
def test_an_endpoint_that_is_none_is_404(stage, endpoint_id):
    assert stage.call("GET", f"{PATH}/{endpoint_id}").status_code == 404
    assert stage.call("DELETE", f"{PATH}/{endpoint_id}").status_code == 404


def test_reading_needs_one_scope_and_writing_the_other(stage):
    assert stage.call("GET", PATH, "reader").status_code == 403
    before = stage.partner
    after = changed(
        before,
        clients=[*before.model_dump()["clients"], client("sees", scopes=("webhooks:read",)).model_dump()],
    )
    stage.store.put(after, before.version)
    stage.partner = after
    stage.clock.advance(31)
    assert stage.call("GET", PATH, "sees").status_code == 200
    assert stage.call("POST", PATH, "sees", json={"url": URL}).status_code == 403


@pytest.mark.parametrize("host", FORBIDDEN_HOSTS)
def test_a_target_within_is_refused_at_registration(stage, host):
    answer = register(stage, f"https://{host}/hooks")
    assert (answer.status_code, slug(answer)) == (422, "invalid-request")
    assert [error["pointer"] for error in answer.json["errors"]] == ["/url"]
    assert host not in str(answer.json["errors"])
    assert document(stage).webhook_endpoints == ()


@pytest.mark.parametrize("url", FORBIDDEN_URLS)
def test_a_url_that_is_not_plain_https_is_refused_at_registration(stage, url):
    answer = register(stage, url)
    assert (answer.status_code, slug(answer)) == (422, "invalid-request")
    assert document(stage).webhook_endpoints == ()


def test_the_same_targets_are_refused_when_an_endpoint_is_changed(stage):
    made = register(stage).json
    for url in ("https://10.0.0.1/", "https://inside.attacker.example/", "http://partner.example/"):
        answer = stage.call("PATCH", f"{PATH}/{made['id']}", json={"url": url})
        assert answer.status_code == 422
    assert document(stage).webhook_endpoints[0].url == URL


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/url"),
        ({"url": 1}, "/url"),
        ({"url": "https://partner.example/" + "a" * 2048}, "/url"),
        ({"url": URL, "event_types": []}, "/event_types"),
        ({"url": URL, "event_types": ["payment.*"] * 21}, "/event_types"),
        ({"url": URL, "event_types": ["invoice.paid"]}, "/event_types/0"),
        ({"url": URL, "description": "x" * 201}, "/description"),
        ({"url": URL, "secret": "whsec_mine"}, "/secret"),
    ],
)
def test_what_is_wrong_is_pointed_at(stage, body, pointer):
    answer = stage.call("POST", PATH, json=body)
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json["errors"]] == [pointer]


def test_there_are_twenty_endpoints_at_most(stage):
    for number in range(20):
        assert register(stage, f"{URL}/{number}").status_code == 201
    answer = register(stage)
    assert (answer.status_code, slug(answer)) == (409, "too-many-endpoints")
    assert len(stage.call("GET", PATH).json["data"]) == 20


def test_a_repeated_request_gets_the_same_endpoint_and_secret(stage):
    first = register(stage, key="k1")
    again = register(stage, key="k1")
    assert again.status_code == 201
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert again.json == first.json
    assert len(document(stage).webhook_endpoints) == 1
    other = register(stage, f"{URL}/other", key="k1")
    assert (other.status_code, slug(other)) == (422, "idempotency-key-reused")
    assert register(stage, key="k2").json["id"] != first.json["id"]


def test_requests_with_one_key_at_the_same_moment_make_one_endpoint(stage):
    answers = at_once(*[lambda: register(stage, key="k1")] * 6)
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json["secret"] for answer in answers}) == 1
    assert len(document(stage).webhook_endpoints) == 1


def test_endpoints_registered_at_the_same_moment_are_all_kept(stage):
    calls = [lambda number=number: register(stage, f"{URL}/{number}") for number in range(4)]
    assert [answer.status_code for answer in at_once(*calls)] == [201] * 4
    assert len(document(stage).webhook_endpoints) == 4
    assert len(stage.rows("webhooks.cursors")) == 4


def test_a_change_leaves_the_rest_as_it_is(stage):
    made = register(stage, description="books").json
    path = f"{PATH}/{made['id']}"
    answer = stage.call("PATCH", path, json={"event_types": ["payment.paid", "payment.rejected"]})
    assert answer.status_code == 200
    assert answer.json["event_types"] == ["payment.paid", "payment.rejected"]
    assert (answer.json["url"], answer.json["description"]) == (URL, "books")
    assert stage.call("PATCH", path, json={"description": None}).json["description"] is None
    assert stage.call("PATCH", path, json={}).json["event_types"] == ["payment.paid", "payment.rejected"]
    assert cursor(stage, made["id"])["configuration_version"] == document(stage).version


def test_disabling_and_enabling_need_no_firestore(stage):
    made = register(stage).json
    stage.store.failure = TransientError("away")
    path = f"{PATH}/{made['id']}"
    answer = stage.call("PATCH", path, json={"status": "disabled"})
    assert (answer.json["status"], answer.json["disabled_reason"]) == ("disabled", "partner")
    assert cursor(stage, made["id"])["status"] == "disabled"
    answer = stage.call("PATCH", path, json={"status": "enabled"})
    assert (answer.json["status"], answer.json["disabled_reason"]) == ("enabled", None)
    actions = [row["action"] for row in stage.rows("audit")]
    assert actions == ["webhook_endpoint.create", "webhook_endpoint.disable", "webhook_endpoint.enable"]


def test_while_firestore_is_away_changes_are_503_and_reading_goes_on(stage):
    made = register(stage).json
    stage.clock.advance(31)
    stage.store.failure = TransientError("away")
    for method, path, body in (
        ("POST", PATH, {"url": URL}),
        ("PATCH", f"{PATH}/{made['id']}", {"url": f"{URL}/new"}),
        ("POST", f"{PATH}/{made['id']}/rotate-secret", {}),
        ("DELETE", f"{PATH}/{made['id']}", None),
    ):
        answer = stage.call(method, path, json=body) if body is not None else stage.call(method, path)
        assert (answer.status_code, slug(answer)) == (503, "unavailable"), (method, path)
        assert "Retry-After" in answer.headers
    assert [each["id"] for each in stage.call("GET", PATH).json["data"]] == [made["id"]]
    stage.store.failure = None
    assert stage.call("DELETE", f"{PATH}/{made['id']}").status_code == 204


def test_an_answer_of_firestore_that_is_lost_is_made_good_by_the_same_key(stage):
    put = stage.store.put

    def put_and_lose(new, expected_version):
        put(new, expected_version)
        raise UnknownOutcomeError("the answer is lost")

    stage.store.put = put_and_lose
    assert register(stage, key="k1").status_code == 503
    stage.store.put = put
    answer = register(stage, key="k1")
    assert answer.status_code == 201
    assert len(document(stage).webhook_endpoints) == 1
    assert cursor(stage, answer.json["id"])["configuration_version"] == document(stage).version


def test_a_rotation_keeps_the_old_secret_for_a_day_and_puts_the_next_key_in_use(stage):
    made = register(stage).json
    path = f"{PATH}/{made['id']}"
    rotated = stage.call("POST", f"{path}/rotate-secret", json={})
    assert rotated.status_code == 200
    assert rotated.json["secret"] != made["secret"]
    current, following, former = rotated.json["public_keys"]
    assert [current, former] == [made["public_keys"][1], made["public_keys"][0]]
    assert following not in made["public_keys"]
    (stored,) = document(stage).webhook_endpoints
    ring, now = keys().webhooks, stage.clock.now()
    assert signers_of(stored, ring, now).secrets == [rotated.json["secret"], made["secret"]]
    assert len(signers_of(stored, ring, now).keys) == 2
    later = now + timedelta(hours=24)
    assert signers_of(stored, ring, later - timedelta(seconds=1)).secrets == [
        rotated.json["secret"],
        made["secret"],
    ]
    assert signers_of(stored, ring, later).secrets == [rotated.json["secret"]]
    assert len(signers_of(stored, ring, later).keys) == 1
    stage.clock.advance(24 * 3600)
    assert stage.call("GET", path).json["public_keys"] == [current, following]


def test_a_repeated_rotation_gives_the_same_secret(stage):
    made = register(stage).json
    path = f"{PATH}/{made['id']}/rotate-secret"
    first = stage.call("POST", path, headers={"Idempotency-Key": "r1"})
    again = stage.call("POST", path, headers={"Idempotency-Key": "r1"})
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json["secret"] == again.json["secret"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len(document(stage).webhook_endpoints[0].secrets) == 2


def test_more_than_four_rotations_within_a_day_are_refused(stage):
    path = f"{PATH}/{register(stage).json['id']}/rotate-secret"
    assert [stage.call("POST", path).status_code for _ in range(4)] == [200] * 4
    answer = stage.call("POST", path)
    assert (answer.status_code, slug(answer)) == (409, "too-many-secrets")
    stage.clock.advance(24 * 3600)
    assert stage.call("POST", path).status_code == 200


def test_a_deleted_endpoint_is_gone_and_its_cursor_ended(stage):
    made = register(stage).json
    path = f"{PATH}/{made['id']}"
    answer = stage.call("DELETE", path)
    assert (answer.status_code, answer.data) == (204, b"")
    assert stage.call("DELETE", path).status_code == 404
    assert stage.call("GET", path).status_code == 404
    assert document(stage).webhook_endpoints == ()
    assert cursor(stage, made["id"])["status"] == "deleted"


def test_an_operators_change_at_the_same_moment_is_not_undone(stage):
    made = register(stage).json
    get = stage.store.get
    meanwhile = []

    def change_after_reading(partner_id):
        found = get(partner_id)
        if not meanwhile:
            meanwhile.append(changed(found, name="Another name"))
            stage.store.put(meanwhile[0], found.version)
        return found

    stage.store.get = change_after_reading
    answer = stage.call("PATCH", f"{PATH}/{made['id']}", json={"url": f"{URL}/new"})
    assert answer.status_code == 200
    stage.store.get = get
    assert document(stage).name == "Another name"
    assert document(stage).webhook_endpoints[0].url == f"{URL}/new"


def test_the_gateway_has_no_more_rights_on_webhooks_than_it_needs(stage):
    with stage.engine.connect() as connection:
        for statement in (
            "DELETE FROM webhooks.cursors",
            "UPDATE webhooks.cursors SET sequence = 0",
            "DELETE FROM webhooks.deliveries",
            "UPDATE webhooks.deliveries SET event_id = NULL",
            "INSERT INTO webhooks.attempts DEFAULT VALUES",
            "SELECT FROM audit",
        ):
            with pytest.raises(Exception, match="permission denied"):
                connection.execute(text(statement))
