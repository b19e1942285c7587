"""terraform/README.md's way to the first partner's first payment, as it stands there, on the local stack.

The programs that need a project are stand-ins: `terraform output` tells the stack's addresses, and `gcloud`
keeps the secret that it is given. The operators' sign-in is left out: the local stack believes the name that
an operator gives.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from partner_run import PartnerRun

from deploy.canary_partner import CanaryPartner, Client
from devstack.layout import REPOSITORY

pytestmark = pytest.mark.e2e

LINES_SECONDS = 300
TERRAFORM = """#!/bin/bash
case "$*" in
  "output -raw api_url") echo -n "$STACK_API" ;;
  "output -raw partners_url") echo -n "$STACK_PARTNERS" ;;
  "output -raw backoffice_url") echo -n "$STACK_BACKOFFICE" ;;
  *) echo "not known here: terraform $*" >&2; exit 1 ;;
esac
"""
GCLOUD = """#!/bin/bash
case "$*" in
  "auth application-default login "*) ;;
  "secrets versions add canary-client --data-file=- --project=a-project") cat > "$KEPT" ;;
  *) echo "not known here: gcloud $*" >&2; exit 1 ;;
esac
"""


def blocks():
    text = (REPOSITORY / "terraform/README.md").read_text(encoding="utf-8")
    section = text.partition("## A way in, and the first payment\n")[2].partition("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def test_the_documents_lines_pay_and_give_the_pipeline_a_partner_that_can_pay(stack, tmp_path):
    for name, content in (("terraform", TERRAFORM), ("gcloud", GCLOUD)):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    kept = tmp_path / "canary-client"
    sign_in, first_payment, canary = blocks()
    sign_in, left_out = re.subn(r"^export BRIDGE_OPERATOR_CREDENTIALS=.*\n", "", sign_in, flags=re.MULTILINE)
    assert left_out == 1
    settled = "until bridge payments show $PAYMENT | grep -w paid > /dev/null; do sleep 0.5; done\n"
    done = subprocess.run(
        ["bash", "-c", "set -euo pipefail\n" + sign_in + first_payment + settled + canary],
        cwd=REPOSITORY / "terraform",
        env={
            "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "USER": "olga",
            "PROJECT": "a-project",
            "KEPT": str(kept),
            "STACK_API": stack.layout.api,
            "STACK_PARTNERS": stack.layout.url("partners"),
            "STACK_BACKOFFICE": stack.layout.url("backoffice"),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=LINES_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    partner = CanaryPartner(
        stack.layout.api,
        stack.layout.url("gateway"),
        Client.read(kept.read_text()),
        lambda: "none is checked here",
    )
    assert partner.pay(100, f"{time.time_ns()}") == (1, False)
    PartnerRun.on(stack).wait_until_drained()
