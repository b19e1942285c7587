"""Whoever runs a gcloud command may: the deployer in the pipeline, and the person whom a runbook tells to."""

import re

import deployer_permissions as table
import pytest
from command_lines import in_build, in_markdown
from terraform_stage import REPOSITORY

pytestmark = pytest.mark.contract

RUNBOOKS = REPOSITORY / "docs/runbooks"


@pytest.mark.parametrize("file", ["cloudbuild.yaml", "promote.cloudbuild.yaml"])
def test_the_deployer_may_run_every_command_of_the_pipeline(file):
    commands = list(in_build(REPOSITORY / file, "gcloud"))
    assert commands
    assert table.missing(commands) == {}


def test_the_deployer_may_do_nothing_to_iam_and_delete_nothing():
    text = (REPOSITORY / "terraform/build.tf").read_text(encoding="utf-8")
    for role in re.findall(r'"(roles/[\w.]+)"', text):
        assert role in table.ROLES, role
        assert not role.endswith(("owner", "editor")), role
    for permission, _ in table.granted():
        assert not re.search(r"\.(delete|setIamPolicy)$", permission), permission


def test_a_command_without_a_grant_is_noticed():
    # what failed each deployment once: a gateway is described by a permission on the gateway
    assert table.missing([["api-gateway", "gateways", "describe", "bridge"]])
    assert "run services update" not in table.missing([["run", "services", "update", "bridge-gateway"]])


def rows():
    text = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| `gcloud ([^`]+)` \| `(roles/[\w.]+)`", text, re.MULTILINE))


def test_each_command_of_a_runbook_has_a_role():
    known = rows()
    assert known
    lacking = set()
    for path in (*RUNBOOKS.glob("*.md"), REPOSITORY / "docs/operators.md", REPOSITORY / "docs/key-rings.md"):
        for words in in_markdown(path, "gcloud"):
            command = " ".join(word for word in words if word not in ("alpha", "beta"))
            if words and words[0] != "auth" and not any(command.startswith(name) for name in known):
                lacking.add(command)
    assert lacking == set()


def test_no_row_is_for_nothing():
    used = [
        " ".join(word for word in words if word not in ("alpha", "beta"))
        for path in RUNBOOKS.glob("*.md")
        for words in in_markdown(path, "gcloud")
    ] + [" ".join(words) for words in in_markdown(REPOSITORY / "docs/key-rings.md", "gcloud")]
    for name in rows():
        # the table's own row is one
        assert sum(command.startswith(name) for command in used) > 1, name
