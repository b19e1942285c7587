"""At every attempt: targets within are refused, whatever they resolved to when they were registered."""

from datetime import UTC, datetime

import pytest
from stand_ins import Worker
from webhook_targets import FORBIDDEN_HOSTS, FORBIDDEN_URLS, NAMES

from bridge.clock import ManualClock
from bridge.web.addresses import UnresolvableHostError, resolve
from webhooks.sender import Sender

pytestmark = pytest.mark.integration


def answered_by(names):
    """A name server of the attacker's; addresses in any form are read as the system reads them."""

    def ask(host, port):
        if host in names:
            return names[host]
        if host.endswith(".example"):
            raise UnresolvableHostError("no such name")
        return resolve(host, port)

    return ask


def sender(resolver, *, allow_http_loopback=False):
    return Sender(
        ManualClock(datetime.now(UTC)),
        timeout_seconds=30.0,
        allow_http_loopback=allow_http_loopback,
        max_connections=4,
        resolver=resolver,
    )


@pytest.mark.parametrize("host", FORBIDDEN_HOSTS)
def test_a_target_within_is_refused_at_delivery(host):
    answer = sender(answered_by(NAMES)).post(f"https://{host}/hooks", b"{}", {})
    assert answer.status is None
    assert answer.error_class in ("forbidden-address", "forbidden-url")


@pytest.mark.parametrize("url", FORBIDDEN_URLS)
def test_a_url_that_is_not_plain_https_is_refused_at_delivery(url):
    answer = sender(answered_by(NAMES)).post(url, b"{}", {})
    assert answer.status is None
    assert answer.error_class in ("forbidden-url", "unresolvable-host")


def test_a_name_that_is_bound_anew_after_its_registration_is_refused():
    answers = iter([["93.184.215.14"], ["10.0.0.1"], ["169.254.169.254"]])
    ask = answered_by({})
    rebinding = sender(lambda host, port: next(answers) if host == "rebinds.example" else ask(host, port))
    assert next(answers) == ["93.184.215.14"], "as it was at its registration"
    for _ in range(2):
        answer = rebinding.post("https://rebinds.example/hooks", b"{}", {})
        assert (answer.status, answer.error_class) == (None, "forbidden-address")


def test_a_name_is_asked_for_once_per_connection_and_that_answer_is_connected_to():
    """Between the check and the connection there is no second question that could be answered otherwise."""
    worker = Worker()
    port = int(worker.url.rpartition(":")[2])
    asked = []

    def ask(host, _port):
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    answer = sender(ask, allow_http_loopback=True).post(f"http://localhost:{port}/", b"{}", {})
    worker.close()
    assert answer.status == 200
    assert asked == ["localhost"]


@pytest.mark.parametrize(
    "target", ["http://169.254.169.254/latest/meta-data", "https://10.0.0.1/", "/within"]
)
def test_a_redirect_is_never_followed(target):
    worker = Worker(statuses=[302, 307, 308], answer_headers={"Location": target})
    for status in (302, 307, 308):
        answer = sender(resolve, allow_http_loopback=True).post(worker.url, b"{}", {})
        assert (answer.status, answer.error_class) == (status, "http-status")
    assert len(worker.requests) == 3
    worker.close()
