"""Deploy one image to all services, and take it back when it does worse than the objectives allow.

New revisions get no traffic at first: Cloud Run takes one only once its startup probe (/readyz) has passed,
and the gateway's is asked at its own address. Then 10, 50, 100 % of the requests. At each step the canary
partner pays (deploy/canary_partner.py), and the revisions are judged by what Cloud Monitoring has of them
(deploy/judge.py) until they are good, or the step's time is over without a sign that they are not. The worker
pool and the jobs, which take no requests, follow with the first traffic. Whatever ends the rollout early, an
answer that nobody expected or SIGTERM included, everything goes back to what it ran.

It needs the standard library and `gcloud`, nothing else.
"""

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import FrameType

from canary_partner import CanaryError, CanaryPartner, Client
from cloud_run import CloudRun, GcloudError, access_token, identity_token, said
from judge import Verdict, judge
from monitoring import URL, Monitoring, MonitoringError, fetch

STEPS_PERCENT = (10, 50, 100)
LOOK_SECONDS = 60
# metrics are visible after four minutes at most
MIN_HOLD_SECONDS = 300
MAX_HOLD_SECONDS = 1800
# the objective of those that partners wait for: 99 of 100 requests within half a second
MAX_LATENCY_MS = 500.0
SMOKE_ATTEMPTS = 5
SMOKE_PAUSE_SECONDS = 3


class RolloutError(Exception):
    """Why the deployment is taken back."""


EXPECTED = (RolloutError, GcloudError, MonitoringError, CanaryError)


@dataclass(frozen=True)
class Plan:
    """What is deployed where. `time_scale` shortens every wait, for tests.

    `judged`: services that have to be seen good before they get more; the others only must not be seen bad.
    """

    cloud_run: CloudRun
    monitoring: Monitoring
    image: str
    services: tuple[str, ...]
    worker_pools: tuple[str, ...]
    jobs: tuple[str, ...]
    judged: tuple[str, ...]
    smoked: str | None
    api: str
    canary: Client | None
    time_scale: float = 1.0

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds * self.time_scale)


@dataclass(frozen=True)
class Before:
    """What runs now: (service, revision) with all the traffic, (kind, name, image) of the rest."""

    revisions: tuple[tuple[str, str], ...]
    others: tuple[tuple[str, str, str], ...]


def roll_out(plan: Plan) -> None:
    """Deploy; whatever is raised is raised again after everything has been taken back."""
    before = look(plan)
    try:
        candidates = {
            service: plan.cloud_run.deploy(service, plan.image, old) for service, old in before.revisions
        }
        if plan.smoked:
            smoke(plan, plan.smoked)
        for percent in STEPS_PERCENT:
            began = datetime.now(UTC)
            for service, old in before.revisions:
                plan.cloud_run.shift(service, old, candidates[service], percent)
            if percent == STEPS_PERCENT[0]:
                replace_others(plan, before, plan.image)
            pay(plan, percent)
            watch(plan, candidates, began, percent)
    except BaseException:
        with deaf():
            take_back(plan, before)
        raise


def look(plan: Plan) -> Before:
    """Read what is to be gone back to."""
    kinds = [("worker-pools", name) for name in plan.worker_pools] + [("jobs", name) for name in plan.jobs]
    return Before(
        tuple((service, plan.cloud_run.serving_revision(service)) for service in plan.services),
        tuple((kind, name, plan.cloud_run.image(kind, name)) for kind, name in kinds),
    )


def smoke(plan: Plan, service: str) -> None:
    """Ask the new revision whether it has all that it needs."""
    url = plan.cloud_run.candidate_url(service)
    token = identity_token(plan.cloud_run.url(service))()
    problem = ""
    for attempt in range(SMOKE_ATTEMPTS):
        if attempt:
            plan.sleep(SMOKE_PAUSE_SECONDS)
        try:
            fetch(f"{url}/readyz", token)
        except OSError as error:
            problem = str(error)
        else:
            return
    raise RolloutError(f"{service} is not ready at {url}: {problem}")


def pay(plan: Plan, percent: int) -> None:
    """Pay as the canary partner through the new revision of the gateway."""
    if plan.canary is None or plan.smoked is None:
        tell(f"{percent} %: there is no canary partner; judged by the others' requests only")
        return
    partner = CanaryPartner(
        plan.api,
        plan.cloud_run.candidate_url(plan.smoked),
        plan.canary,
        identity_token(plan.cloud_run.url(plan.smoked)),
        plan.sleep,
    )
    made, is_told = partner.pay(percent, f"{datetime.now(UTC):%Y%m%d%H%M%S}")
    told = " and told" if is_told else "; without an enabled endpoint webhooks were not tried"
    tell(f"{percent} %: {made} payments of the canary partner are paid{told}")


def watch(plan: Plan, candidates: dict[str, str], began: datetime, percent: int) -> None:
    """Return once the judged revisions are good, or their time is over; RolloutError if one is not."""
    waited = 0.0
    while True:
        plan.sleep(LOOK_SECONDS)
        waited += LOOK_SECONDS
        verdicts = {service: verdict(plan, service, candidates[service], began) for service in plan.services}
        good = all(verdicts[service] is Verdict.GOOD for service in plan.judged)
        if waited >= MIN_HOLD_SECONDS and good:
            tell(f"{percent} %: good after {waited:.0f} s")
            return
        if waited >= MAX_HOLD_SECONDS:
            unsure = [service for service in plan.judged if verdicts[service] is not Verdict.GOOD]
            tell(f"{percent} %: too few requests in {waited:.0f} s to be sure of {', '.join(unsure)}")
            return


def verdict(plan: Plan, service: str, revision: str, began: datetime) -> Verdict:
    """Judge one revision; RolloutError if it is to be taken back."""
    requests, errors = plan.monitoring.answered(revision, began)
    if judge(requests, errors) is Verdict.TAKE_BACK:
        raise RolloutError(f"{revision} answered {errors} of {requests} requests with 5xx")
    if service == plan.smoked:
        answered, slow = plan.monitoring.slow(revision, began, MAX_LATENCY_MS)
        if judge(answered, slow) is Verdict.TAKE_BACK:
            raise RolloutError(
                f"{slow} of {answered} answers of {revision} took over {MAX_LATENCY_MS:.0f} ms"
            )
    return judge(requests, errors)


def replace_others(plan: Plan, before: Before, image: str | None) -> None:
    """Give worker pools and jobs the image, or (None) the one that each had."""
    for kind, name, old in before.others:
        plan.cloud_run.replace(kind, name, image or old)


def take_back(plan: Plan, before: Before) -> None:
    """Go back to what ran before; go on with the others when one fails."""
    for service, revision in before.revisions:
        try:
            plan.cloud_run.shift(service, revision, revision, 100)
        except EXPECTED as error:
            tell(f"could not take back {service}: {error}")
    for kind, name, old in before.others:
        try:
            plan.cloud_run.replace(kind, name, old)
        except EXPECTED as error:
            tell(f"could not take back {name}: {error}")


class TerminatedError(BaseException):
    """SIGTERM: Cloud Build's time-out, or somebody has cancelled the build."""


def terminate(_number: int, _frame: FrameType | None) -> None:
    """Handle SIGTERM as something that takes back."""
    raise TerminatedError


@contextmanager
def deaf() -> Iterator[None]:
    """Do not let a second signal interrupt the way back."""
    heard = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)


def tell(line: str) -> None:
    """Write to the build's log at once."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def read_plan(arguments: list[str]) -> Plan:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    for name in ("project", "region", "prefix", "image", "api"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("service", "worker-pool", "job", "judged"):
        parser.add_argument(f"--{name}", action="append", default=[])
    parser.add_argument("--smoke", help="the service that can be called from here: the gateway")
    parser.add_argument("--canary", help="the secret with the canary partner's client")
    parser.add_argument("--time-scale", type=float, default=1.0, help="for tests")
    parser.add_argument("--monitoring-url", default=URL, help="for tests")
    given = parser.parse_args(arguments)
    if "@sha256:" not in given.image:
        parser.error("--image is not named by its digest")

    def named(names: list[str]) -> tuple[str, ...]:
        return tuple(f"{given.prefix}-{name}" for name in names)

    cloud_run = CloudRun(given.project, given.region)
    return Plan(
        cloud_run=cloud_run,
        monitoring=Monitoring(
            given.project,
            access_token(),
            given.monitoring_url,
            lambda seconds: time.sleep(seconds * given.time_scale),
        ),
        image=given.image,
        services=named(given.service),
        worker_pools=named(given.worker_pool),
        jobs=named(given.job),
        judged=named(given.judged),
        smoked=f"{given.prefix}-{given.smoke}" if given.smoke else None,
        api=given.api.rstrip("/"),
        canary=read_canary(given.canary, given.project) if given.canary else None,
        time_scale=given.time_scale,
    )


def read_canary(secret: str, project: str) -> Client | None:
    """Return the canary partner's client, None while the secret has no version."""
    command = [
        "gcloud",
        "secrets",
        "versions",
        "access",
        "latest",
        f"--secret={secret}",
        f"--project={project}",
    ]
    try:
        return Client.read(said(command))
    except GcloudError as error:
        if "NOT_FOUND" in str(error):
            return None
        raise


def main(arguments: list[str]) -> int:
    """Roll out; status 1 and one line if it was taken back."""
    signal.signal(signal.SIGTERM, terminate)
    try:
        roll_out(read_plan(arguments))
    except EXPECTED as error:
        tell(f"taken back: {error}")
        return 1
    except TerminatedError:
        tell("taken back: the build was ended")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
