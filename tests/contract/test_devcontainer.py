"""The dev container brings what the Makefile and the local stack look for."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import DEADLINE_SECONDS

from devstack.emulators import MIN_JAVA_VERSION
from devstack.layout import PORTS

pytestmark = pytest.mark.contract

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / ".devcontainer"
# Debian's packages are as old as the image's release: a version would only stop it from being built
ALLOWED = {"DL3008"}


@pytest.fixture(scope="module")
def container():
    text = (FOLDER / "devcontainer.json").read_text(encoding="utf-8")
    return json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))


@pytest.fixture(scope="module")
def dockerfile(container):
    return (FOLDER / container["build"]["dockerfile"]).read_text(encoding="utf-8")


def test_it_runs_a_target_that_the_makefile_has(container):
    _make, target = container["postCreateCommand"].split()
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_it_forwards_ports_of_the_stack(container):
    assert set(container["forwardPorts"]) <= set(PORTS.values())
    assert set(container["portsAttributes"]) == set(map(str, container["forwardPorts"]))


def test_its_java_is_new_enough_and_its_python_makes_environments(dockerfile):
    (java,) = re.findall(r"openjdk-(\d+)-jre-headless", dockerfile)
    assert int(java) >= MIN_JAVA_VERSION
    assert {"make", "npm", "python3-venv"} <= set(dockerfile.split())


def test_hadolint_has_nothing_else_to_say(dockerfile):
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("there is no hadolint for this platform")
    done = subprocess.run(
        [program, "--no-fail", "--format=json", "--trusted-registry=gcr.io", "-"],
        input=dockerfile,
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_SECONDS,
    )
    assert {found["code"] for found in json.loads(done.stdout)} <= ALLOWED
