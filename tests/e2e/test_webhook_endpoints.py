"""Through the edge: an endpoint is registered, and the payment of the next request is told to it, at once."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from gateway_stage import new_payment
from stand_ins import Worker
from standardwebhooks import Webhook
from waiting import wait_until

pytestmark = pytest.mark.e2e

PATH = "/v1/webhook-endpoints"
PARTNERS = ("partner", "second_partner")
ROUNDS = 50


def told_of(worker, payment_id):
    """The webhook of the payment's acceptance; that it is paid may be told before."""
    for each in list(worker.requests):
        if payment_id.encode() in each.body and b'"type":"payment.accepted"' in each.body:
            return each
    return None


def rounds(stack, partner):
    """Register, pay, be told, delete, again and again; return how many payments were told."""
    worker, token, told = Worker(), stack.token(partner), 0
    for number in range(ROUNDS):
        made = stack.request("POST", PATH, token, json={"url": f"{worker.url}/{number}"})
        assert made.status_code == 201, made.text
        paid = stack.pay(
            token, f"told-{partner}-{number}", new_payment(external_id=f"{partner[:6]}-{number}")
        )
        assert paid.status_code == 202, paid.text
        payment_id = paid.json()["id"]
        request = wait_until(
            lambda payment_id=payment_id: told_of(worker, payment_id),
            what=f"webhook {number} of {partner}",
        )
        assert request.path == f"/{number}"
        body = Webhook(made.json()["secret"]).verify(request.body, request.headers)
        assert body == json.loads(request.body)
        assert body["data"]["payment"]["id"] == payment_id
        gone = stack.request("DELETE", f"{PATH}/{made.json()['id']}", token)
        assert gone.status_code == 204, gone.text
        told += 1
    worker.close()
    return told


def test_a_new_endpoint_is_told_of_the_payment_of_the_next_request_100_of_100(stack):
    with ThreadPoolExecutor(len(PARTNERS)) as pool:
        told = pool.map(lambda partner: rounds(stack, partner), PARTNERS)
        assert sum(told) == 100
