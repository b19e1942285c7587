"""How the virtual environment is made: what uv is given, and what an earlier try has left."""

import subprocess
import sys
from pathlib import Path

import pytest

from devstack import install

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).parents[2]
LISTED = """\
:env:.find-links='/wheels'
:env:.index-url='https://env.invalid/simple'
global.extra-index-url='https://one.invalid/simple\\nhttps://two.invalid/simple'
global.index-url='https://global.invalid/simple'
install.index-url='https://install.invalid/simple'
download.index-url='https://download.invalid/simple'
global.cert='/certificates.pem'
"""


def test_uv_gets_what_pip_is_configured_with():
    settings = install.read_settings(LISTED)
    assert install.uv_environment(settings, {"PATH": "/bin"}) == {
        "PATH": "/bin",
        "UV_DEFAULT_INDEX": "https://env.invalid/simple",
        "UV_INDEX": "https://one.invalid/simple https://two.invalid/simple",
        "UV_FIND_LINKS": "/wheels",
        "SSL_CERT_FILE": "/certificates.pem",
    }


def test_the_install_section_overrules_the_global_one():
    without_environment = "\n".join(line for line in LISTED.splitlines() if not line.startswith(":env:"))
    assert install.read_settings(without_environment)["index-url"] == "https://install.invalid/simple"


def test_what_is_set_for_uv_itself_stays():
    environ = {"UV_DEFAULT_INDEX": "https://own.invalid/simple"}
    told = install.uv_environment(install.read_settings(LISTED), environ)
    assert told["UV_DEFAULT_INDEX"] == environ["UV_DEFAULT_INDEX"]


def test_uv_is_installed_by_its_hashes():
    pinned = install.requirement("uv", install.REQUIREMENTS.read_text())
    first, *hashes = pinned.split("\\\n")
    assert first.startswith("uv==")
    assert hashes
    assert all(line.strip().startswith("--hash=sha256:") for line in hashes)


@pytest.mark.parametrize("left", ["an interrupted try", "another Python", "a Python that is gone"])
def test_an_environment_that_is_not_whole_is_made_from_scratch(tmp_path, monkeypatch, left):
    made = []
    monkeypatch.setattr(install.venv, "create", lambda folder, **options: made.append((folder, options)))
    python = tmp_path / "bin" / "python"
    if left != "a Python that is gone":
        python.parent.mkdir()
        version = "3 10" if left == "another Python" else " ".join(map(str, sys.version_info[:2]))
        python.write_text(f"#!/bin/sh\necho {version}\n")
        python.chmod(0o755)
    if left != "an interrupted try":
        (tmp_path / install.STAMP).touch()
    install.prepare_environment(tmp_path)
    assert made == [(tmp_path, {"clear": True, "with_pip": True})]
    assert not (tmp_path / install.STAMP).exists()


def test_a_whole_environment_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(install.venv, "create", lambda *_arguments, **_options: pytest.fail("it was remade"))
    (tmp_path / install.STAMP).touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    assert install.prepare_environment(tmp_path) == tmp_path / "bin" / "python"


@pytest.mark.parametrize(
    ("version", "named"), [("3, 10", "is 3.10"), ("2, 7", "is 2.7"), (None, "is not there")]
)
def test_a_python_that_is_too_old_or_missing_is_one_line_before_anything_is_made(tmp_path, version, named):
    program = tmp_path / "oldpython"
    if version is not None:
        # answers the Makefile's question as that version would
        program.write_text(
            f"#!{sys.executable}\nimport sys\nsys.version_info = ({version}, 1)\nexec(sys.argv[2])\n"
        )
        program.chmod(0o755)
    done = subprocess.run(
        ["make", "--silent", "install", f"PYTHON={program}", f"VENV={tmp_path / 'venv'}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    first, *rest = done.stderr.splitlines()
    assert done.returncode != 0
    assert first.startswith("Python 3.11 or newer is needed")
    assert named in first
    assert all(line.startswith("make: ***") for line in rest)
    assert not (tmp_path / "venv").exists()
