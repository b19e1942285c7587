"""The structure of cloudbuild.yaml: what nobody may forget when changing it."""

import re
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).parents[2]
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
ORDER = ["install", "check", "test", "build", "scan", "migrate", "rollout", "release"]


@pytest.fixture(scope="module")
def build():
    return yaml.safe_load((REPOSITORY / "cloudbuild.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def scripts(build):
    return scripts_of(build)


@pytest.fixture(scope="module")
def promotion():
    return yaml.safe_load((REPOSITORY / "promote.cloudbuild.yaml").read_text(encoding="utf-8"))


def scripts_of(configuration):
    return {step["id"]: "\n".join(step["args"]) for step in configuration["steps"]}


def configured(file, name):
    """Keys of a map in Terraform's locals."""
    text = (REPOSITORY / "terraform" / file).read_text(encoding="utf-8")
    body = re.search(rf"^  {name} = \{{\n(.*?)^  \}}", text, re.MULTILINE | re.DOTALL)[1]
    return re.findall(r"^    (\w+) += \{", body, re.MULTILINE)


def test_every_image_is_named_by_its_digest(build, scripts):
    for step in build["steps"]:
        assert DIGEST.search(step["name"]), step["id"]
    assert "/moby/buildkit" in scripts["build"]
    for image in re.findall(r"image=(\S+/\S+)", scripts["build"]):
        assert DIGEST.search(image), image
    for name, script in scripts.items():
        for image in re.findall(r'image="(.+?)"(?:\n| |$)', script):
            assert "@$(.venv/bin/python deploy/digest.py" in image or image == "$$image", (name, image)
    dockerfile = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    assert ":latest" not in dockerfile


def test_no_image_is_pulled_from_docker_hub_itself(build, scripts, promotion):
    """Its limit counts addresses, and builds share theirs with everybody's."""
    for step in [*build["steps"], *promotion["steps"]]:
        assert step["name"].startswith(("${_HUB}/library/", "gcr.io/google.com/cloudsdktool/")), step["id"]
    assert "image=${_HUB}/moby/buildkit" in scripts["build"]
    assert "python=\"${_HUB}/library/$(sed -n 's/^ARG PYTHON=//p' Dockerfile)\"" in scripts["build"]
    assert '--build-arg "PYTHON=$$python"' in scripts["build"]
    registry = (REPOSITORY / "terraform/registry.tf").read_text(encoding="utf-8")
    assert 'public_repository = "DOCKER_HUB"' in registry


def test_each_image_that_is_built_is_scanned_before_it_runs(scripts):
    built, scanned = (re.findall(r"targets=\"?([\w ]+)", scripts[name]) for name in ("build", "scan"))
    assert scanned == built == ["services", "services sap_mock"]
    assert "grep -qx CRITICAL" in scripts["scan"].partition("for target in")[2].partition("done")[0]


def test_the_steps_follow_one_another(build):
    steps = {step["id"]: step for step in build["steps"]}
    assert [step for step in steps if step in ORDER] == ORDER
    # whatever is deployed has been checked, tested, scanned; and the schema is there before the code
    waits = {step: set(steps[step].get("waitFor", [])) for step in steps}
    assert waits["build"] == {"check", "test"}
    assert waits["scan"] == {"build"}
    assert waits["migrate"] == {"scan"}
    assert "migrate" in waits["rollout"]
    assert waits["release"] == {"rollout"}


def test_everything_that_terraform_runs_is_deployed(scripts):
    services = {name.replace("_", "-") for name in configured("services.tf", "services")}
    assert services == set(re.findall(r"--service=([\w-]+)", scripts["rollout"]))
    assert re.findall(r"--worker-pool=([\w-]+)", scripts["rollout"]) == ["dispatcher"]
    jobs = set(configured("jobs.tf", "jobs"))
    assert jobs - {"migrate"} == set(re.findall(r"--job=([\w-]+)", scripts["rollout"]))
    assert "jobs execute ${_PREFIX}-migrate" in scripts["migrate"]
    assert "${_PREFIX}-sap-mock" in scripts["sap_mock"]


def test_images_are_built_once_with_bill_of_materials(build, scripts, promotion):
    assert [name for name, script in scripts.items() if "buildx build" in script] == ["build"]
    assert "--sbom=generator=${_HUB}/docker/buildkit-syft-scanner" in scripts["build"]
    assert "--provenance=mode=max" in scripts["build"]
    assert "--cache-from" in scripts["build"]
    # nothing is built for production; what staging has run is copied by its digest, and compared
    assert not any("buildx build" in script for script in scripts_of(promotion).values())
    promote = scripts_of(promotion)["promote"]
    assert "released-${COMMIT_SHA}" in promote
    assert "released-${COMMIT_SHA}" in scripts["release"]
    assert re.search(r'imagetools create --tag "\$\$target" "\$\{_FROM\}/services@\$\$digest"', promote)
    assert '"$$copied" != "$$digest"' in promote


def test_no_provenance_is_asked_for_that_nothing_makes(build, promotion):
    """Cloud Build signs the provenance of what `images` names, and of nothing that a step has pushed."""
    for configuration in (build, promotion):
        if "images" not in configuration:
            assert "requestedVerifyOption" not in configuration["options"]


def test_layers_go_to_a_repository_whose_tags_may_move(scripts):
    registry = (REPOSITORY / "terraform/registry.tf").read_text(encoding="utf-8")
    immutable = set()
    for name, body in re.findall(
        r'resource "google_artifact_registry_repository" "(\w+)" \{\n(.*?)^\}',
        registry,
        re.MULTILINE | re.DOTALL,
    ):
        if "immutable_tags = true" in body:
            immutable.add(name)
    assert immutable == {"images"}
    [pushed] = re.findall(r'--cache-to "type=registry,ref=([^/]+)/', scripts["build"])
    trigger = (REPOSITORY / "terraform/build.tf").read_text(encoding="utf-8")
    variable = pushed.strip("${}")
    [repository] = re.findall(rf"{variable} +=.*google_artifact_registry_repository\.(\w+)\.", trigger)
    assert repository not in immutable
    assert "ignore-error=true" in scripts["build"]


def test_docker_speaks_what_cloud_builds_daemon_speaks(build, promotion):
    for step in [*build["steps"], *promotion["steps"]]:
        if "/docker:" in step["name"]:
            assert step["env"] == ["DOCKER_API_VERSION=1.41"], step["id"]


def test_production_is_migrated_and_deployed_as_staging_is(scripts, promotion):
    """The same words, but for the Python that runs them."""
    promoted = scripts_of(promotion)
    for step in ("scan", "migrate", "rollout"):
        assert promoted[step] == scripts[step].replace(".venv/bin/python", "python3"), step
    # a build that fails midway leaves nothing undone that SIGTERM could have undone
    assert "exec .venv/bin/python deploy/rollout.py" in scripts["rollout"]


def test_one_build_after_another_migrates_and_deploys(scripts):
    first, rest = scripts["migrate"].split("done\n", 1)
    assert "gcloud builds list --ongoing" in first
    assert '= "${BUILD_ID}"' in first
    assert "jobs execute" in rest


def test_no_secret_is_in_clear(build):
    text = (REPOSITORY / "cloudbuild.yaml").read_text(encoding="utf-8")
    assert "availableSecrets" not in build  # it needs none
    assert not re.search(r"(password|secret|token|key)\w*\s*[=:]\s*\S", text, re.IGNORECASE)
    for step in build["steps"]:
        for variable in step.get("env", []):
            assert variable.startswith(("UV_", "DOCKER_API_VERSION")), step["id"]


@pytest.mark.parametrize("file", ["cloudbuild.yaml", "promote.cloudbuild.yaml"])
def test_each_substitution_is_given_by_the_trigger(file):
    trigger = (REPOSITORY / "terraform/build.tf").read_text(encoding="utf-8")
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    used = set(re.findall(r"\$\{(_[A-Z_]+)\}", text))
    assert used == set(yaml.safe_load(text)["substitutions"])
    other = {"cloudbuild.yaml": "_FROM", "promote.cloudbuild.yaml": "_CACHE"}[file]
    assert used == set(re.findall(r"^ +(_[A-Z_]+) +=", trigger, re.MULTILINE)) - {other}


def test_a_dollar_that_is_the_shells_is_doubled(scripts, promotion):
    """Cloud Build takes $name for a substitution, and refuses a build with one that it does not know."""
    for name, script in [*scripts.items(), *scripts_of(promotion).items()]:
        single = re.findall(r"(?<!\$)\$(?!\$|\(|\{)(\w*)", script)
        assert single == [], name
        assert set(re.findall(r"(?<!\$)\$\{(\w+)\}", script)) <= {
            *("PROJECT_ID", "COMMIT_SHA", "BUILD_ID"),
            *("_API", "_CACHE", "_FROM", "_HUB", "_PREFIX", "_REGION", "_REGISTRY", "_WITH_SAP_MOCK"),
        }, name


def test_a_build_without_a_commit_is_named_all_the_same(scripts):
    """`gcloud builds submit` has no COMMIT_SHA; a tag may not begin with a dash."""
    [tag] = re.findall(r'--tag "\$\{_REGISTRY\}/\$\$target:([^"]+)"', scripts["build"])
    assert tag == "build-${BUILD_ID}"
    assert 'if [ -z "${COMMIT_SHA}" ]; then exit 0; fi' in scripts["release"]
