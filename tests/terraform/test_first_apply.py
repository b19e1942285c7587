"""Somebody with an empty project and terraform/README.md gets everything, and no step needs a later one."""

import re
import subprocess

import first_apply
import pytest
from terraform_stage import REPOSITORY

pytestmark = [pytest.mark.terraform, pytest.mark.timeout(1000)]

README = first_apply.README.read_text(encoding="utf-8")


def test_the_readmes_commands_as_they_stand_make_everything(
    environment, applied, terraform_environment, tmp_path
):
    made = first_apply.replay(environment, tmp_path, terraform_environment)
    assert len(made) == len(applied)
    assert {kind for kind, *_ in made} == {resource.type for resource in applied}


def test_it_is_two_targets_and_one_apply_of_all():
    assert first_apply.blocks(), "the README has no commands that could be replayed"
    commands = re.findall(r"^terraform apply (.*)$", "".join(first_apply.blocks()), re.MULTILINE)
    assert commands == [
        "$PLAN -target=terraform_data.foundation",
        "$PLAN -target=google_cloud_run_v2_job.this",
        "$PLAN",
    ]


def test_what_terraform_needs_to_enable_an_api_is_enabled_before_it_and_listed():
    services = (REPOSITORY / "terraform/project-services.tf").read_text(encoding="utf-8")
    enabled = " ".join(re.findall(r"^gcloud services enable (.*) --project", README, re.MULTILINE)).split()
    for service in ("cloudresourcemanager.googleapis.com", "serviceusage.googleapis.com"):
        assert service in enabled
        assert f'"{service}"' in services
    assert README.index("gcloud services enable") < README.index("terraform init")


def test_the_organisation_policies_that_stand_in_the_way_are_named_before_the_start():
    before = README.partition("**1. The project**")[0]
    for policy in (
        "iam.allowedPolicyMemberDomains",
        "storage.publicAccessPrevention",
        "run.managed.requireInvokerIam",
        "roles/billing.costsManager",
    ):
        assert policy in before


def test_without_images_the_services_say_which_step_makes_them(initialized):
    said = " ".join(
        initialized.run(
            "plan",
            "-input=false",
            "-refresh=false",
            "-var-file=environments/staging.tfvars",
            fails=True,
        )
        .replace("│", " ")
        .split()
    )
    assert "There is no image yet: give services_image" in said


@pytest.mark.parametrize("name", ["sap-connections", "fingerprint-key"])
def test_private_keys_stay_out_of_the_repository(name):
    ignored = subprocess.run(
        ["git", "check-ignore", f"terraform/keys/secrets/{name}"],
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
    )
    assert ignored.returncode == 0
