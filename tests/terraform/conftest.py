import os
import shutil

import pytest
from terraform_provider.mirror import install
from terraform_stage import ENVIRONMENTS, OFFLINE, Terraform, copy_configuration


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
    shutil.copytree(initialized.folder.parent, tmp_path, dirs_exist_ok=True, symlinks=True)
    return Terraform(tmp_path / "terraform", terraform_environment)


@pytest.fixture(scope="session")
def applied_environments(terraform_environment, tmp_path_factory):
    resources = {}
    for environment in ENVIRONMENTS:
        folder = copy_configuration(tmp_path_factory.mktemp(environment))
        terraform = Terraform(folder, terraform_environment)
        terraform.run("init", "-input=false")
        resources[environment] = terraform.apply(environment)
    return resources


@pytest.fixture(params=ENVIRONMENTS)
def environment(request):
    return request.param


@pytest.fixture
def applied(applied_environments, environment):
    return applied_environments[environment]
