"""The rules of hadolint that matter here, and what Cloud Run asks of an image."""

import re
from pathlib import Path

import pytest

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


def test_each_stage_has_a_name_and_each_base_a_version(stages):
    assert None not in stages
    for name, instructions in stages.items():
        base = instructions[0][1]
        assert base in stages or re.fullmatch(
            r"python:\$\{PYTHON_VERSION\}-slim|.+:[\w.-]+@sha256:\w{64}", base
        ), name
    text = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^ARG PYTHON_VERSION=3\.\d+$", text, re.MULTILINE)


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
