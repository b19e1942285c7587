"""checkov's rules for Google Cloud; each exception stands in the configuration, with its reason."""

import json
import re
import subprocess

import pytest
from terraform_stage import OFFLINE, REPOSITORY

pytestmark = pytest.mark.terraform

CHECKOV = OFFLINE / "checkov/bin/checkov"
TIMEOUT_SECONDS = 240
MIN_REASON_WORDS = 5


@pytest.fixture(scope="module")
def report(terraform_environment):
    if not CHECKOV.exists():
        pytest.skip("the tier terraform: no checkov: run `make terraform-fetch`")
    done = subprocess.run(
        [
            *(CHECKOV, "--directory", REPOSITORY / "terraform", "--framework", "terraform"),
            *("--var-file", REPOSITORY / "terraform/environments/prod.tfvars"),
            *("--skip-download", "--quiet", "--output", "json"),
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    return json.loads(done.stdout)


def test_checkov_has_nothing_to_say(report):
    failed = [
        f"{check['check_id']} {check['check_name']}: {check['resource']}"
        for check in report["results"]["failed_checks"]
    ]
    assert failed == []
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 50


def test_each_exception_says_why():
    skips = [
        match
        for path in (REPOSITORY / "terraform").rglob("*.tf")
        for match in re.findall(r"#checkov:skip=(\w+):?(.*)", path.read_text(encoding="utf-8"))
    ]
    assert skips
    for check, reason in skips:
        assert len(reason.split()) >= MIN_REASON_WORDS, check
