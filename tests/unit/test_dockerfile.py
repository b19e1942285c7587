"""hadolint has nothing to say of the Dockerfile; nor have we, of what it knows no rule for."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import DEADLINE_SECONDS

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def stages():
    """Name of each stage: its instructions, continued lines joined and comments left out."""
    text = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found, current = {}, None
    for line in filter(None, joined.splitlines()):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            image, _, current = rest.partition(" AS ")
            found[current] = [("FROM", image)]
        elif current:
            found[current].append((instruction, rest))
    return found


def ancestry(stages, name):
    """A stage's instructions, after those of the stages that it is built from."""
    base = stages[name][0][1]
    return (ancestry(stages, base) if base in stages else []) + stages[name][1:]


def hadolint(text):
    """Everything that it says: {(rule, line)}; the strictest threshold, and only one registry is trusted."""
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("there is no hadolint for this platform")
    done = subprocess.run(
        [program, "--no-fail", "--format=json", "--trusted-registry=docker.io", "--strict-labels", "-"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_SECONDS,
    )
    return {(found["code"], found["line"]) for found in json.loads(done.stdout)}


def test_hadolint_has_nothing_to_say():
    text = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    assert hadolint(text) == set()
    # an exception would have to stand here too, with its reason
    assert "hadolint ignore" not in text


MISTAKES = {
    "DL3002": ("USER 10001", "USER root"),
    "DL3007": ("FROM ${PYTHON} AS base", "FROM python:latest AS base"),
    "DL3006": ("FROM ${PYTHON} AS base", "FROM python AS base"),
    "DL3000": ("WORKDIR /build", "WORKDIR build"),
    "DL3020": ("COPY cli cli", "ADD cli cli"),
    "DL3022": ("COPY --from=build-services ", "COPY --from=build-everything "),
    "DL3025": ('CMD ["gateway"]', "CMD gateway"),
    "DL3026": ("FROM ${PYTHON} AS base", "FROM elsewhere.invalid/python:3.13-slim AS base"),
    "DL4000": ("USER 10001", "MAINTAINER us"),
    "DL4003": ('CMD ["gateway"]', 'CMD ["gateway"]\nCMD ["webhooks"]'),
}


@pytest.mark.parametrize("rule", MISTAKES)
def test_hadolint_would_say_it(rule):
    old, new = MISTAKES[rule]
    text = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    assert old in text
    assert rule in {code for code, _ in hadolint(text.replace(old, new))}


def test_each_stage_has_a_name_and_one_base_that_nobody_can_move(stages):
    assert None not in stages
    for name, instructions in stages.items():
        assert instructions[0][1] in {"${PYTHON}", *stages}, name
    text = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    [base] = re.findall(r"^ARG PYTHON=(\S+)$", text, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+-slim@sha256:[0-9a-f]{64}", base)
    # what is tested is what is deployed: the pipeline's Python is the image's
    assert f"name: ${{_HUB}}/library/{base}\n" in (REPOSITORY / "cloudbuild.yaml").read_text(encoding="utf-8")


def test_the_cache_of_packages_is_no_layer(stages):
    for name in ("build-services", "build-sap-mock"):
        assert any("PIP_NO_CACHE_DIR=1" in rest for kind, rest in ancestry(stages, name) if kind == "ENV")


@pytest.mark.parametrize("target", ["services", "sap_mock"])
def test_it_runs_as_nobody_in_particular_and_hears_signals(stages, target):
    instructions = ancestry(stages, target)
    assert [user for kind, user in instructions if kind == "USER"][-1] == "10001"
    for kind, rest in instructions:
        if kind in ("ENTRYPOINT", "CMD"):
            assert rest.startswith("["), f"{kind} in shell form: the shell would get the signal"


@pytest.mark.parametrize("target", ["services", "sap_mock"])
def test_it_listens_to_the_platform(stages, target):
    variables = " ".join(rest for kind, rest in ancestry(stages, target) if kind == "ENV")
    assert "HOST=0.0.0.0" in variables
    # Cloud Run gives PORT
    assert "PORT=" not in variables.replace("SUPPORT", "")


def test_packages_are_installed_by_hash_and_nothing_is_fetched_besides(stages):
    for name, instructions in stages.items():
        for kind, rest in instructions:
            if kind == "ADD":
                pytest.fail(f"{name}: COPY says what is copied, ADD also fetches and unpacks")
            if kind == "RUN" and "pip install" in rest:
                assert "--require-hashes" in rest, name
                assert "--only-binary :all:" in rest, name
            assert not (kind == "RUN" and re.search(r"\b(sudo|curl|wget|ssh|apt-get upgrade)\b", rest)), name
            assert not (kind in ("ENV", "ARG") and re.search(r"PASSWORD|SECRET|TOKEN|_KEY", rest)), name
            if kind == "WORKDIR":
                assert rest.startswith("/"), name


def test_the_build_sees_only_what_it_copies(stages):
    ignored = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").split()
    assert ignored[0] == "**"
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = {
        source
        for instructions in stages.values()
        for kind, rest in instructions
        if kind == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    }
    assert copied == allowed


def test_the_final_images_hold_no_build_tools(stages):
    for target in ("services", "sap_mock"):
        for kind, rest in stages[target][1:]:
            assert kind != "RUN", rest
