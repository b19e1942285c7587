"""`make fuzz`: Schemathesis over HTTP, on the gateway and on the edge before it. Another seed each time."""

import random
from datetime import UTC, datetime

import pytest
import requests
from api_fuzzing import PAY, Report, fuzz, register_formats, schemas, strict
from gateway_stage import new_payment
from local_stack import private_stack
from waiting import DEADLINE_SECONDS, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

EXAMPLES = 40
PAYMENT_EXAMPLES = 250
PAYMENTS = 30
# Its own answers are in the document, but its 405 names no methods, as Google's does not.
NOT_AT_THE_EDGE = ("unsupported_method",)


@pytest.fixture(scope="module")
def stack():
    with private_stack() as running:
        yield running


@pytest.fixture(scope="module")
def payment_ids(stack):
    """Payments of the demo partner that SAP has booked, some of them to capture."""
    token, ids = stack.token(), []
    for number in range(PAYMENTS):
        capture = "manual" if number % 2 else "automatic"
        body = new_payment(external_id=f"FUZZ-{number}", capture=capture)
        ids.append(stack.pay(token, f"fuzz-{number}", body).json()["id"])
    for payment_id in ids:
        wait_until(
            lambda wanted=payment_id: stack.payment(token, wanted)["status"] in ("paid", "authorized"),
        )
    return ids


@pytest.mark.parametrize("front", ["gateway", "edge"])
def test_whatever_is_sent_it_answers_as_described(stack, payment_ids, front):
    # in UTC and in the demo partner's time zone there is a day ahead of this one
    # nothing listens there
    register_formats(datetime.now(UTC).date(), "http://127.0.0.1:9/hooks")
    seed = random.randrange(2**32)  # noqa: S311 - no secret
    print("seed", seed)  # noqa: T201 - to repeat a run
    without = NOT_AT_THE_EDGE if front == "edge" else ()
    document = strict(
        requests.get(stack.layout.url("gateway") + "/openapi.json", timeout=DEADLINE_SECONDS).json()
    )
    report = Report()
    for schema in schemas(document, EXAMPLES, PAYMENT_EXAMPLES, seed=seed, without=without):
        schema.config.update(base_url=stack.layout.api if front == "edge" else stack.layout.url("gateway"))
        fuzz(schema, {"payment_id": payment_ids}, stack.token, report)
    print(report)  # noqa: T201 - what was tried
    assert report.failures == []
    assert report.cases >= 1000
    assert report.share(PAY, 202) >= 0.3
