"""deploy/rollout.py against a `gcloud` that keeps what it is told, and a monitoring that answers by HTTP."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).parents[2]
DIGEST = "sha256:" + "b2" * 32
OLD_IMAGE, NEW_IMAGE = f"registry.invalid/services@sha256:{'a1' * 32}", f"registry.invalid/services@{DIGEST}"

# keeps the state of one project in a file; fails where it is told to
GCLOUD = f"""#!{sys.executable}
import json, pathlib, sys
file = pathlib.Path(__file__).with_name("state.json")
state = json.loads(file.read_text())
words = [word for word in sys.argv[1:] if not word.startswith("--")]
options = dict(word[2:].partition("=")[::2] for word in sys.argv[1:] if word.startswith("--"))
state["calls"].append(sys.argv[1:])
if words[:2] == ["auth", "print-access-token"] or words[:2] == ["auth", "print-identity-token"]:
    print("a-token")
elif words[-2] == "describe":
    print(json.dumps(state[words[1]][words[-1]]))
elif " ".join(words[-2:]) in state["fails"]:
    file.write_text(json.dumps(state))
    sys.exit("ERROR: it did not become ready")
elif words[:3] == ["run", "services", "update"]:
    status = state["services"][words[-1]]["status"]
    status["latestReadyRevisionName"] = words[-1] + "-new"
    target = {{"revisionName": words[-1] + "-new", "tag": options["tag"], "url": state["url"]}}
    status["traffic"].append(target)
elif words[:3] == ["run", "services", "update-traffic"]:
    shares = [share.partition("=") for share in options["to-revisions"].split(",")]
    traffic = [{{"revisionName": name, "percent": int(percent)}} for name, _, percent in shares]
    state["services"][words[-1]]["status"]["traffic"] = traffic
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
        }

    def run(self, url):
        self.file.write_text(json.dumps(self.state))
        done = subprocess.run(
            [
                *(sys.executable, REPOSITORY / "deploy/rollout.py"),
                *("--project=p", "--region=r", "--prefix=bridge", f"--image={NEW_IMAGE}"),
                *("--service=gateway", "--service=webhooks", "--worker-pool=dispatcher", "--job=erase"),
                *("--smoke=gateway", "--hold-seconds=0", f"--monitoring-url={url}"),
            ],
            env={"PATH": f"{self.folder}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        self.state = json.loads(self.file.read_text())
        return done

    def traffic(self, service):
        return {
            each["revisionName"]: each["percent"]
            for each in self.state["services"][service]["status"]["traffic"]
        }

    def image_of_the_dispatcher(self):
        return self.state["worker-pools"]["bridge-dispatcher"]["spec"]["template"]["spec"]["containers"][0][
            "image"
        ]

    def shares_of(self, service):
        return [
            next(word for word in call if word.startswith("--to-revisions")).partition("=")[2]
            for call in self.state["calls"]
            if call[2:4] == ["update-traffic", service]
        ]


class Answers(BaseHTTPRequestHandler):
    """A new revision's /readyz, and the time series of Cloud Monitoring."""

    def do_GET(self):
        asked = urlsplit(self.path)
        if asked.path == "/readyz":
            return self._answer(200 if self.server.ready else 503, {})
        counted = parse_qs(asked.query)["filter"][0]
        if "request_latencies" in counted:
            assert parse_qs(asked.query)["aggregation.crossSeriesReducer"] == ["REDUCE_PERCENTILE_99"]
            points = [{"value": {"doubleValue": self.server.latency_ms}}]
            return self._answer(200, {"timeSeries": [{"points": points}]})
        count = self.server.errors if "5xx" in counted else self.server.requests
        of_new = "-new" in counted
        points = [{"value": {"int64Value": str(count if of_new else 0)}}]
        return self._answer(200, {"timeSeries": [{"points": points}]})

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
    server.ready, server.errors, server.requests, server.latency_ms = True, 0, 1000, 20.0
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_traffic_moves_in_three_steps_and_everything_runs_the_new_image(tmp_path, google):
    project = Project(tmp_path, google.url)
    done = project.run(google.url)
    assert (done.returncode, done.stderr) == (0, "")
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


def test_too_many_errors_take_everything_back(tmp_path, google):
    google.errors = 20
    project = Project(tmp_path, google.url)
    done = project.run(google.url)
    assert done.returncode == 1
    assert "taken back: bridge-gateway-new answered 20 of 1000 requests with 5xx" in done.stderr
    assert project.traffic("bridge-gateway") == {"bridge-gateway-old": 100}
    assert project.traffic("bridge-webhooks") == {"bridge-webhooks-old": 100}
    assert project.image_of_the_dispatcher() == OLD_IMAGE


def test_a_few_errors_are_no_reason(tmp_path, google):
    google.errors = 10
    assert Project(tmp_path, google.url).run(google.url).returncode == 0


def test_a_gateway_that_makes_partners_wait_is_taken_back(tmp_path, google):
    google.latency_ms = 501.0
    project = Project(tmp_path, google.url)
    done = project.run(google.url)
    assert done.returncode == 1
    assert "taken back: one of a hundred answers of bridge-gateway-new took 501 ms" in done.stderr
    assert project.traffic("bridge-gateway") == {"bridge-gateway-old": 100}
    assert project.image_of_the_dispatcher() == OLD_IMAGE


def test_what_a_few_requests_took_says_nothing(tmp_path, google):
    google.latency_ms, google.requests = 5000.0, 49
    assert Project(tmp_path, google.url).run(google.url).returncode == 0


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


def test_nothing_is_touched_while_the_last_deployment_is_unfinished(tmp_path, google):
    project = Project(tmp_path, google.url)
    halves = [{"revisionName": "a", "percent": 50}, {"revisionName": "b", "percent": 50}]
    project.state["services"]["bridge-webhooks"]["status"]["traffic"] = halves
    done = project.run(google.url)
    assert "end the last deployment first" in done.stderr
    assert not any("update" in word for call in project.state["calls"] for word in call)


def test_an_image_by_its_tag_is_refused():
    done = subprocess.run(
        [
            *(sys.executable, REPOSITORY / "deploy/rollout.py"),
            *("--project=p", "--region=r", "--prefix=b", "--image=registry.invalid/services:latest"),
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
