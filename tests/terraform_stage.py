"""The Terraform configuration against the real schemas, without a network: tests/terraform_provider.

`Terraform.apply` returns what an environment would consist of, its computed values made up.
"""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
OFFLINE = REPOSITORY / ".terraform-offline"
ENVIRONMENTS = ("staging", "prod")
COMMAND_TIMEOUT_SECONDS = 600
DIGEST = "sha256:" + "a1" * 32
IMAGES = {"services_image": f"registry.invalid/bridge/services@{DIGEST}"}
MOCK_IMAGE = {"sap_mock_image": f"registry.invalid/bridge/sap_mock@{DIGEST}"}


@dataclass(frozen=True)
class Resource:
    """`values` are the arguments and computed attributes; blocks are lists."""

    address: str
    type: str
    key: str
    values: dict


class Terraform:
    """One copy of the configuration, to break and to run."""

    def __init__(self, folder, environment):
        self.folder = folder
        self._environment = environment

    def run(self, *arguments, fails=False):
        done = subprocess.run(
            ["terraform", *arguments, "-no-color"],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_SECONDS,
            check=False,
        )
        said = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, said
        return said

    def replace(self, file, old, new):
        """Change the copy; what is to be replaced has to be there."""
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{file} does not contain {old!r}"
        path.write_text(text.replace(old, new), encoding="utf-8")

    def plan(self, environment, *, fails=False, **variables):
        return self.run(*_plan(environment, variables), fails=fails)

    def apply(self, environment):
        """Apply, and return all resources."""
        self.run("apply", "-auto-approve", *_plan(environment, {})[1:])
        state = json.loads(self.run("show", "-json").strip())
        return list(_resources(state["values"]["root_module"]))


def _plan(environment, variables):
    images = IMAGES | (MOCK_IMAGE if environment == "staging" else {})
    given = [f"-var={name}={value}" for name, value in (images | variables).items()]
    return ["plan", "-input=false", "-refresh=false", f"-var-file=environments/{environment}.tfvars", *given]


def _resources(module):
    for resource in module.get("resources", []):
        if resource["mode"] == "managed":
            key = str(resource.get("index", resource["name"]))
            yield Resource(resource["address"], resource["type"], key, resource["values"])
    for child in module.get("child_modules", []):
        yield from _resources(child)


def copy_configuration(folder):
    """The configuration with a local state: a plan without credentials can't ask a bucket."""
    ignored = shutil.ignore_patterns(".terraform*", "*.tfstate*")
    shutil.copytree(REPOSITORY / "terraform", folder / "terraform", ignore=ignored)
    # read by the configuration
    (folder / "bridge").mkdir()
    shutil.copy(REPOSITORY / "bridge/metrics.json", folder / "bridge")
    (folder / "terraform/backend_override.tf").write_text('terraform {\n  backend "local" {}\n}\n')
    return folder / "terraform"


def copy_of(initialized, folder, environment):
    """A copy of an initialized configuration, to break or to apply."""
    shutil.copytree(initialized.folder.parent, folder, dirs_exist_ok=True, symlinks=True)
    return Terraform(folder / "terraform", environment)
