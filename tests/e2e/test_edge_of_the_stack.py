"""The edge as partners meet it: Envoy on the API's port, the real gateway behind it."""

import base64
import json

import pytest
import requests
from local_stack import CALL_TIMEOUT_SECONDS
from partner_run import PartnerRun

pytestmark = pytest.mark.e2e


def test_without_a_token_or_on_an_unlisted_path_the_edge_answers_itself(stack):
    for method, path, status in (
        ("GET", "/v1/payments", 401),
        ("GET", "/livez", 404),
        ("DELETE", "/v1/payments", 405),
    ):
        answer = stack.request(method, path)
        assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/json")
        assert answer.json()["code"] == status


def test_the_well_known_documents_and_problem_pages_are_open_and_name_the_api(stack):
    metadata = stack.request("GET", "/.well-known/oauth-authorization-server").json()
    assert metadata["issuer"] == stack.document["api"]
    assert metadata["jwks_uri"].startswith(stack.document["api"])
    keys = requests.get(metadata["jwks_uri"], timeout=CALL_TIMEOUT_SECONDS).json()
    assert keys["keys"]
    assert stack.request("GET", "/.well-known/receipt-keys.json").json()["keys"]
    answer = stack.request("POST", "/v1/payments", stack.token(), json={})
    assert requests.get(answer.json()["type"], timeout=CALL_TIMEOUT_SECONDS).status_code == 200


def test_what_the_client_says_in_the_edges_headers_counts_for_nothing(stack):
    run = PartnerRun.on(stack)
    body = run.instructions.body("mine", 1)
    mine = stack.pay(stack.token(), f"{body['external_id']}-key", body).json()["id"]
    claims = {"partner_id": stack.document["partner"]["id"], "scope": "payments:read"}
    forged = {
        "X-Apigateway-Api-Userinfo": base64.urlsafe_b64encode(json.dumps(claims).encode()).decode(),
        "X-Forwarded-Authorization": f"Bearer {stack.token()}",
    }
    other = stack.token("second_partner")
    assert stack.request("GET", f"/v1/payments/{mine}", other, headers=forged).status_code == 404
    assert stack.request("GET", f"/v1/payments/{mine}", headers=forged).status_code == 401
    run.wait_until_drained()
