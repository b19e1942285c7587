"""The structure of cloudbuild.yaml: what nobody may forget when changing it."""

import re
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).parents[2]
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
ORDER = ["install", "check", "test", "build", "scan", "migrate", "rollout", "prune"]


@pytest.fixture(scope="module")
def build():
    return yaml.safe_load((REPOSITORY / "cloudbuild.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def scripts(build):
    return {step["id"]: "\n".join(step["args"]) for step in build["steps"]}


def configured(file, name):
    """Keys of a map in Terraform's locals."""
    text = (REPOSITORY / "terraform" / file).read_text(encoding="utf-8")
    body = re.search(rf"^  {name} = \{{\n(.*?)^  \}}", text, re.MULTILINE | re.DOTALL)[1]
    return re.findall(r"^    (\w+) += \{", body, re.MULTILINE)


def test_every_image_is_named_by_its_digest(build, scripts):
    for step in build["steps"]:
        assert DIGEST.search(step["name"]), step["id"]
    assert "image=moby/buildkit" in scripts["build"]
    for image in re.findall(r"image=(\S+/\S+)", scripts["build"]):
        assert DIGEST.search(image), image
    for name, script in scripts.items():
        for image in re.findall(r'image="(.+?)"(?:\n| |$)', script):
            assert "@$(.venv/bin/python deploy/digest.py" in image or image == "$$image", (name, image)
    dockerfile = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    assert ":latest" not in dockerfile


def test_the_steps_follow_one_another(build):
    steps = {step["id"]: step for step in build["steps"]}
    assert [step for step in steps if step in ORDER] == ORDER
    # whatever is deployed has been checked, tested, scanned; and the schema is there before the code
    waits = {step: set(steps[step].get("waitFor", [])) for step in steps}
    assert waits["build"] == {"check", "test"}
    assert waits["scan"] == {"build"}
    assert waits["migrate"] == {"scan"}
    assert "migrate" in waits["rollout"]
    assert waits["prune"] == {"rollout"}


def test_everything_that_terraform_runs_is_deployed(scripts):
    services = {name.replace("_", "-") for name in configured("services.tf", "services")}
    assert services == set(re.findall(r"--service=([\w-]+)", scripts["rollout"]))
    assert re.findall(r"--worker-pool=([\w-]+)", scripts["rollout"]) == ["dispatcher"]
    jobs = set(configured("jobs.tf", "jobs"))
    assert jobs - {"migrate"} == set(re.findall(r"--job=([\w-]+)", scripts["rollout"]))
    assert "jobs execute ${_PREFIX}-migrate" in scripts["migrate"]
    assert "${_PREFIX}-sap-mock" in scripts["sap_mock"]


def test_images_are_built_once_with_bill_of_materials_and_provenance(build, scripts):
    assert [name for name, script in scripts.items() if "buildx build" in script] == ["build"]
    assert "--sbom=true --provenance=mode=max" in scripts["build"]
    assert "--cache-from" in scripts["build"]
    assert build["options"]["requestedVerifyOption"] == "VERIFIED"


def test_no_secret_is_in_clear(build):
    text = (REPOSITORY / "cloudbuild.yaml").read_text(encoding="utf-8")
    assert "availableSecrets" not in build  # it needs none
    assert not re.search(r"(password|secret|token|key)\w*\s*[=:]\s*\S", text, re.IGNORECASE)
    for step in build["steps"]:
        for variable in step.get("env", []):
            assert variable.startswith("UV_"), step["id"]


def test_each_substitution_is_given_by_the_trigger(build):
    trigger = (REPOSITORY / "terraform/build.tf").read_text(encoding="utf-8")
    text = (REPOSITORY / "cloudbuild.yaml").read_text(encoding="utf-8")
    used = set(re.findall(r"\$\{(_[A-Z_]+)\}", text))
    assert used == set(build["substitutions"])
    assert used == set(re.findall(r"^ +(_[A-Z_]+) +=", trigger, re.MULTILINE))


def test_a_dollar_that_is_the_shells_is_doubled(scripts):
    """Cloud Build takes $name for a substitution, and refuses a build with one that it does not know."""
    for name, script in scripts.items():
        single = re.findall(r"(?<!\$)\$(?!\$|\(|\{)(\w*)", script)
        assert single == [], name
        assert set(re.findall(r"(?<!\$)\$\{(\w+)\}", script)) <= {
            *("PROJECT_ID", "COMMIT_SHA", "BUILD_ID"),
            *("_API", "_API_REGION", "_PREFIX", "_REGION", "_REGISTRY", "_WITH_SAP_MOCK"),
        }, name
