"""The README's example in Python, as it stands there: a client that nobody here wrote pays."""

import re
import subprocess
import sys

import pytest
from partner_run import PartnerRun
from waiting import DEADLINE_SECONDS

from devstack.layout import REPOSITORY

pytestmark = pytest.mark.e2e


def test_the_example_gets_a_token_and_pays(stack, tmp_path):
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    (tmp_path / ".devstack").symlink_to(stack.layout.state_folder)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    status, payment_id = done.stdout.split()
    assert status == "202"
    assert stack.payment(stack.token(), payment_id)["external_id"] == "INV-2026-0002"
    PartnerRun.on(stack).wait_until_drained()
