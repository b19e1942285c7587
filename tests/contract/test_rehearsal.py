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
    for asks in (False, True):
        text = script("staging", asks=asks)
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        assert text.count("read -r -p") == asks * len(SECTIONS)


def test_every_command_takes_project_and_region_from_the_settings():
    text = script("prod", asks=False)
    assert "export E=prod\n" in text
    assert "example-bridge" not in text
    names = text.partition("export E=prod\n")[2].partition("gcloud ")[0]
    done = subprocess.run(
        ["bash", "-euc", "export E=prod\n" + names + 'echo "$PROJECT $REGION $ISSUER"'],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "example-bridge-prod europe-west3 https://api.example.com\n"


@pytest.mark.parametrize("project", ["somebody-elses", "example.com:bridge"])
def test_a_project_that_the_settings_do_not_name_is_refused_before_anything_runs(project):
    done = subprocess.run(
        [sys.executable, "deploy/rehearsal.py", f"--project={project}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "terraform/environments/staging.tfvars has project_id = example-bridge-staging" in done.stderr
    assert "edit that file first" in done.stderr


def test_whoever_runs_it_leaves_nothing_to_pay_for():
    *_, last = in_script(script("staging", asks=False), "gcloud")
    assert last[:2] == ["projects", "delete"] or ["projects", "delete", "$PROJECT"] in list(
        in_script(sections()[-1].blocks[-1], "gcloud")
    )


def test_a_document_that_has_lost_its_section_is_noticed(monkeypatch):
    monkeypatch.setattr("deploy.rehearsal.SECTIONS", (("README.md", "No such section"),))
    with pytest.raises(ValueError, match="No such section"):
        sections()


def test_without_a_terminal_nothing_is_run():
    done = subprocess.run(
        [sys.executable, "deploy/rehearsal.py", "--project=example-bridge-prod", "--environment=prod"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode != 0
    assert "gcloud" not in done.stdout
