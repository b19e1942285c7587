"""`bridge webhooks …`: the check finds what a receiver does wrong, the listener does it right."""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import pytest
import requests
from stand_ins import REPOSITORY, accepts_connections, free_port
from standardwebhooks import Webhook, WebhookVerificationError
from waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.integration

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ENVIRONMENT = {"PATH": os.environ["PATH"], "BRIDGE_WEBHOOK_SECRET": SECRET}


@pytest.fixture
def receiver():
    """Start receivers: `receiver(judge)` answers what `judge(body, headers)` returns."""
    servers = []

    def start(judge):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, *location = judge(body, {name.lower(): value for name, value in self.headers.items()})
                self.send_response(status)
                for value in location:
                    self.send_header("Location", value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_arguments):
                """Keep the tests' output clean."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/hooks"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def verifies(body, headers):
    try:
        Webhook(SECRET).verify(body, headers)
    except WebhookVerificationError:
        return False
    return True


def check(url, *options):
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "webhooks", "check", url, *options],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def failed_probes(url):
    done = check(url, "--json")
    findings = json.loads(done.stdout)
    failed = {finding["probe"] for finding in findings if not finding["passed"]}
    assert done.returncode == (1 if failed else 0), done.stderr
    return failed


def test_a_receiver_that_verifies_passes_every_probe(receiver):
    url = receiver(lambda body, headers: (204 if verifies(body, headers) else 401,))
    done = check(url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout
    assert SECRET not in done.stdout


def test_a_receiver_that_verifies_nothing_fails_by_every_forgery(receiver):
    failed = failed_probes(receiver(lambda _body, _headers: (200,)))
    assert failed == {
        "a signature by another secret",
        "a body changed on its way",
        "a webhook-id changed on its way",
        "no signature",
        "a good signature from ten minutes ago",
        "a good signature from ten minutes ahead",
    }


def test_a_receiver_that_does_not_look_at_the_time_is_found(receiver):
    def judge(body, headers):
        text = body.decode()
        signed_at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), tz=UTC)
        expected = Webhook(SECRET).sign(headers["webhook-id"], signed_at, text)
        return (200 if expected in headers.get("webhook-signature", "").split() else 400,)

    assert failed_probes(receiver(judge)) == {
        "a good signature from ten minutes ago",
        "a good signature from ten minutes ahead",
    }


def test_a_receiver_that_takes_one_signature_only_is_found(receiver):
    def judge(body, headers):
        first = headers.get("webhook-signature", "").split(" ")[0]
        return (200 if verifies(body, {**headers, "webhook-signature": first}) else 401,)

    assert failed_probes(receiver(judge)) == {"several signatures, one of them good (rotation)"}


def test_a_receiver_that_refuses_what_it_has_seen_is_found(receiver):
    seen = set()

    def judge(body, headers):
        if not verifies(body, headers):
            return (401,)
        event_id = json.loads(body)["id"]
        known = event_id in seen
        seen.add(event_id)
        return (409 if known else 200,)

    assert failed_probes(receiver(judge)) == {
        "the same delivery again (replay)",
        "a retry: the same webhook-id, signed anew",
    }


def test_a_redirect_is_no_answer_and_ends_the_check(receiver):
    url = receiver(lambda _body, _headers: (302, "http://127.0.0.1:9/elsewhere"))
    done = check(url, "--json")
    assert done.returncode == 1
    assert [finding["observed"].split(" ")[0] for finding in json.loads(done.stdout)] == ["302"]


def test_nobody_there_is_told_in_one_finding():
    done = check(f"http://127.0.0.1:{free_port()}/")
    assert done.returncode == 1
    assert "ConnectionError" in done.stdout


@pytest.mark.parametrize("url", ["ftp://receiver.example", "receiver.example", "http://"])
def test_an_address_that_is_none_is_a_usage_error(url):
    assert check(url).returncode == 2


@pytest.fixture
def listener():
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "cli.main", "webhooks", "listen", "--port", str(port)],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
        # a shell starts what runs in its background deaf to it, and who starts the tests may have done so
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads here
    )
    try:
        wait_until(lambda: accepts_connections(port))
        yield process, f"http://127.0.0.1:{port}/"
    finally:
        process.kill()
        process.communicate(timeout=DEADLINE_SECONDS)


def deliver(url, sequence, previous_sequence, secret=SECRET):
    event_id, now = f"evt_{sequence}", datetime.now(UTC).replace(microsecond=0)
    body = json.dumps(
        {
            "id": event_id,
            "type": "payment.paid",
            "sequence": sequence,
            "previous_sequence": previous_sequence,
            "data": {},
        }
    )
    headers = {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(time.time())),
        "webhook-signature": Webhook(secret).sign(event_id, now, body),
    }
    return requests.post(url, data=body, headers=headers, timeout=DEADLINE_SECONDS).status_code


def test_the_listener_passes_the_check(listener):
    _, url = listener
    assert failed_probes(url) == set()


def test_the_listener_tells_what_it_gets_what_it_refuses_and_what_is_missing(listener):
    process, url = listener
    assert deliver(url, 7, 3) == 200
    assert deliver(url, 7, 3) == 200
    assert deliver(url, 9, 8, secret="whsec_" + "A" * 32) == 401
    assert deliver(url, 12, 9) == 200
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=DEADLINE_SECONDS)
    lines = output.splitlines()[1:]
    assert lines[0] == lines[1] == "evt_7 #7 payment.paid: verified"
    assert lines[2].startswith("evt_9 #9 payment.paid: REFUSED")
    assert lines[3:] == [
        "evt_12 #12 payment.paid: verified",
        "  events between 7 and 9 have not arrived: GET /v1/events?after=7",
    ]
