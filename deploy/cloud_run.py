"""Cloud Run as a deployment sees it: what runs, which revision gets which share, what it ran before.

With `--tag`, gcloud names the revision itself, and the name stands in the service's template from then on.
Terraform would send it again with another template: 409 (hashicorp/terraform-provider-google#14569). So tags
are set after the deployment.
"""

import json
import subprocess
import time
from dataclasses import dataclass
from typing import Any

CANDIDATE, BEFORE = "candidate", "before"
GCLOUD_TIMEOUT_SECONDS = 900
KEEP_TOKEN_SECONDS = 600.0


class GcloudError(Exception):
    """gcloud refused, in its own last line."""


def said(command: list[str]) -> str:
    """Run a command and return what it said."""
    try:
        done = subprocess.run(  # noqa: S603 - a list, and no shell
            command, capture_output=True, text=True, check=False, timeout=GCLOUD_TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise GcloudError(f"{' '.join(command[:5])} took more than {GCLOUD_TIMEOUT_SECONDS} s") from error
    if done.returncode != 0:
        raise GcloudError(f"{' '.join(command[:5])}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout


class Token:
    """A token that gcloud prints, kept for a while: it is good for an hour."""

    def __init__(self, *command: str) -> None:
        self._command = command
        self._token, self._until_seconds = "", 0.0

    def __call__(self) -> str:
        now_seconds = time.monotonic()
        if now_seconds >= self._until_seconds:
            self._token = said(["gcloud", "auth", *self._command]).strip()
            self._until_seconds = now_seconds + KEEP_TOKEN_SECONDS
        return self._token


def access_token() -> Token:
    """Return what gives tokens for Google's APIs."""
    return Token("print-access-token")


def identity_token(audience: str) -> Token:
    """Return what gives tokens for a service: needs roles/iam.serviceAccountOpenIdTokenCreator on oneself."""
    return Token("print-identity-token", f"--audiences={audience}")


@dataclass(frozen=True)
class CloudRun:
    """Cloud Run of one project in one region."""

    project: str
    region: str

    def run(self, *arguments: str) -> str:
        place = [f"--project={self.project}", f"--region={self.region}", "--quiet"]
        return said(["gcloud", *arguments, *place])

    def describe(self, kind: str, name: str) -> Any:
        """Return a `services`, `jobs` or `worker-pools` resource as gcloud describes it."""
        track = ["beta"] if kind == "worker-pools" else []
        return json.loads(self.run(*track, "run", kind, "describe", name, "--format=json"))

    def url(self, service: str) -> str:
        return str(self.describe("services", service)["status"]["url"])

    def candidate_url(self, service: str) -> str:
        """Return the address of the new revision alone."""
        traffic = self.describe("services", service)["status"]["traffic"]
        urls = [str(target["url"]) for target in traffic if target.get("tag") == CANDIDATE]
        if not urls:
            raise GcloudError(f"{service} has no revision with the tag {CANDIDATE}")
        return urls[0]

    def serving_revision(self, service: str) -> str:
        """Return the revision with all the traffic, or the one that a rollout which was killed began with."""
        traffic = self.describe("services", service)["status"]["traffic"]
        whole = [str(target["revisionName"]) for target in traffic if target.get("percent") == 100]
        before = [str(target["revisionName"]) for target in traffic if target.get("tag") == BEFORE]
        if len(whole) == 1:
            return whole[0]
        if len(before) == 1:
            return before[0]
        raise GcloudError(f"{service} has no revision with all the traffic: give it to one by hand")

    def image(self, kind: str, name: str) -> str:
        """Return the image of a worker pool or a job."""
        spec = self.describe(kind, name)["spec"]["template"]["spec"]
        return str(spec.get("template", {}).get("spec", spec)["containers"][0]["image"])

    def deploy(self, service: str, image: str, serving: str) -> str:
        """Make a revision without traffic that is ready and can be called by its tag; return its name."""
        self.run("run", "services", "update", service, f"--image={image}", "--no-traffic")
        revision = str(self.describe("services", service)["status"]["latestReadyRevisionName"])
        tags = f"{CANDIDATE}={revision},{BEFORE}={serving}"
        self.run("run", "services", "update-traffic", service, f"--update-tags={tags}")
        return revision

    def shift(self, service: str, old: str, new: str, percent: int) -> None:
        """Give the new revision its share of the traffic."""
        shares = f"{new}=100" if percent == 100 or old == new else f"{new}={percent},{old}={100 - percent}"
        self.run("run", "services", "update-traffic", service, f"--to-revisions={shares}")

    def replace(self, kind: str, name: str, image: str) -> None:
        """Give a worker pool or a job an image."""
        track = ["beta"] if kind == "worker-pools" else []
        self.run(*track, "run", kind, "update", name, f"--image={image}")
