"""Every route of every service: a single header that comes twice, or a parameter nobody knows, is 400.

Two Idempotency-Key headers were joined to a third key, so that a refund of 30 was accepted three times.
"""

import http.client
import json
import re
import subprocess
import sys

import pytest
from every_service import NAMES, app_of
from stand_ins import REPOSITORY, accepts_connections, free_port
from waiting import DEADLINE_SECONDS, wait_until

from bridge.web.single_headers import SINGLE_HEADERS
from bridge.web.strict import query_of

pytestmark = pytest.mark.integration

VALUES = {
    "Content-Length": "2",
    "Content-Type": "application/json",
    "Host": "bridge.example",
    "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
}
# What may come twice: lists (RFC 9110, W3C Trace Context), and what no service reads.
REPEATABLE = ("Accept", "X-Forwarded-For", "Via", "tracestate", "X-Unheard-Of")


class Served:
    def __init__(self, name, folder):
        self.app = app_of(name, folder)
        self.port = free_port()
        script = str(REPOSITORY / "tests" / "every_service.py")
        command = [sys.executable, script, name, str(self.port), str(folder)]
        self._process = subprocess.Popen(command, cwd=REPOSITORY)
        wait_until(lambda: accepts_connections(self.port), what=name)

    def stop(self):
        self._process.terminate()
        assert self._process.wait(DEADLINE_SECONDS) == 0

    def routes(self):
        for rule in self.app.url_map.iter_rules():
            path = re.sub(r"<any\(([a-z-]+)[^>]*>", r"\1", rule.rule)
            path = re.sub(r"<int:[^>]+>", "1", path)
            path = re.sub(r"<[^>]*payment_id>", "pay_" + "0" * 26, path)
            path = re.sub(r"<[^>]+>", "x", path)
            for method in sorted(rule.methods - {"HEAD", "OPTIONS"}):
                yield method, path, self.app.view_functions[rule.endpoint]

    def status(self, method, path, headers=()):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_SECONDS)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            given = {name.lower() for name, _ in headers}
            usual = [("Host", "bridge.example"), ("Content-Length", "2")]
            for name, value in [*(each for each in usual if each[0].lower() not in given), *headers]:
                connection.putheader(name, value)
            connection.endheaders(b"{}")
            answer = connection.getresponse()
            content = answer.read()
            if answer.status == 400 and content:
                assert answer.headers["Content-Type"] == "application/problem+json"
                assert "/problems/" in json.loads(content)["type"]
            return answer.status
        finally:
            connection.close()


@pytest.fixture(scope="module", params=NAMES)
def served(request, tmp_path_factory):
    made = Served(request.param, tmp_path_factory.mktemp(request.param))
    yield made
    made.stop()


def test_a_single_header_that_comes_twice_is_refused_by_every_route(served):
    asked = 0
    for method, path, _ in served.routes():
        for name in SINGLE_HEADERS:
            value = VALUES.get(name, "a")
            assert served.status(method, path, [(name, value), (name, value)]) == 400, (method, path, name)
            asked += 1
    assert asked >= 3 * len(SINGLE_HEADERS)


def test_what_was_joined_on_the_way_is_refused_by_every_route(served):
    """Envoy joins some, and every proxy may (RFC 9110 section 5.3)."""
    for method, path, _ in served.routes():
        for name in SINGLE_HEADERS:
            value = VALUES.get(name, "a")
            assert served.status(method, path, [(name, f"{value},{value}")]) == 400, (method, path, name)


def test_a_list_may_come_twice(served):
    twice = [(name, "x") for name in REPEATABLE for _ in range(2)]
    assert served.status("GET", "/livez", twice) == 200


def test_a_parameter_that_a_route_does_not_know_is_refused(served):
    for method, path, _ in served.routes():
        for query in ("limits=1", "a", "%00=1", "limit[]=1"):
            assert served.status(method, f"{path}?{query}") == 400, (method, path, query)


def test_a_parameter_that_comes_twice_is_refused_unless_several_are_asked_for(served):
    for method, path, view in served.routes():
        for name, may_be_several in query_of(view).items():
            status = served.status(method, f"{path}?{name}=1&{name}=2")
            assert status == 400 or may_be_several, (method, path, name)
