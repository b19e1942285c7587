"""deploy/rollout.py against a `gcloud` that keeps what it is told, and Google and the API by HTTP."""

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import deployer_permissions
import pytest
from waiting import wait_until

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[2]
DIGEST = "sha256:" + "b2" * 32
OLD_IMAGE, NEW_IMAGE = f"registry.invalid/services@sha256:{'a1' * 32}", f"registry.invalid/services@{DIGEST}"

# keeps the state of one project in a file; fails where it is told to
# -S and -E: a rollout starts it sixty times
GCLOUD = f"""#!{sys.executable} -SE
import json, pathlib, sys
file = pathlib.Path(__file__).with_name("state.json")
state = json.loads(file.read_text())
words = [word for word in sys.argv[1:] if not word.startswith("--") and word != "beta"]
options = dict(word[2:].partition("=")[::2] for word in sys.argv[1:] if word.startswith("--"))
state["calls"].append(sys.argv[1:])
if words[:2] == ["auth", "print-access-token"] or words[:2] == ["auth", "print-identity-token"]:
    print("a-token")
elif words[:3] == ["secrets", "versions", "access"]:
    if state["canary"] is None:
        sys.exit("ERROR: NOT_FOUND: Secret [canary-client] not found or has no versions.")
    print(json.dumps(state["canary"]))
elif words[-2] == "describe":
    print(json.dumps(state[words[1]][words[-1]]))
elif " ".join(words[-2:]) in state["fails"]:
    file.write_text(json.dumps(state))
    sys.exit("ERROR: it did not become ready")
elif words[:3] == ["run", "services", "update"]:
    status = state["services"][words[-1]]["status"]
    status["latestReadyRevisionName"] = words[-1] + "-new"
    assert "tag" not in options, "gcloud would name the revision"
elif words[:3] == ["run", "services", "update-traffic"] and "update-tags" in options:
    traffic = state["services"][words[-1]]["status"]["traffic"]
    for tag, _, name in [pair.partition("=") for pair in options["update-tags"].split(",")]:
        traffic[:] = [target for target in traffic if target.get("tag") != tag]
        traffic.append({{"revisionName": name, "tag": tag, "url": state["url"]}})
elif words[:3] == ["run", "services", "update-traffic"]:
    shares = [share.partition("=") for share in options["to-revisions"].split(",")]
    status = state["services"][words[-1]]["status"]
    tags = [target for target in status["traffic"] if "tag" in target]
    moved = [{{"revisionName": name, "percent": int(percent)}} for name, _, percent in shares]
    status["traffic"] = moved + tags
elif words[2] == "update":
    spec = state[words[1]][words[-1]]["spec"]["template"]["spec"]
    spec.get("template", {{}}).get("spec", spec)["containers"][0]["image"] = options["image"]
file.write_text(json.dumps(state))
"""


class Project:
    """A project as gcloud shows it, and what Cloud Monitoring counts of the new revisions."""

    def __init__(self, folder, url):
        self.folder = folder
        program = folder / "gcloud"
        program.write_text(GCLOUD)
        program.chmod(0o755)
        self.file = folder / "state.json"
        container = {"containers": [{"image": OLD_IMAGE}]}
        self.state = {
            "services": {
                name: {
                    "status": {
                        "url": url,
                        "latestReadyRevisionName": f"{name}-old",
                        "traffic": [{"revisionName": f"{name}-old", "percent": 100}],
                    }
                }
                for name in ("bridge-gateway", "bridge-webhooks")
            },
            "worker-pools": {"bridge-dispatcher": {"spec": {"template": {"spec": container}}}},
            "jobs": {"bridge-erase": {"spec": {"template": {"spec": {"template": {"spec": container}}}}}},
            "url": url,
            "calls": [],
            "fails": [],
            "canary": {"client_id": "canary", "client_secret": "s"},
        }

    def start(self, url, time_scale=0.0):
        self.file.write_text(json.dumps(self.state))
        return subprocess.Popen(
            [
                *(sys.executable, REPOSITORY / "deploy/rollout.py"),
                *("--project=p", "--region=r", "--prefix=bridge", f"--image={NEW_IMAGE}", f"--api={url}"),
                *("--service=gateway", "--service=webhooks", "--worker-pool=dispatcher", "--job=erase"),
                *("--judged=gateway", "--judged=webhooks", "--smoke=gateway", "--canary=canary-client"),
                *(f"--time-scale={time_scale}", f"--monitoring-url={url}"),
            ],
            env={"PATH": f"{self.folder}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, url):
        process = self.start(url)
        out, errors = process.communicate(timeout=120)
        self.state = json.loads(self.file.read_text())
        return subprocess.CompletedProcess(process.args, process.returncode, out, errors)

    def traffic(self, service):
        return {
            each["revisionName"]: each["percent"]
            for each in self.state["services"][service]["status"]["traffic"]
            if "percent" in each
        }

    def image_of_the_dispatcher(self):
        return self.state["worker-pools"]["bridge-dispatcher"]["spec"]["template"]["spec"]["containers"][0][
            "image"
        ]

    def shares_of(self, service):
        return [
            next(word for word in call if word.startswith("--to-revisions")).partition("=")[2]
            for call in self.state["calls"]
            if call[2:4] == ["update-traffic", service] and any("--to-revisions" in word for word in call)
        ]


class Answers(BaseHTTPRequestHandler):
    """A new revision's /readyz, the API as the canary partner uses it, and Cloud Monitoring's time series."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.path == "/oauth2/token":
            return self._answer(200, {"access_token": "t"})
        assert self.headers["X-Serverless-Authorization"] == "Bearer a-token"
        assert self.headers["Authorization"] == "Bearer t"
        self.server.payments.append(self.headers["Idempotency-Key"])
        return self._answer(202, {"id": f"pay_{len(self.server.payments)}"})

    def do_GET(self):
        asked = urlsplit(self.path)
        deliveries = [{"id": "dlv_1"}] if self.server.undelivered else []
        api = {
            "/v1/webhook-endpoints": {"data": self.server.endpoints},
            "/v1/webhook-endpoints/we_1/deliveries": {"data": deliveries},
        }
        if asked.path == "/readyz":
            self._answer(200 if self.server.ready else 503, {})
        elif asked.path.startswith("/v1/payments/"):
            self._answer(200, {"status": self.server.payment_status})
        elif asked.path in api:
            self._answer(200, api[asked.path])
        elif self.server.away:
            self.server.away -= 1
            self._answer(self.server.away_status, {})
        else:
            self.server.looks += 1
            self._answer(200, {"timeSeries": self._series(parse_qs(asked.query)["filter"][0])})

    def _series(self, counted):
        if "-new" not in counted:
            return []
        if "request_latencies" in counted:
            # exponential buckets of 2: 256 to 512 ms, 512 to 1024 ms
            counts = [0] * 9 + [self.server.requests - self.server.slow, self.server.slow]
            distribution = {
                "count": str(self.server.requests),
                "bucketOptions": {
                    "exponentialBuckets": {"numFiniteBuckets": 20, "scale": 1, "growthFactor": 2}
                },
                "bucketCounts": [str(count) for count in counts],
            }
            return [{"points": [{"value": {"distributionValue": distribution}}]}]
        if self.server.nonsense:
            return [{"no": "points"}]
        return [
            {
                "metric": {"labels": {"response_code_class": kind}},
                "points": [{"value": {"int64Value": str(count)}}],
            }
            for kind, count in (
                ("2xx", self.server.requests - self.server.errors),
                ("5xx", self.server.errors),
            )
        ]

    def _answer(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments):
        pass


@pytest.fixture
def google():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.ready, server.errors, server.requests, server.slow = True, 0, 1000, 0
    server.payments, server.payment_status, server.undelivered = [], "paid", False
    server.endpoints = [{"id": "we_1", "status": "enabled"}]
    server.looks, server.away, server.away_status, server.nonsense = 0, 0, 503, False
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def assert_taken_back(project):
    assert project.traffic("bridge-gateway") == {"bridge-gateway-old": 100}
    assert project.traffic("bridge-webhooks") == {"bridge-webhooks-old": 100}
    assert project.image_of_the_dispatcher() == OLD_IMAGE


def test_traffic_moves_in_three_steps_and_everything_runs_the_new_image(tmp_path, google):
    project = Project(tmp_path, google.url)
    done = project.run(google.url)
    assert done.returncode == 0, done.stderr
    assert project.shares_of("bridge-webhooks") == [
        "bridge-webhooks-new=10,bridge-webhooks-old=90",
        "bridge-webhooks-new=50,bridge-webhooks-old=50",
        "bridge-webhooks-new=100",
    ]
    assert project.image_of_the_dispatcher() == NEW_IMAGE
    [first] = [
        call for call in project.state["calls"] if call[1:4] == ["services", "update", "bridge-gateway"]
    ]
    assert {"--no-traffic", f"--image={NEW_IMAGE}"} <= set(first)
    assert "10 %: good after 300 s" in done.stderr


def test_the_deployer_may_run_every_command_of_a_rollout(tmp_path, google):
    project = Project(tmp_path, google.url)
    assert project.run(google.url).returncode == 0
    commands = [[word for word in call if not word.startswith("-")] for call in project.state["calls"]]
    assert deployer_permissions.missing(commands) == {}


def test_the_canary_partner_pays_at_each_step_so_often_that_each_revision_meets_it(tmp_path, google):
    assert Project(tmp_path, google.url).run(google.url).returncode == 0
    steps = [key.split("-")[2] for key in google.payments]
    assert [steps.count(percent) for percent in ("10", "50", "100")] == [29, 5, 1]
    assert len(set(google.payments)) == len(google.payments)


@pytest.mark.parametrize("endpoints", [[], [{"id": "we_1", "status": "disabled"}]])
def test_a_canary_partner_without_an_enabled_endpoint_tries_no_webhooks_and_it_is_said(
    tmp_path, google, endpoints
):
    google.endpoints = endpoints
    done = Project(tmp_path, google.url).run(google.url)
    assert done.returncode == 0
    assert "10 %: 29 payments of the canary partner are paid; without an enabled endpoint" in done.stderr


@pytest.mark.parametrize("status", ["rejected", "cancelled"])
def test_a_payment_of_the_canary_that_does_not_go_through_takes_back(tmp_path, google, status):
    google.payment_status = status
    project = Project(tmp_path, google.url)
    done = project.run(google.url)
    assert f"taken back: the canary's payment pay_1 is {status}" in done.stderr
    assert_taken_back(project)


def test_without_a_canary_partner_it_says_so_and_goes_on(tmp_path, google):
    project = Project(tmp_path, google.url)
    project.state["canary"] = None
    done = project.run(google.url)
    assert done.returncode == 0
    assert "there is no canary partner" in done.stderr
    assert google.payments == []


def test_too_many_errors_take_everything_back(tmp_path, google):
    google.errors = 25
    project = Project(tmp_path, google.url)
    done = project.run(google.url)
    assert done.returncode == 1
    assert "taken back: bridge-gateway-new answered 25 of 1000 requests with 5xx" in done.stderr
    assert_taken_back(project)


def test_a_gateway_that_makes_partners_wait_is_taken_back(tmp_path, google):
    google.slow = 25
    project = Project(tmp_path, google.url)
    done = project.run(google.url)
    assert done.returncode == 1
    assert "taken back: 25 of 1000 answers of bridge-gateway-new took over 500 ms" in done.stderr
    assert_taken_back(project)


def test_one_error_of_twelve_waits_until_the_time_is_over(tmp_path, google):
    google.requests, google.errors = 12, 1
    done = Project(tmp_path, google.url).run(google.url)
    assert done.returncode == 0
    assert "too few requests in 1800 s to be sure of bridge-gateway, bridge-webhooks" in done.stderr


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_monitoring_that_fails_now_and_then_undoes_nothing(tmp_path, google, status):
    google.away, google.away_status = 4, status
    assert Project(tmp_path, google.url).run(google.url).returncode == 0


@pytest.mark.parametrize(("times", "status"), [(1000, 503), (1, 403)])
def test_a_monitoring_that_says_nothing_takes_back(tmp_path, google, times, status):
    google.away, google.away_status = times, status
    project = Project(tmp_path, google.url)
    done = project.run(google.url)
    assert "taken back: Cloud Monitoring does not answer" in done.stderr
    assert_taken_back(project)


def test_an_answer_that_nobody_expected_takes_back_too(tmp_path, google):
    google.nonsense = True
    project = Project(tmp_path, google.url)
    done = project.run(google.url)
    assert done.returncode == 1
    assert "KeyError" in done.stderr
    assert_taken_back(project)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_build_that_is_ended_takes_back(tmp_path, google, number):
    google.requests = 12
    project = Project(tmp_path, google.url)
    # a look each 0.6 s: thirty of them take longer than it is given
    process = project.start(google.url, time_scale=0.01)
    try:
        wait_until(lambda: google.looks >= 2, timeout_seconds=60, what="the first share is watched")
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    project.state = json.loads(project.file.read_text())
    assert process.returncode != 0, errors
    assert_taken_back(project)


def test_a_revision_that_does_not_become_ready_gets_no_request(tmp_path, google):
    project = Project(tmp_path, google.url)
    project.state["fails"] = ["update bridge-webhooks"]
    done = project.run(google.url)
    assert done.returncode == 1
    assert "it did not become ready" in done.stderr
    for service in ("bridge-gateway", "bridge-webhooks"):
        assert project.traffic(service) == {f"{service}-old": 100}
        assert all("-new" not in share for share in project.shares_of(service))


def test_a_smoke_that_fails_takes_it_back(tmp_path, google):
    google.ready = False
    project = Project(tmp_path, google.url)
    done = project.run(google.url)
    assert "taken back: bridge-gateway is not ready" in done.stderr
    assert project.traffic("bridge-gateway") == {"bridge-gateway-old": 100}


def test_nothing_is_touched_while_nobody_knows_what_served_before(tmp_path, google):
    project = Project(tmp_path, google.url)
    halves = [{"revisionName": "a", "percent": 50}, {"revisionName": "b", "percent": 50}]
    project.state["services"]["bridge-webhooks"]["status"]["traffic"] = halves
    done = project.run(google.url)
    assert "give it to one by hand" in done.stderr
    assert not any("update" in word for call in project.state["calls"] for word in call)


def test_what_a_killed_rollout_has_left_is_known_by_its_tag(tmp_path, google):
    project = Project(tmp_path, google.url)
    project.state["services"]["bridge-webhooks"]["status"]["traffic"] = [
        {"revisionName": "bridge-webhooks-killed", "percent": 10},
        {"revisionName": "bridge-webhooks-old", "percent": 90},
        {"revisionName": "bridge-webhooks-old", "tag": "before", "url": google.url},
    ]
    google.errors = 25
    project.run(google.url)
    assert project.traffic("bridge-webhooks") == {"bridge-webhooks-old": 100}


def test_an_image_by_its_tag_is_refused():
    done = subprocess.run(
        [
            *(sys.executable, REPOSITORY / "deploy/rollout.py"),
            *("--project=p", "--region=r", "--prefix=b", "--image=registry.invalid/services:latest"),
            "--api=https://api.invalid",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "not named by its digest" in done.stderr


@pytest.mark.parametrize(("content", "status"), [({"containerimage.digest": DIGEST}, 0), ({}, 1)])
def test_the_digest_is_what_buildx_says(tmp_path, content, status):
    file = tmp_path / "services.json"
    file.write_text(json.dumps(content))
    done = subprocess.run(
        [sys.executable, REPOSITORY / "deploy/digest.py", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == status
    assert done.stdout.strip() == (DIGEST if status == 0 else "")
