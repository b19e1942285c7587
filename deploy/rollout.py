"""Deploys one image to all services, and takes it back at the first sign of trouble.

New revisions get no traffic at first: Cloud Run takes one only once its startup probe (/readyz) has passed,
and the service that is reachable from here is smoked at its tag's address. Then 10, 50, 100 % of the
requests, each held for a while and judged by Cloud Monitoring by the objectives of
terraform/monitoring.tf: the share of 5xx answers of the new revisions, and how long partners wait. The
worker pool and the jobs, which take no requests, follow with the first traffic. Whatever fails, all go back
to what they ran.

It needs the standard library and `gcloud`, nothing else.
"""

import argparse
import json
import math
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

STEPS_PERCENT = (10, 50, 100)
TAG = "candidate"
HOLD_SECONDS = 300
MAX_ERROR_SHARE = 0.01
# the objective: 99 of 100 requests within half a second; of the services that partners wait for
MAX_LATENCY_MS = 500.0
# fewer say nothing: one partner's mistake would undo a deployment
MIN_REQUESTS = 50
HTTP_TIMEOUT_SECONDS = 30
SMOKE_ATTEMPTS = 5
SMOKE_PAUSE_SECONDS = 3
GCLOUD_TIMEOUT_SECONDS = 900
MONITORING_URL = "https://monitoring.googleapis.com"


class RolloutError(Exception):
    """Why the deployment is taken back."""


@dataclass(frozen=True)
class Plan:
    """What is deployed where. `hold_seconds`: how long each share of the traffic is watched."""

    project: str
    region: str
    image: str
    services: tuple[str, ...]
    worker_pools: tuple[str, ...]
    jobs: tuple[str, ...]
    smoked: tuple[str, ...]
    hold_seconds: float
    monitoring_url: str


@dataclass(frozen=True)
class Before:
    """What runs now: (service, revision) with all the traffic, (worker pool, image), (job, image)."""

    revisions: tuple[tuple[str, str], ...]
    worker_pools: tuple[tuple[str, str], ...]
    jobs: tuple[tuple[str, str], ...]


def roll_out(plan: Plan) -> None:
    """Deploy; RolloutError after everything has been taken back."""
    before = look(plan)
    try:
        candidates = tuple(deploy(plan, service) for service in plan.services)
        for service in plan.smoked:
            smoke(plan, service)
        for percent in STEPS_PERCENT:
            for (service, old), new in zip(before.revisions, candidates, strict=True):
                shift(plan, service, old, new, percent)
            if percent == STEPS_PERCENT[0]:
                replace_others(plan, before, plan.image)
            watch(plan, candidates)
    except RolloutError:
        take_back(plan, before)
        raise


def look(plan: Plan) -> Before:
    """Read what is to be gone back to."""
    return Before(
        tuple((service, serving_revision(plan, service)) for service in plan.services),
        tuple((pool, running_image(plan, "worker-pools", pool)) for pool in plan.worker_pools),
        tuple((job, running_image(plan, "jobs", job)) for job in plan.jobs),
    )


def serving_revision(plan: Plan, service: str) -> str:
    """Return the revision with all the traffic; without one a person has to end the last deployment."""
    traffic = describe(plan, "services", service)["status"]["traffic"]
    whole = [target["revisionName"] for target in traffic if target.get("percent") == 100]
    if len(whole) != 1:
        raise RolloutError(f"{service} has no revision with all the traffic: end the last deployment first")
    return str(whole[0])


def running_image(plan: Plan, kind: str, name: str) -> str:
    """Return the image of a worker pool or a job."""
    spec = describe(plan, kind, name)["spec"]["template"]["spec"]
    return str(spec.get("template", {}).get("spec", spec)["containers"][0]["image"])


def deploy(plan: Plan, service: str) -> str:
    """Make a revision without traffic, ready to be called at its tag's address; return its name."""
    gcloud(
        plan, "run", "services", "update", service, f"--image={plan.image}", "--no-traffic", f"--tag={TAG}"
    )
    return str(describe(plan, "services", service)["status"]["latestReadyRevisionName"])


def smoke(plan: Plan, service: str) -> None:
    """Ask the new revision whether it has all that it needs."""
    traffic = describe(plan, "services", service)["status"]["traffic"]
    url = next(target["url"] for target in traffic if target.get("tag") == TAG)
    base = describe(plan, "services", service)["status"]["url"]
    token = said(["gcloud", "auth", "print-identity-token", f"--audiences={base}"]).strip()
    problem = ""
    for attempt in range(SMOKE_ATTEMPTS):
        if attempt:
            time.sleep(SMOKE_PAUSE_SECONDS)
        try:
            fetch(f"{url}/readyz", token)
        except OSError as error:
            problem = str(error)
        else:
            return
    raise RolloutError(f"{service} is not ready at {url}: {problem}")


def shift(plan: Plan, service: str, old: str, new: str, percent: int) -> None:
    """Give the new revision its share of the traffic."""
    shares = f"{new}=100" if percent == 100 or old == new else f"{new}={percent},{old}={100 - percent}"
    gcloud(plan, "run", "services", "update-traffic", service, f"--to-revisions={shares}")


def replace_others(plan: Plan, before: Before, image: str | None) -> None:
    """Give worker pools and jobs the image, or (None) the one that each had."""
    for pool, old in before.worker_pools:
        gcloud(plan, "run", "worker-pools", "update", pool, f"--image={image or old}")
    for job, old in before.jobs:
        gcloud(plan, "run", "jobs", "update", job, f"--image={image or old}")


def watch(plan: Plan, candidates: tuple[str, ...]) -> None:
    """Wait, then judge the new revisions by what they have answered meanwhile."""
    began = datetime.now(UTC)
    time.sleep(plan.hold_seconds)
    for service, revision in zip(plan.services, candidates, strict=True):
        requests = answered(plan, revision, began, "")
        errors = answered(plan, revision, began, ' AND metric.labels.response_code_class = "5xx"')
        if requests >= MIN_REQUESTS and errors / requests > MAX_ERROR_SHARE:
            raise RolloutError(f"{revision} answered {errors} of {requests} requests with 5xx")
        if service in plan.smoked and requests >= MIN_REQUESTS:
            latency_ms = slowest(plan, revision, began)
            if latency_ms > MAX_LATENCY_MS:
                raise RolloutError(f"one of a hundred answers of {revision} took {latency_ms:.0f} ms")


def answered(plan: Plan, revision: str, began: datetime, also: str) -> int:
    """Count a revision's answers since `began`."""
    found = points(plan, "request_count", revision, began, also, {})
    return sum(int(point["value"]["int64Value"]) for point in found)


def slowest(plan: Plan, revision: str, began: datetime) -> float:
    """Return the 99th percentile of what a revision's answers took since `began`, in ms."""
    aligned = {
        "aggregation.alignmentPeriod": f"{max(60, math.ceil(plan.hold_seconds) + 60)}s",
        "aggregation.perSeriesAligner": "ALIGN_DELTA",
        "aggregation.crossSeriesReducer": "REDUCE_PERCENTILE_99",
    }
    found = points(plan, "request_latencies", revision, began, "", aligned)
    return max((float(point["value"]["doubleValue"]) for point in found), default=0.0)


def points(
    plan: Plan, metric: str, revision: str, began: datetime, also: str, aggregation: dict[str, str]
) -> list[Any]:
    """Read a metric of a revision since `began`, as Cloud Monitoring has it."""
    kind = f'metric.type = "run.googleapis.com/{metric}" AND resource.type = "cloud_run_revision"'
    query = urllib.parse.urlencode(
        aggregation
        | {
            "filter": f'{kind} AND resource.labels.revision_name = "{revision}"{also}',
            # a window of no width is refused
            "interval.startTime": (began - timedelta(seconds=1)).isoformat(),
            "interval.endTime": datetime.now(UTC).isoformat(),
        }
    )
    token = said(["gcloud", "auth", "print-access-token"]).strip()
    try:
        body = fetch(f"{plan.monitoring_url}/v3/projects/{plan.project}/timeSeries?{query}", token)
    except OSError as error:
        raise RolloutError(f"Cloud Monitoring does not tell how {revision} does: {error}") from error
    return [point for series in json.loads(body).get("timeSeries", []) for point in series["points"]]


def take_back(plan: Plan, before: Before) -> None:
    """Go back to what ran before; go on with the others when one fails."""
    for service, revision in before.revisions:
        try:
            shift(plan, service, revision, revision, 100)
        except RolloutError as error:
            sys.stderr.write(f"could not take back {service}: {error}\n")
    try:
        replace_others(plan, before, None)
    except RolloutError as error:
        sys.stderr.write(f"could not take back: {error}\n")


def describe(plan: Plan, kind: str, name: str) -> Any:
    """Return a resource of Cloud Run as gcloud describes it."""
    return json.loads(gcloud(plan, "run", kind, "describe", name, "--format=json"))


def gcloud(plan: Plan, *arguments: str) -> str:
    """Run gcloud in the plan's project and region."""
    return said(["gcloud", *arguments, f"--project={plan.project}", f"--region={plan.region}", "--quiet"])


def said(command: list[str]) -> str:
    """Run a command and return what it said; RolloutError with its last line if it failed."""
    try:
        done = subprocess.run(  # noqa: S603 - a list, and no shell
            command, capture_output=True, text=True, check=False, timeout=GCLOUD_TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise RolloutError(f"{' '.join(command[:5])} took more than {GCLOUD_TIMEOUT_SECONDS} s") from error
    if done.returncode != 0:
        raise RolloutError(f"{' '.join(command[:5])}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout


def fetch(url: str, token: str) -> bytes:
    """GET with a bearer token; OSError for no answer or one that is not 2xx."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})  # noqa: S310 - https
    with urllib.request.urlopen(request, timeout=HTTP_TIMEOUT_SECONDS) as answer:  # noqa: S310
        return bytes(answer.read())


def main(arguments: list[str]) -> int:
    """Roll out; status 1 and one line if it was taken back."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    for name in ("project", "region", "prefix", "image"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("service", "worker-pool", "job", "smoke"):
        parser.add_argument(f"--{name}", action="append", default=[])
    parser.add_argument("--hold-seconds", type=float, default=HOLD_SECONDS)
    parser.add_argument("--monitoring-url", default=MONITORING_URL, help="for tests")
    given = parser.parse_args(arguments)
    if "@sha256:" not in given.image:
        parser.error("--image is not named by its digest")

    def named(names: list[str]) -> tuple[str, ...]:
        return tuple(f"{given.prefix}-{name}" for name in names)

    plan = Plan(
        *(given.project, given.region, given.image),
        *(named(given.service), named(given.worker_pool), named(given.job), named(given.smoke)),
        *(given.hold_seconds, given.monitoring_url),
    )
    try:
        roll_out(plan)
    except RolloutError as error:
        sys.stderr.write(f"taken back: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
