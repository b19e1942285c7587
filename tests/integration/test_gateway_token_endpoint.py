"""The token endpoint as RFC 6749 has it: client_credentials, its answers and its errors."""

import pytest
from gateway_stage import SECRET, GatewayStage, basic
from partner_documents import changed

from bridge.errors import TransientError

pytestmark = pytest.mark.integration
GRANT = {"grant_type": "client_credentials"}


@pytest.fixture
def stage(database):
    made = GatewayStage(database)
    yield made
    made.close()


def ask(stage, form=None, headers=None, **options):
    options = options or {"data": GRANT if form is None else form}
    return stage.app.test_client().post(
        "/oauth2/token", headers=basic() if headers is None else headers, **options
    )


def test_a_client_gets_a_token_that_works(stage):
    answer = ask(stage)
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Pragma"] == "no-cache"
    body = answer.json
    token = body.pop("access_token")
    assert body == {
        "token_type": "Bearer",
        "expires_in": 900,
        "scope": "payments:read payments:write events:read webhooks:read webhooks:write",
    }
    listed = stage.app.test_client().get("/v1/payments", headers={"Authorization": f"Bearer {token}"})
    assert (listed.status_code, listed.json) == (200, {"data": [], "next_cursor": None})


def test_a_client_may_ask_for_less(stage):
    answer = ask(stage, GRANT | {"scope": "events:read payments:read"})
    assert answer.json["scope"] == "payments:read events:read"
    headers = {"Authorization": f"Bearer {answer.json['access_token']}"}
    assert stage.app.test_client().post("/v1/payments", headers=headers).status_code == 403


def test_the_edge_may_have_moved_the_credentials_aside(stage):
    moved = {"Authorization": "Bearer the.edges.own", "X-Forwarded-Authorization": basic()["Authorization"]}
    assert ask(stage, headers=moved).status_code == 200


def test_credentials_may_come_as_form_fields_beside_the_edges_own_token(stage):
    form = GRANT | {"client_id": "acme", "client_secret": SECRET}
    assert ask(stage, form, headers={}).status_code == 200
    assert ask(stage, form, headers={"Authorization": "Bearer the.edges.own"}).status_code == 200


def test_id_and_secret_are_form_encoded_within_basic(stage):
    assert ask(stage, headers=basic("acme", SECRET.replace(" ", "%20"))).status_code == 200
    assert ask(stage, headers=basic("acme", SECRET.replace(" ", "+"))).status_code == 200


def errors(answer):
    assert answer.content_type == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert set(answer.json) == {"error", "error_description"}
    return answer.status_code, answer.json["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("acme", "wrong"),
        basic("acme", ""),
        basic("nobody", SECRET),
        basic("other", "x" * 300),
        basic("a\x00b", SECRET),
        {"Authorization": "Basic"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic /w=="},
        {"Authorization": "Basic YWNtZQ=="},
        {"Authorization": "Bearer abc"},
    ],
    ids=str,
)
def test_whoever_is_not_the_client_is_told_how_to_authenticate(stage, headers):
    answer = ask(stage, headers=headers)
    assert errors(answer) == (401, "invalid_client")
    assert answer.headers["WWW-Authenticate"].startswith("Basic realm=")


def test_an_unknown_client_is_not_told_from_a_wrong_secret(stage):
    wrong, unknown = ask(stage, headers=basic("acme", "wrong")), ask(stage, headers=basic("nobody", "wrong"))
    assert wrong.data == unknown.data


def test_a_revoked_client_is_an_unknown_one(stage):
    revoked = tuple(one.model_copy(update={"status": "revoked"}) for one in stage.partner.clients)
    stage.store.put(changed(stage.partner, clients=revoked), 1)
    assert errors(ask(stage)) == (401, "invalid_client")


def test_a_suspended_partners_client_is_unauthorized_but_only_with_its_secret(stage):
    stage.store.put(changed(stage.partner, status="suspended"), 1)
    assert errors(ask(stage)) == (400, "unauthorized_client")
    assert errors(ask(stage, headers=basic("acme", "wrong"))) == (401, "invalid_client")


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({}, "invalid_request"),
        ({"grant_type": ""}, "invalid_request"),
        ({"grant_type": ["client_credentials", "client_credentials"]}, "invalid_request"),
        (GRANT | {"client_id": "acme", "client_secret": SECRET}, "invalid_request"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        (GRANT | {"scope": "payments:everything"}, "invalid_scope"),
        (GRANT | {"scope": "payments:read  events:read"}, "invalid_scope"),
    ],
    ids=str,
)
def test_a_wrong_request_is_told_by_its_code(stage, form, error):
    assert errors(ask(stage, form)) == (400, error)


def test_a_scope_without_a_value_counts_as_left_out(stage):
    assert ask(stage, GRANT | {"scope": ""}).status_code == 200


def test_a_scope_that_the_client_does_not_have_is_refused(stage):
    answer = ask(stage, GRANT | {"scope": "payments:write"}, headers=basic("reader"))
    assert errors(answer) == (400, "invalid_scope")


def test_the_parameters_have_to_be_a_form(stage):
    assert errors(ask(stage, json=GRANT)) == (400, "invalid_request")


@pytest.mark.parametrize("form", [b"grant_type=%FF", b"grant_type=\xff", b"&".join([b"a=b"] * 21)])
def test_a_form_that_cannot_be_read_is_an_invalid_request(stage, form):
    answer = ask(stage, data=form, content_type="application/x-www-form-urlencoded")
    assert errors(answer) == (400, "invalid_request")


def test_a_form_has_an_end(stage):
    answer = ask(stage, GRANT | {"filler": "x" * 20_000})
    assert answer.status_code == 413


def test_when_nobody_can_say_who_the_client_is_it_is_unavailable_not_unknown(stage):
    stage.store.failure = TransientError("the store is away")
    stage.mirror.dispose()
    with stage.owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("REVOKE SELECT ON partner_configs FROM gateway")
    answer = ask(stage)
    assert answer.status_code == 503
    assert answer.json["type"].endswith("/problems/unavailable")
    assert int(answer.headers["Retry-After"]) >= 1


def test_a_token_of_a_partner_that_does_not_exist_is_refused(stage):
    ghost = stage.partner.model_copy(update={"partner_id": "par_00000000000000000000000000"})
    token = stage.tokens.issue(ghost.clients[0], ghost.partner_id, ("payments:read",), stage.clock.now())
    answer = stage.app.test_client().get("/v1/payments", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401
