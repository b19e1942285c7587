"""The rehearsal has every step, in an order that works, and its commands are the documents'."""

import subprocess
import sys
from pathlib import Path

import pytest
from command_lines import in_script

from deploy.rehearsal import SECTIONS, script, sections

pytestmark = pytest.mark.contract

REPOSITORY = Path(__file__).parents[2]
# what has to have happened before what
ORDER = (
    "terraform apply $PLAN -target=terraform_data.foundation",
    "gcloud run jobs execute bridge-migrate",
    "bridge partners create",
    "$BRIDGE_API_URL/v1/payments",
    "gcloud builds submit",
    "gcloud builds cancel",
    "gcloud sql backups restore",
    "bridge recover",
    "gcloud projects delete",
)


def test_make_prints_the_whole_way():
    done = subprocess.run(
        ["make", "--no-print-directory", "cloud-rehearsal"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    places = [done.stdout.index(words) for words in ORDER]
    assert places == sorted(places)
    assert [section.title for section in sections()] == [title for _, title in SECTIONS]


def test_it_is_one_script_that_a_shell_can_read():
    for project in (None, "rehearsal-4711"):
        subprocess.run(
            ["bash", "-n"], input=script("staging", project, "europe-west3"), text=True, check=True
        )


def test_a_given_project_is_the_one_that_is_used():
    text = script("staging", "rehearsal-4711", "europe-west4")
    assert "export E=staging PROJECT=rehearsal-4711 REGION=europe-west4" in text
    assert "example-bridge-staging" not in text
    assert text.count("read -r -p") == len(SECTIONS)


def test_whoever_runs_it_leaves_nothing_to_pay_for():
    *_, last = in_script(script(None, None, "europe-west3"), "gcloud")
    assert last[:2] == ["projects", "delete"] or ["projects", "delete", "$PROJECT"] in list(
        in_script(sections()[-1].blocks[-1], "gcloud")
    )


def test_a_document_that_has_lost_its_section_is_noticed(monkeypatch):
    monkeypatch.setattr("deploy.rehearsal.SECTIONS", (("README.md", "No such section"),))
    with pytest.raises(ValueError, match="No such section"):
        sections()


def test_without_a_terminal_nothing_is_run():
    done = subprocess.run(
        [sys.executable, "deploy/rehearsal.py", "--project=nobody", "--environment=prod"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode != 0
    assert "gcloud" not in done.stdout
