"""What each gcloud command of the pipeline needs, and what the deployer's roles give it.

Permissions as Google lists them for each command's API call and each role
(cloud.google.com/iam/docs/roles-permissions), of the roles only what is needed here.
"""

import re

from terraform_stage import REPOSITORY

TERRAFORM = REPOSITORY / "terraform"
# what a permission is asked of, and who may be given it there: the type of the binding
SCOPES = {
    "google_project_iam_member": "project",
    "google_cloud_run_v2_service_iam_binding": "service",
    "google_cloud_run_v2_job_iam_binding": "job",
    "google_cloud_run_v2_worker_pool_iam_binding": "worker pool",
    "google_service_account_iam_binding": "account",
    "google_artifact_registry_repository_iam_binding": "repository",
    "google_secret_manager_secret_iam_binding": "secret",
}
_DEVELOPER = ("get", "update")
ROLES = {
    # production's deployer, in staging
    "roles/artifactregistry.reader": {"artifactregistry.repositories.downloadArtifacts"},
    "roles/artifactregistry.writer": {
        "artifactregistry.repositories.downloadArtifacts",
        "artifactregistry.repositories.uploadArtifacts",
    },
    "roles/cloudbuild.builds.viewer": {"cloudbuild.builds.list"},
    "roles/iam.serviceAccountOpenIdTokenCreator": {"iam.serviceAccounts.getOpenIdToken"},
    "roles/iam.serviceAccountUser": {"iam.serviceAccounts.actAs"},
    "roles/logging.logWriter": {"logging.logEntries.create"},
    "roles/monitoring.viewer": {"monitoring.timeSeries.list"},
    "roles/ondemandscanning.admin": {
        "ondemandscanning.scans.analyzePackages",
        "ondemandscanning.scans.listVulnerabilities",
        "ondemandscanning.operations.get",
    },
    "roles/run.developer": {
        *(f"run.{kind}.{verb}" for kind in ("services", "jobs", "workerpools") for verb in _DEVELOPER),
        "run.jobs.run",
    },
    "roles/run.viewer": {"run.operations.get", "run.executions.get", "run.services.list"},
    "roles/secretmanager.secretAccessor": {"secretmanager.versions.access"},
}
_PULL = ("artifactregistry.repositories.downloadArtifacts", "repository")
_ACT = ("iam.serviceAccounts.actAs", "account")
COMMANDS = {
    "auth print-access-token": set(),
    "auth print-identity-token": {("iam.serviceAccounts.getOpenIdToken", "account")},
    "artifacts docker images scan": {
        _PULL,
        ("ondemandscanning.scans.analyzePackages", "project"),
        ("ondemandscanning.operations.get", "project"),
    },
    "artifacts docker images list-vulnerabilities": {
        ("ondemandscanning.scans.listVulnerabilities", "project")
    },
    "builds list": {("cloudbuild.builds.list", "project")},
    "run jobs describe": {("run.jobs.get", "job")},
    "run jobs update": {("run.jobs.get", "job"), ("run.jobs.update", "job"), _ACT, _PULL},
    # --wait reads the execution
    "run jobs execute": {("run.jobs.run", "job"), ("run.executions.get", "project")},
    "run services describe": {("run.services.get", "service")},
    "run services update": {("run.services.get", "service"), ("run.services.update", "service"), _ACT, _PULL},
    "run services update-traffic": {("run.services.get", "service"), ("run.services.update", "service")},
    "run worker-pools describe": {("run.workerpools.get", "worker pool")},
    # v2: polls an operation, which is the location's
    "run worker-pools update": {
        ("run.workerpools.get", "worker pool"),
        ("run.workerpools.update", "worker pool"),
        ("run.operations.get", "project"),
        _ACT,
        _PULL,
    },
    "secrets versions access": {("secretmanager.versions.access", "secret")},
}
_RESOURCE = re.compile(r'^resource "(\w+)" "\w+" \{\n(.*?)^\}', re.MULTILINE | re.DOTALL)


def command_of(words):
    """The command that words begin with; the track is not part of it."""
    words = [word for word in words if word not in ("alpha", "beta")]
    for length in range(len(words), 0, -1):
        name = " ".join(words[:length])
        if name in COMMANDS:
            return name
    return None


def granted():
    """What the deployer may: (permission, what it is asked of)."""
    found = set()
    for path in TERRAFORM.glob("*.tf"):
        for kind, body in _RESOURCE.findall(path.read_text(encoding="utf-8")):
            if "google_service_account.deployer.member" in body and kind in SCOPES:
                for role in re.findall(r'"(roles/[\w.]+)"', body):
                    found |= {(permission, SCOPES[kind]) for permission in ROLES[role]}
    return found


def missing(commands):
    """What the deployer lacks for these commands: {command: what it needs and may not}."""
    allowed = granted()
    lacking = {}
    for words in commands:
        name = command_of(words)
        if name is None:
            lacking[" ".join(words)] = "no row in the table of permissions"
        elif COMMANDS[name] - allowed:
            lacking[name] = COMMANDS[name] - allowed
    return lacking
